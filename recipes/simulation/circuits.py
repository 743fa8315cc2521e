"""Simulated claims about circuits."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from pytest_mechanism.claims.context import FoundCircuit
from pytest_mechanism.claims.curve import DRAWS, PERCENT, Curve
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.cells import Cell
from pytest_mechanism.measurements.cmap import HeadCode
from pytest_mechanism.statistics import dependence
from recipes.simulation.setting import GROUPS, SEARCH, Simulated
from recipes.simulation.world import SIZE, Answers, Columns, World

FULL, EMPTY, CHANCE = 0.9, 0.05, 1 / 7
"""Accuracy of the model, of the model with every head ablated, and of guessing."""


def solves(world: World, right: float = FULL) -> Columns:
    return {
        "correct": world.ones(right, "full"),
        "log_probability": world.nats(-0.5, 0.3, "full"),
    }


def accuracy(world: World, truth: float) -> Answers:
    return {"Performance": {"correct": world.ones(truth, "full")}}


def by_cell(world: World, truth: float) -> Answers:
    """Six cells that share the rows; one has the truth and the others more."""
    cells = tuple(Cell("label", str(k), tuple(range(k, world.rows, 6))) for k in range(6))
    right = world.ones(max(truth, 0.97), "full")
    worst = list(cells[0].rows)
    right[worst] = world.ones(truth, "full")[worst]
    return {"CellPerformance": {"correct": right, "cells": cells}}


def read(world: World, truth: float) -> Answers:
    """Lines of 20 tokens, some of which are read more differently than others: the divergence is log-normal."""
    sums = {
        "divergence": truth * np.exp(0.6 * world.tied("lines") - 0.18),
        "surprise_from": world.nats(2.0, 0.3, "base"),
        "surprise_to": world.nats(2.0, 0.3, "ft"),
        "free_divergence": world.nats(1.5, 0.2, "free"),
        "free_surprise": world.nats(4.0, 0.3, "frequencies"),
        "uniform": world.nats(5.0, 0.0),
    }
    columns = {name: 20.0 * each for name, each in sums.items()}
    counts = {"predictions": np.full(world.rows, 20.0), "unknown": np.zeros(world.rows)}
    return {"TextDivergence": columns | counts}


def grafted(world: World, truth: float) -> Answers:
    """Head 2.1 holds the truth of a divergence that is log-normal from row to row, an MLP a tenth; what a graft leaves
    of a row differs from row to row as well."""
    before = 0.02 * np.exp(0.6 * world.tied("rows") - 0.18)
    left = {
        name: before * (1 - held) * np.exp(0.3 * world.normal(f"left by {name}"))
        for name, held in (("2.1", truth), ("1.mlp", 0.1))
    }
    columns = {"before": before, "predictions": np.ones(world.rows), **left}
    return {"Performance": {"correct": world.ones(0.95)}, "GraftDivergence": columns}


def two_models(world: World, truth: float) -> Answers:
    """ft is better than base by the truth."""
    return {
        "Performance": lambda _, on: {
            "correct": world.ones(0.8 + (truth if on == "ft" else 0.0), on),
            "log_probability": world.nats(-0.5 + (truth if on == "ft" else 0.0), 0.3, on),
            "logit_difference": world.nats(2.0 + (truth if on == "ft" else 0.0), 1.5, on),
        }
    }


def same_codes() -> tuple[HeadCode, ...]:
    """No head changed its place between the models."""
    return tuple(
        HeadCode(layer, head, group.at, 1.0)
        for group in GROUPS.values()
        for layer, head in group.members()
    )


def faithful(world: World, truth: float) -> Answers:
    """Of the distance between the model and the model without heads, the circuit keeps the truth."""

    def alive(request: Any, _: str) -> Columns:
        own = EMPTY + truth * (FULL - EMPTY)
        right = {"empty": EMPTY}
        return {
            f"{name}_correct": world.ones(
                CHANCE if name.startswith("random") else right.get(name, own),
                "circuit" if name.startswith("circuit") else name,
            )
            for name in request.alive
        }

    base = world.ones(0.6, "base")
    full = solves(world)
    return {
        "Performance": lambda _, on: {"correct": base} if on == "base" else full,
        "CircuitPerformance": alive,
        # asked for where the circuit does not work: no head changed its place
        "HeadCodes": {"row": np.zeros(SIZE), "codes": same_codes()},
    }


def sufficient(world: World, truth: float) -> Answers:
    """Random circuits are right in half of the rows, the circuit in the truth; heads do not tie their rows."""

    def alive(request: Any, _: str) -> Columns:
        return {
            f"{name}_correct": world.ones(
                0.5 if name.startswith("random") else truth,
                "circuit" if name.startswith("circuit") else name,
            )
            for name in request.alive
        }

    return {"Performance": solves(world), "CircuitPerformance": alive}


def encoded(world: World, truth: float) -> Answers:
    """Patching moves the variable in this share of the rows between floor and ceiling."""
    patched = CHANCE + truth * (FULL - CHANCE)
    return {
        "Interchange": {
            "patched": world.ones(patched, "patched"),
            "floor": world.ones(CHANCE, "floor"),
            "ceiling": world.ones(FULL, "ceiling"),
            "control": world.ones(CHANCE, "control"),
        }
    }


def recovered(world: World, truth: float) -> Answers:
    """base is right in 0.5 of the rows, ft in 0.95; patching recovers this share of the gap."""
    base, ft = 0.5, 0.95

    def patched(request: Any, _: str) -> Columns:
        heads = (*request.heads, *request.control)
        return {
            "patched": world.ones(base + truth * (ft - base), "patched"),
            "control": world.ones(base, "control"),
            "codes": tuple(HeadCode(layer, head, at, 1.0) for layer, head, at in heads),
        }

    return {
        "Performance": lambda _, on: {"correct": world.ones(ft if on == "ft" else base, on)},
        "CrossModelPatching": patched,
    }


def path(world: World, truth: float) -> Answers:
    """The answer loses this many nats."""
    group, control = world.nats(-truth, 1.0, "group"), world.nats(0.0, 0.3, "control")
    columns = {"group": group, "control": control}
    ratios = {f"ratio {name}": np.expm1(values) for name, values in columns.items()}
    return {"Performance": solves(world), "PathPatching": {**columns, **ratios}}


def attention(world: World, truth: float) -> Answers:
    """The group's mean attention."""
    columns = {
        "group": world.nats(truth, 0.15, "group"),
        "control": world.nats(0.1, 0.05, "control"),
    }
    return {"Performance": solves(world), "AttentionShare": columns}


def knocked_out(world: World, truth: float) -> Answers:
    """The accuracy that the model loses without the attention."""
    columns = {f"pair@{n}_correct": world.ones(FULL - truth, "pair") for n in range(4)}
    columns |= {f"random@{n}_correct": world.ones(FULL, "random") for n in range(4)}
    return {"Performance": solves(world), "AttentionKnockout": columns}


def incomplete(world: World, truth: float) -> Answers:
    """Without group a, the model does this much better than what is left of the circuit; without any other
    set as well as the circuit."""

    def right(name: str, *, model: bool) -> Any:
        if name.startswith("random_"):
            return world.ones(FULL if model else CHANCE, f"{name} {model}")
        gap = truth if model and name == "group a" else 0.0
        return world.ones((FULL if name == "nothing" else 0.4) + gap, f"{name} {model}")

    return {
        "Performance": solves(world),
        "CircuitPerformance": lambda request, _: {
            f"{name}_correct": right(name, model=False) for name in request.alive
        },
        "HeadRemoval": lambda request, _: {
            f"{name}_correct": right(name, model=True) for name in request.removed
        },
    }


def growing(world: World, truth: float) -> Answers:
    """Every circuit of at least one head and not of all is equally good, so that the area is the truth."""
    claim = Curve(kind="curve", cpr_at_least=0.5)
    heads = 16
    counts = [int(percent * heads / 100 + 1e-9) for percent in PERCENT]

    def area(f: float) -> float:
        return float(claim.area([0.0 if not n else 1.0 if n == heads else f for n in counts]))

    f = (truth - area(0.0)) / (area(1.0) - area(0.0))

    def right(n: int) -> float:
        return EMPTY if not n else FULL if n == heads else EMPTY + f * (FULL - EMPTY)

    def sizes(request: Any, _: str) -> Columns:
        own = {
            f"{n}_correct": world.ones(right(n), "full" if n == heads else "alone")
            for n in request.counts
        }
        random = {
            f"random{i}@{n}_correct": world.ones(FULL if n == heads else EMPTY, f"random{i}")
            for i in range(DRAWS)
            for n in request.counts
        }
        return {**own, **random, "ranking": ()}

    return {"Performance": solves(world), "CircuitSizes": sizes}


def minimal(world: World, truth: float) -> Answers:
    """The head of group a costs the truth, every other cut 0.4."""

    def alive(request: Any, _: str) -> Columns:
        def right(name: str) -> float:
            if not name.endswith("gone") or name == "nothing gone":
                return FULL
            return FULL - (truth if name.startswith("a:") else 0.4)

        return {f"{name}_correct": world.ones(right(name), name) for name in request.alive}

    return {"Performance": solves(world), "CircuitPerformance": alive}


HEADS = 4
"""Heads of each group in either model's true circuit."""


def searched(world: World, truth: float) -> Answers:
    """Each search finds each head of the one true circuit with the same probability, so that the expected
    Jaccard index is the truth."""
    probability = 2 * truth / (1 + truth)
    found: dict[tuple[str, int], FoundCircuit] = {}

    def search(on: str, number: int) -> FoundCircuit:
        if (on, number) not in found:
            groups = {}
            for layer, (name, group) in zip((2, 1), GROUPS.items(), strict=True):
                heads = [h for h in range(HEADS) if world.rng.random() < probability]
                if heads:
                    groups[name] = Group(heads={layer: heads}, at=group.at, into=group.into)
            found[on, number] = FoundCircuit(groups)
        return found[on, number]

    return {"Performance": solves(world), SEARCH: search}


def searches(heads: int) -> dict[str, int]:
    """Searches whose circuits have this many heads."""
    return {"searches": max(2, math.ceil(heads / (len(GROUPS) * HEADS)))}


@cache
def correlation_for(truth: float) -> float:
    """The correlation of two normal scores whose normalised HSIC is the truth."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(12, 2, 400))
    rows = dependence.Rows.from_names([str(i) for i in range(400)])
    ones = np.ones((400, 1))
    count = dependence.terms(rows, ones)

    def value(r: float) -> float:
        shares = []
        for x, z in draws:
            k = dependence.kernel(x, rows)
            other = dependence.kernel(r * x + math.sqrt(1 - r * r) * z, rows)
            both, own, theirs = (
                dependence.hsic(a, b, rows, ones, count)[0]
                for a, b in ((k, other), (k, k), (other, other))
            )
            shares.append(both / math.sqrt(own * theirs))
        return float(np.mean(shares))

    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < truth else (low, middle)
    return (low + high) / 2


def left_over(world: World, truth: float) -> Answers:
    """The normalised HSIC of the scores without the circuit."""
    x = world.normal("model")

    def tied(name: str, r: float) -> Any:
        return r * x + math.sqrt(1 - r * r) * world.normal(name)

    def removed(request: Any, _: str) -> Columns:
        r = correlation_for(truth) if truth else 0.0
        return {
            f"{name}_log_probability": tied(name, 0.95)
            if name.startswith("random")
            else tied("circuit", r)
            for name in request.removed
        }

    full = {"correct": world.ones(FULL, "full"), "log_probability": x}
    return {"Performance": full, "HeadRemoval": removed}


def profiled(world: World, truth: float) -> Answers:
    """The share of head 2.0 through the logits is larger in ft by the truth; no other member's share changes."""
    shares = {"2.0": 0.4, "1.1": 0.3, "3.mlp": 0.2}

    def effects(request: Any, on: str) -> Columns:
        readers = request.via or "logits"
        total = world.nats(-8.0, 2.0, f"total {on}")
        columns = {"total": total}
        for name in request.senders:
            own = shares.get(name, 0.0) * (readers == "logits" or name == "1.1")
            own += truth * (on == "ft" and name == "2.0" and readers == "logits")
            # members that do more differ more between rows; the model's rows are the same for every reader
            spread = 0.1 + 2.0 * own
            columns[name] = -8.0 * own + spread * world.tied(f"{name} {readers} {on}")
        return columns

    return {
        "Performance": solves(world),
        "EffectProfile": effects,
        # asked for where a change is larger than the margin: no head changed its place
        "HeadMatching": {"row": np.zeros(SIZE), "layers": ()},
    }


CIRCUITS = (
    Simulated("accuracy", {"at_least": 0.8}, accuracy, 0.8, 0.9),
    Simulated(
        "accuracy",
        {"on": "ft", "not_worse_than": "base", "margin": 0.05},
        two_models,
        -0.05,
        0.02,
    ),
    Simulated(
        "coverage", {"at_least": 0.7}, by_cell, 0.7, 0.97, fixed="a word has a share of the rows"
    ),
    Simulated("equivalent", {"margin": 0.1}, two_models, 0.1, 0.0, "pair"),
    Simulated(
        "equivalent", {"margin": 0.1, "of": "log_probability"}, two_models, -0.1, 0.0, "pair"
    ),
    Simulated(
        "equivalent", {"margin": 0.5, "of": "logit_difference"}, two_models, -0.5, 0.0, "pair"
    ),
    Simulated(
        "same_text",
        {"text": tuple(f"line {i}" for i in range(10)), "at_most": 0.02},
        read,
        0.02,
        0.01,
        "pair",
    ),
    Simulated("diffuse_change", {"at_most": 0.6}, grafted, 0.6, 0.45, "pair"),
    Simulated("faithfulness", {"between": [0.8, 1.2]}, faithful, 0.8, 0.95),
    Simulated(
        "encodes", {"group": "a", "variable": "position", "at_least": 0.5}, encoded, 0.5, 0.7
    ),
    Simulated(
        "cmap",
        {"group": "a", "donor": "ft", "recipient": "base", "recovers_at_least": 0.3},
        recovered,
        0.3,
        0.7,
        "pair",
    ),
    Simulated(
        "transfer",
        {"from": "base", "to": "ft", "faithfulness_at_least": 0.8},
        faithful,
        0.8,
        0.95,
        "pair",
    ),
    Simulated("path", {"group": "a", "drops_at_least": 1.0}, path, 1.0, 1.4),
    Simulated("attends", {"group": "a", "to": "query_label", "at_least": 0.5}, attention, 0.5, 0.6),
    Simulated(
        "knockout",
        {"from": "last", "to": "query_label", "drops_at_least": 0.5},
        knocked_out,
        0.5,
        0.65,
    ),
    Simulated("sufficiency", {}, sufficient, 0.5, 0.8),
    Simulated("completeness", {"at_most": 0.15, "subsets": 1}, incomplete, 0.15, 0.02),
    Simulated("curve", {"cpr_at_least": 0.6}, growing, 0.6, 0.75),
    Simulated("minimality", {"costs_at_least": 0.05}, minimal, 0.05, 0.15),
    Simulated("overlap", {"jaccard_at_least": 0.5}, searched, 0.5, 0.8, "pair", more=searches),
    Simulated("independence", {"at_most": 0.1}, left_over, 0.1, 0.0),
    Simulated("same_profile", {"margin": 0.1}, profiled, 0.1, 0.02, "pair"),
)
"""One or more of each kind about circuits."""
