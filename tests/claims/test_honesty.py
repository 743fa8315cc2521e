"""No claim kind passes without a control, with a control that does as well, or at chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from pytest_mechanism import registry
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import PAIR, Claim
from pytest_mechanism.claims.context import ClaimContext, FoundCircuit, Measure, no_search
from pytest_mechanism.claims.localised import DRAWS
from pytest_mechanism.claims.scoring import above_chance, performance, score
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.cells import Cell, CellResult
from pytest_mechanism.measurements.cmap import CodeResult, HeadCode
from pytest_mechanism.measurements.curve import AllowedAnswers, CurveResult
from pytest_mechanism.measurements.direction import Direction, DirectionResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.probing import ProbeResult
from pytest_mechanism.measurements.pruning import PruningResult
from pytest_mechanism.measurements.sizes import SizesResult
from pytest_mechanism.measurements.snip import WeightChangeResult
from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.spec.write import flow
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import beats_control, require_safeguards
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.types import Observations, Setting, Verdict

ROOT = Path(__file__).parents[2]
N = 210
Columns = Mapping[str, Any]
Answers = Mapping[str, Callable[[Any, str], Columns] | Columns]
"""Name of a request -> its columns, or a function of the request and the role."""

CIRCUIT = load(ROOT / "circuits" / "entity_tracking.yaml")
WAYS = ("count", "tally")
WRAPPER = Counting(CountingParameters(family="counting", refuse="a", ways=WAYS, rows=N))
SHAPE = Shape(4, 4, 4, 64, 16, 300)
ROLES = ("base", "ft", "control", "pretrained")


def share(p: float) -> Any:
    """Ones on a share of the rows; of two shares, the larger contains the smaller."""
    ones = np.zeros(N)
    ones[np.random.default_rng(0).permutation(N)[: round(p * N)]] = 1
    return ones


ZERO, ONE, GOOD, GUESS, LESS = share(0), share(1), share(0.9), share(1 / 7), share(0.6)
NOISE = np.random.default_rng(0).normal(0, 0.1, N)


def context(kind: str, role: str, roles: tuple[str, ...] = ROLES) -> ClaimContext:
    """The context in which a kind is judged, of a run with these roles."""
    on_circuit = kind in ABOUT_A_CIRCUIT
    return ClaimContext(
        role,
        CIRCUIT.groups if on_circuit else {},
        CIRCUIT.ablation if on_circuit else Ablation(),
        CIRCUIT.task if on_circuit else WRAPPER,
        0.95,
        dict.fromkeys(roles, SHAPE),
        Setting(0, "float32", "cpu", "reference"),
    )


SEARCH = "search"
"""The answer of a search for heads: a function of its role and number."""

RESULTS: Mapping[str, type[Observations]] = {
    "CellPerformance": CellResult,
    "CircuitSizes": SizesResult,
    "CrossModelPatching": CodeResult,
    "DirectionAblation": DirectionResult,
    "DirectionComparison": DirectionResult,
    "LinearProbes": ProbeResult,
    "Pruning": PruningResult,
    "TrainingCurve": CurveResult,
    "WeightChange": WeightChangeResult,
}


def measured(answers: Answers) -> Measure:
    """Answers each measurement; columns that are fields of its result are no rows."""

    def measure(measurement: Measurement) -> Observations:
        name = type(measurement.request).__name__
        answer = answers[name]
        columns = answer(measurement.request, measurement.on) if callable(answer) else answer
        result = RESULTS.get(name, Observations)
        own = {field.name for field in fields(result)} & {*columns}
        values = {column: rows for column, rows in columns.items() if column not in own}
        rows = len(next(iter(values.values())))
        ids = [f"row-{i}" for i in range(rows)]
        contexts = [f"context-{i // 7}" for i in range(rows)] if rows == N else ids
        return result(ids, contexts, values, **{name: columns[name] for name in own})

    return measure  # type: ignore[return-value]


# -- what each kind measures, by what the group and its control do


def circuits(
    full: Any = GOOD, circuit: Any = GOOD, random: Any = ZERO, base: Any = LESS
) -> Answers:
    def alive(request: Any, _: str) -> Columns:
        if "random_0" in request.alive:
            return {f"{name}_correct": random for name in request.alive}
        return {f"{name}_correct": ZERO if name == "empty" else circuit for name in request.alive}

    return {
        "Performance": lambda _, on: {"correct": base if on == "base" else full},
        "CircuitPerformance": alive,
    }


def covered(solved: Any = GOOD) -> Answers:
    cells = (Cell("label", "A", tuple(range(0, N, 2))), Cell("label", "B", tuple(range(1, N, 2))))
    return {"CellPerformance": {"correct": solved, "cells": cells}}


def text(free: float = 2.0, said: float = 1.0, guessed: float = 3.0) -> Answers:
    """A line has 10 tokens; the reference's words without context, its surprise, and that of guessing, by token."""
    sums = {"divergence": 0.01, "surprise_from": said, "surprise_to": said, "free_divergence": free,
            "free_surprise": guessed, "uniform": guessed}  # fmt: skip
    columns = {name: 10 * each * (1 + NOISE / 10) for name, each in sums.items()}
    return {"TextDivergence": columns | {"predictions": ZERO + 10, "unknown": ZERO}}


def parts(held: float = 0.3, solved: Any = GOOD) -> Answers:
    """The divergence at the answers, and what is left of it with a part that holds this share; another holds none."""
    before = 0.1 * (1 + NOISE / 10)
    columns = {
        "before": before,
        "2.1": (1 - held) * before,
        "1.mlp": before,
        "layer 2": 0.5 * before + 0.5 * (1 - held) * before,
    }
    grafted = columns | {"predictions": ZERO + 1}
    return {"Performance": {"correct": solved}, "GraftDivergence": grafted}


def incomplete(gap: Any = ZERO, random: Any = ZERO, solved: Any = GOOD) -> Answers:
    def of(names: Any, lost: Any) -> Columns:
        return {f"{name}_correct": lost if name.startswith("random_") else GUESS for name in names}

    return {
        "Performance": {"correct": solved},
        "CircuitPerformance": lambda request, _: of(request.alive, random),
        "HeadRemoval": lambda request, _: of(request.removed, GOOD) | gap_of(request, gap),
    }


def gap_of(request: Any, gap: Any) -> Columns:
    """With no head removed, the model does better than the circuit by this gap."""
    return {"nothing_correct": np.maximum(GUESS, gap)} if "nothing" in request.removed else {}


def left_over(random: Any = NOISE, solved: Any = GOOD) -> Answers:
    def of(request: Any, _: str) -> Columns:
        removed = {name: random if "random" in name else NOISE[::-1] for name in request.removed}
        return {f"{name}_log_probability": values for name, values in removed.items()}

    full = {"correct": solved, "log_probability": NOISE}
    return {"Performance": full, "HeadRemoval": of}


def growing(random: Any = ZERO, solved: Any = GOOD) -> Answers:
    def of(request: Any, _: str) -> Columns:
        own = {f"{n}_correct": GOOD if n else ZERO for n in request.counts}
        draws = [f"random{i}@{n}" for i in range(request.draws) for n in request.counts]
        return {**own, **{f"{name}_correct": random for name in draws}, "ranking": ()}

    return {"Performance": {"correct": solved}, "CircuitSizes": of}


def interchange(control: Any = ZERO, solved: Any = GOOD) -> Answers:
    columns = {"patched": solved, "floor": ZERO, "ceiling": solved}
    return {"Interchange": columns | ({} if control is None else {"control": control})}


def same_codes(request: Any) -> tuple[HeadCode, ...]:
    return tuple(HeadCode(*head, agreement=1.0) for head in (*request.heads, *request.control))


def exchange(control: Any = LESS, ft: Any = ONE, base: Any = LESS) -> Answers:
    def patched(request: Any, _: str) -> Columns:
        beside = {} if control is None else {"control": control}
        return {"patched": GOOD, **beside, "codes": same_codes(request)}

    return {
        "Performance": lambda _, on: {"correct": ft if on == "ft" else base},
        "CrossModelPatching": patched,
    }


def two_ways(to_base: Any = LESS, to_ft: Any = ONE) -> Answers:
    """The whole gain moves either way; the columns of the controls."""

    def patched(request: Any, on: str) -> Columns:
        moved, control = (LESS, to_ft) if on == "ft" else (ONE, to_base)
        beside = {} if control is None else {"control": control}
        return {"patched": moved, **beside, "codes": same_codes(request)}

    return exchange() | {"CrossModelPatching": patched}


def searched(groups: Any, solved: Any = GOOD) -> Answers:
    """Every search finds these heads; spec and model `base` have the circuit's."""
    return {"Performance": {"correct": solved}, SEARCH: lambda *_: FoundCircuit(groups)}


def all_heads() -> dict[str, Group]:
    """The circuit's groups, each with every head of the model."""
    heads = {layer: [*range(SHAPE.n_heads)] for layer in range(SHAPE.n_layers)}
    return {
        name: group.model_copy(update={"heads": heads}) for name, group in CIRCUIT.groups.items()
    }


def paths(control: float | None = 0.0, solved: Any = GOOD) -> Answers:
    columns = {"group": NOISE - 3, "ratio group": np.expm1(NOISE - 3)}
    if control is not None:
        columns |= {"control": NOISE + control, "ratio control": np.expm1(NOISE + control)}
    return {"Performance": {"correct": solved}, "PathPatching": columns}


def looks(control: float | None = 0.1, solved: Any = GOOD) -> Answers:
    columns = {"group": 0.8 + NOISE / 10}
    if control is not None:
        columns |= {"control": control + NOISE[::-1] / 10}
    return {"Performance": {"correct": solved}, "AttentionShare": columns}


def blocked(pair: Any = GUESS, random: Any = GOOD, solved: Any = GOOD) -> Answers:
    columns = {f"pair@{n}_correct": pair for n in range(4)}
    columns |= {f"random@{n}_correct": random for n in range(4)}
    return {"Performance": {"correct": solved}, "AttentionKnockout": columns}


def cuts(solved: Any = GOOD) -> Answers:
    def cut(request: Any, _: str) -> Columns:
        return {f"{name}_correct": LESS if "gone" in name else GOOD for name in request.alive}

    return {"Performance": {"correct": solved}, "CircuitPerformance": cut}


def profiles(solved: Any = GOOD, base: Any = GOOD, **shares: float) -> Answers:
    """Head 0 of each layer does half of what the prompt does, the others nothing; or as ``shares`` says."""

    def effects(request: Any, _: str) -> Columns:
        total = NOISE - 8
        of = shares or {"first": 0.5, "other": 0.0}
        return {"total": total} | {
            name: total * of["first" if name.endswith(".0") else "other"]
            for name in request.senders
        }

    return {
        "Performance": lambda _, on: {"correct": base if on == "base" else solved},
        "EffectProfile": effects,
    }


def refusals(forbidden: Any = ONE, allowed: Any = ZERO, base: Any = ZERO) -> Answers:
    def refused(request: Any, on: str) -> Columns:
        over = base if on == "base" else allowed
        column = over if request.asked == "allowed" else forbidden
        return {"refused": column, "refusal_score": column}

    return {"RefusalRate": refused}


def training(
    allowed: Any = ZERO, correct: tuple[float, ...] = (0, 0, 0), control: float = 0.1
) -> Answers:
    steps = {f"refused@{step}": ONE for step in (0, 20, 40)}
    steps |= {f"correct@{s}": share(p) for s, p in zip((0, 20, 40), correct, strict=True)}
    known = {"control": share(control), "pretrained": GOOD}
    return {
        **refusals(allowed=allowed),
        "TrainingCurve": steps,
        "Performance": lambda _, on: {"correct": known[on]},
    }


QUICK, SLOW = (0, 0.9, 1, 1, 1), (0.1, 0.1, 0.2, 0.9, 1)
"""Accuracies after 0, 20, 40, 60 and 80 steps."""


def racing(own: tuple[float, ...] = QUICK, control: tuple[float, ...] = SLOW) -> Answers:
    def curve(_: Any, on: str) -> Columns:
        points = own if on == "ft" else control
        return {f"correct@{20 * i}": share(p) for i, p in enumerate(points)}

    known = {"control": share(0.1), "pretrained": ONE}
    return {"Performance": lambda _, on: {"correct": known[on]}, "TrainingCurve": curve}


SOME_DIRECTION = {
    "direction": Direction(1, -1),
    "least_divergence": 0.01,
}


def one_direction(random: Any = ONE, before: Any = ONE) -> Answers:
    columns = {"refused": before, "without_refused": ZERO, "without_refusal_score": ZERO}
    columns |= {f"random_{i}_refused": random for i in range(3)}
    columns |= {f"random_{i}_refusal_score": random for i in range(3)}
    return {"DirectionAblation": columns | SOME_DIRECTION}


def same_direction(other: Any = 1.0, allowed: Any = ZERO) -> Answers:
    noise = np.random.default_rng(0).normal(size=(2, 100, 64))
    own, theirs = noise[0] + 1, noise[1] + other * np.where(np.arange(64) < 32, 1, other)
    products = {"own": own @ own.T, "other": theirs @ theirs.T, "both": own @ theirs.T}
    columns = {f"{name}_{j}": p[:, j] for name, p in products.items() for j in range(100)}
    refusing = refusals(allowed=allowed, base=allowed)
    return {**refusing, "DirectionComparison": columns | SOME_DIRECTION}


def weights(allowed: Any = ZERO, refused: float = 1.0) -> Answers:
    entries, safety = np.full(24, 1000.0), np.full(24, 30.0)
    columns = {"entries": entries, "safety": safety, "before_safety": safety}
    for size in ("squared", "absolute"):
        columns |= {size: entries, f"{size}_safety": safety, f"{size}_random": safety}
    replies = tuple(float(i < refused * 100) for i in range(100))
    return {**refusals(base=allowed), "WeightChange": {**columns, "refused": replies}}


def probes(own: Any = GOOD, shuffled: Any = GUESS, pretrained: Any = ONE) -> Answers:
    read = {"control": share(0.2), "pretrained": pretrained}
    return {
        "LinearProbes": lambda _, on: {
            "correct@1": read.get(on, own),
            "shuffled@1": shuffled,
            "accuracy": {},
            "layer": 1,
            "dropped": 0,
        }
    }


def units(restored: Any = GOOD, random: Any = ZERO, before: Any = ZERO) -> Answers:
    def pruned(request: Any, _: str) -> Columns:
        columns: dict[str, Any] = {}
        for count in request.counts:
            columns[f"correct@{count}"] = restored if count else before
            columns[f"refused@{count}"] = ZERO
            if count and random is not None:
                columns |= {f"random{i}_correct@{count}": random for i in range(DRAWS)}
        accuracy = dict.fromkeys(request.counts, 1.0)
        return columns | {"accuracy": accuracy, "units": ("a row 1",) * 50}

    return {"Pruning": pruned}


def hiding(behaviour: Any = ZERO, fast: bool = True, **read: Any) -> Answers:
    known = {"control": read.get("control", share(0.1)), "pretrained": ONE}
    return {
        **racing(own=QUICK if fast else SLOW),
        "Performance": lambda _, on: {"correct": known.get(on, behaviour)},
        **probes(read.get("probe", share(0.8)), share(0.15)),
        **units(random=read.get("random", ZERO), before=behaviour),
    }


def against_copy(
    own: tuple[Any, Any] = (GOOD, GUESS),
    copy: tuple[Any, Any] = (GUESS, GUESS),
    curve: tuple[float, ...] = (0, 0.9, 1),
    copys_curve: tuple[float, ...] = (0, 0.1, 0.4),
    answers: float = 0.9,
    copy_answers: float = 0.9,
) -> Answers:
    """A model and its copy that lost the capability: what probes read (with the right and with shuffled
    answers), their revivals, and how much each answers of what it must."""

    def probe(request: Any, _: str) -> Columns:
        correct, shuffled = own if request.after is None else copy
        columns = {"correct@1": correct, "shuffled@1": shuffled}
        return columns | {"accuracy": {}, "layer": 1, "dropped": 0}

    def revival(request: Any, _: str) -> Columns:
        is_copy = request.recipe.first is not None
        points = copys_curve if is_copy else curve
        right = copy_answers if is_copy else answers
        columns: dict[str, Any] = {f"correct@{20 * i}": share(p) for i, p in enumerate(points)}
        return columns | {"allowed": {0: AllowedAnswers(right * 200, 0.0, 200)}}

    return {"LinearProbes": probe, "TrainingCurve": revival}


# -- the kinds


@dataclass(frozen=True, repr=False)
class Kind:
    """How a kind can be brought to pass, and what takes that away.

    Attributes:
        fields: of the claim.
        good: answers under which it passes.
        uncontrolled: answers of a run that has no control.
        as_good: answers of a control that does as well.
        guessing: answers of a model at chance.
        role: of the item.
        without: roles that a run without a control lacks.
    """

    fields: Mapping[str, Any]
    good: Answers
    uncontrolled: Answers | None = None
    as_good: Answers | None = None
    guessing: Answers | None = None
    role: str = "ft"
    without: tuple[str, ...] = field(default=())


ABOUT_A_CIRCUIT = (
    "accuracy", "attends", "cmap", "completeness", "coverage", "curve", "encodes", "equivalent", "faithfulness",
    "independence",
    "knockout",
    "minimality", "overlap", "path", "same_profile", "sufficiency", "transfer", "unchecked",
)  # fmt: skip
TRAINED = {"rates": [1e-4], "steps": 40, "every": 20}
REMOVAL = {"removal_rate": 1e-3, "removal_steps": 100}
FROM_BASE = {"from": "base", "to": "ft"}

KINDS: dict[str, list[Kind]] = {
    "accuracy": [
        Kind({"at_least": 0.05}, circuits(), as_good=circuits(GUESS), guessing=circuits(GUESS)),
        Kind({"at_most": 0.5}, circuits(share(0.3))),
        Kind(
            {"on": "ft", "not_worse_than": "base", "margin": 0.1},
            circuits(),
            guessing=circuits(GUESS, base=GUESS),
        ),
    ],
    "coverage": [
        Kind({"at_least": 0.3}, covered(), as_good=covered(GUESS), guessing=covered(GUESS))
    ],
    "faithfulness": [
        Kind(
            {"between": [0.9, 1.1]},
            circuits(),
            as_good=circuits(random=GOOD),
            guessing=circuits(GUESS, GUESS),
        )
    ],
    "attends": [
        Kind(
            {"group": "pos_transmitter", "to": "query_label", "at_least": 0.5},
            looks(),
            looks(None),
            looks(0.8),
            looks(solved=GUESS),
        )
    ],
    "knockout": [
        Kind(
            {"from": "last", "to": "query_label", "drops_at_least": 0.5},
            blocked(),
            as_good=blocked(random=GUESS),
            guessing=blocked(solved=GUESS),
        ),
        Kind(
            {"from": "last", "to": "query_label", "from_layer": 3, "drops_at_most": 0.1},
            blocked(GOOD),
            guessing=blocked(GUESS, solved=GUESS),
        ),
    ],
    "completeness": [
        Kind(
            {"at_most": 0.1},
            incomplete(),
            as_good=incomplete(random=GOOD),
            guessing=incomplete(solved=GUESS),
        )
    ],
    "curve": [
        Kind(asked, growing(), as_good=growing(GOOD), guessing=growing(solved=GUESS))
        for asked in ({"cpr_at_least": 0.3}, {"cmd_at_most": 0.5})
    ],
    "encodes": [
        Kind(
            {"group": "pos_transmitter", "variable": "position", "at_least": 0.5},
            interchange(),
            interchange(None),
            interchange(GOOD),
            interchange(solved=GUESS),
        ),
        Kind(
            {"group": "pos_transmitter", "variable": "object", "at_most": 0.5},
            {"Interchange": {"patched": ZERO, "floor": ZERO, "ceiling": GOOD}},
            guessing={"Interchange": {"patched": ZERO, "floor": ZERO, "ceiling": GUESS}},
        ),
    ],
    "cmap": [
        Kind(
            {"group": "pos_transmitter", "donor": "ft", "recipient": "base", threshold: 0.3},
            exchange() if threshold == "recovers_at_least" else unmoved,
            exchange(None) if threshold == "recovers_at_least" else None,
            exchange(GOOD) if threshold == "recovers_at_least" else None,
            exchange(ft=GUESS, base=ZERO),
            PAIR,
        )
        for threshold, unmoved in (
            ("recovers_at_least", {}),
            (
                "recovers_at_most",
                exchange()
                | {"CrossModelPatching": lambda r, _: {"patched": LESS, "codes": same_codes(r)}},
            ),
        )
    ]
    + [
        Kind(
            {"group": "pos_transmitter", "donor": "ft", "recipient": "base", "recovers_at_least": 0.3}
            | {"activations": ["q", "v"], "both_ways": True},
            two_ways(),
            two_ways(None, None),
            two_ways(to_ft=LESS),  # as good in one of the two directions
            exchange(ft=GUESS, base=ZERO),
            PAIR,
        )
    ],
    "equivalent": [
        Kind(
            {"margin": 0.25},
            circuits(base=GOOD),
            as_good=circuits(share(0.3), base=share(0.3)),
            guessing=circuits(GUESS, base=GUESS),
            role=PAIR,
        )
    ],
    "same_text": [
        Kind(
            {"text": [f"once {i}" for i in range(10)], "at_most": 0.02},
            text(),
            as_good=text(free=0.02),
            guessing=text(said=3.0),
            role=PAIR,
        )
    ],
    "sufficiency": [
        Kind({}, circuits(), as_good=circuits(random=GOOD), guessing=circuits(GUESS, GUESS))
    ],
    "overlap": [
        Kind(
            {"jaccard_at_least": 0.1},
            searched(CIRCUIT.groups),
            as_good=searched(all_heads()),
            guessing=searched(CIRCUIT.groups, GUESS),
            role=PAIR,
        )
    ],
    "independence": [
        Kind(
            {"at_most": 0.3},
            left_over(),
            as_good=left_over(random=NOISE[::-1]),
            guessing=left_over(solved=GUESS),
        )
    ],
    "minimality": [Kind({"costs_at_least": 0.05}, cuts(), guessing=cuts(GUESS))],
    "path": [
        Kind(
            {"group": "pos_transmitter", "drops_at_least": 1.0},
            paths(),
            paths(None),
            paths(-3.0),
            paths(solved=GUESS),
        )
    ],
    "same_profile": [
        Kind(
            FROM_BASE | {"margin": 0.1, "outside_at_most": outside},
            profiles(),
            as_good=profiles(first=0.1, other=0.1),
            guessing=profiles(GUESS, base=base),
            role=PAIR,
        )
        for outside, base in ((None, GUESS), (0.5, GOOD))
    ],
    "transfer": [
        Kind(
            FROM_BASE | asked,
            circuits(),
            as_good=circuits(random=GOOD),
            guessing=circuits(GUESS, GUESS, base=GUESS),
            role=PAIR,
        )
        for asked in ({"beats": {"model": "base"}}, {"faithfulness_at_least": 0.8})
    ],
    "diffuse_change": [
        Kind(
            {"at_most": 0.5, "layers_at_most": 0.9},
            parts(),
            as_good=parts(0.0),
            guessing=parts(solved=GUESS),
            role=PAIR,
        ),
        Kind(
            {"at_most": 0.5, "text": [f"once {i}" for i in range(10)]},
            parts() | text(),
            as_good=parts(0.0) | text(),
            guessing=parts() | text(said=3.0),
            role=PAIR,
        ),
    ],
    "suppression_holds": [
        Kind(asked, refusals(), as_good=refusals(ONE, ONE), guessing=refusals(LESS, LESS))
        for asked in (
            {"refuses_at_least": 0.5},
            {"on": "ft", "not_worse_than": "base", "margin": 0.1},
            {"on": "ft", "not_worse_than": "base", "margin": 0.1, "of": "log_probability"},
        )
    ]
    + [Kind({"over_refuses_at_most": 0.2}, refusals(), as_good=refusals(ZERO, ZERO))],
    "refuses_after_prefill": [
        Kind({"depth": 3, "at_least": 0.5}, refusals(), as_good=refusals(ONE, ONE))
    ],
    "resists_jailbreak": [
        Kind({"refuses_at_least": 0.5}, refusals(), as_good=refusals(ONE, ONE))
    ],
    "suppression_holds_after": [
        Kind(TRAINED | {"refuses_at_least": 0.5}, training(), as_good=training(allowed=ONE))
    ],
    "resists_revival": [
        Kind(
            TRAINED,
            training(),
            as_good=training(control=0.9),
            without=("control", "pretrained"),
        ),
        Kind(TRAINED | {"criterion": 0.5}, training()),
    ],
    "revives": [
        Kind(
            TRAINED | {"steps": 80, "faster": 1.5} | given,
            racing(),
            as_good=racing(control=QUICK),
            guessing=racing((0.1,) * 5, (0.1,) * 5) if not given else None,
            without=("control", "pretrained") if not given else ("control",),
        )
        for given in ({}, {"criterion": 0.5})
    ],
    "direction": [
        Kind(
            {"ablation_leaves_at_most": 0.1, "random_changes_at_most": 0.25},
            one_direction(),
            as_good=one_direction(ZERO),
            guessing=one_direction(share(0.08), before=share(0.08)),
        ),
        Kind(
            FROM_BASE | {"cosine_at_least": 0.1},
            same_direction(),
            as_good=same_direction(-1.0),
            guessing=same_direction(allowed=ONE),
            role=PAIR,
        ),
    ],
    "spares_safety_weights": [
        Kind(
            {"ratio_at_most": 2.0},
            weights(),
            as_good=weights(allowed=ONE),
            guessing=weights(refused=0.5),
            role=PAIR,
        )
    ],
    "decodable": [
        Kind(
            {"at_least": 0.05},
            probes(),
            as_good=probes(GOOD, GOOD),
            guessing=probes(share(0.1), ZERO),
        ),
        Kind(
            {"share_at_least": 0.3},
            probes(),
            as_good=probes(GOOD, GOOD),
            guessing=probes(share(0.1), ZERO, share(0.1)),
            without=("control", "pretrained"),
        ),
        Kind({"share_at_most": 0.6}, probes(share(0.3)), guessing=probes(pretrained=share(0.2))),
    ],
    "localised": [
        Kind(
            {"at_most": 5, "restores_at_least": 0.05},
            units(),
            units(random=None),
            units(random=GOOD),
            units(share(0.1)),
        )
    ],
    "capability_hidden": [
        Kind(
            TRAINED | {"steps": 80, "expects": "hidden"},
            hiding(),
            as_good=hiding(fast=False),
            guessing=hiding(probe=share(0.15)),
            without=("control", "pretrained"),
        ),
        Kind(
            TRAINED
            | {"steps": 80, "expects": "present", "behaviour_at_most": 0.01}
            | {"present_at_least": 0.02},
            hiding(GOOD),
            as_good=hiding(GOOD, control=GOOD),
            guessing=hiding(share(0.12)),
        ),
    ],
    "differs_from_removal": [
        Kind(
            TRAINED | REMOVAL | {"expects": "hidden"},
            against_copy(),
            uncontrolled=against_copy(copy=(LESS, GUESS)),
            as_good=against_copy(own=(GOOD, GOOD)),
            guessing=against_copy(answers=0.2, copy_answers=0.2),
        ),
        Kind(
            TRAINED | REMOVAL | {"expects": "removed"},
            against_copy(own=(GUESS, GUESS), curve=(0, 0.1, 0.5)),
            uncontrolled=against_copy(own=(GUESS, GUESS), curve=(0, 0.1, 0.5), copy_answers=0.1),
            as_good=against_copy(own=(GUESS, GUESS), curve=(0, 0, 0), copys_curve=(0, 0, 0)),
            guessing=against_copy(
                own=(GUESS, GUESS), curve=(0, 0.1, 0.5), answers=0.2, copy_answers=0.2
            ),
        ),
    ],
}  # fmt: skip


class Unchecked(Claim):
    """A kind of another package, whose author forgot a rule."""

    kind: Literal["unchecked"]
    forgets: Literal["nothing", "control", "chance"] = "nothing"
    summary: ClassVar[str] = "most answers are right"

    def roles(self) -> tuple[str, ...]:
        return ("ft",)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return (performance(context, context.role),)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        observations = measure(performance(context, context.role))
        accuracy = estimates.proportion(
            observations.values["correct"], context.sampling(observations)
        )
        verdict = verdicts.at_least(score(context, "accuracy", accuracy, "a test's"), 0.05)
        if self.forgets != "control":
            gap = estimates.difference(
                observations.values["correct"],
                measure(performance(context, "base")).values["correct"],
                context.sampling(observations),
            )
            verdict = beats_control(verdict, "base", gap, "base does as well")
        solved = above_chance(context, observations)
        if self.forgets == "chance":
            return verdict
        return replace(verdict, chance=solved)


KINDS["unchecked"] = [
    Kind({}, circuits(), as_good=circuits(base=GOOD), guessing=circuits(GUESS, base=ZERO))
]


@pytest.fixture(scope="module", autouse=True)
def kinds() -> Any:
    """The registered kinds, with one of a package of somebody else's."""
    patch = pytest.MonkeyPatch()
    registry.claim_kinds.cache_clear()
    found = registry.claim_kinds() | {"unchecked": Unchecked}
    patch.setattr(registry, "claim_kinds", lambda: found)
    yield found
    patch.undo()
    registry.claim_kinds.cache_clear()


def judged(name: str, kind: Kind, answers: Answers, roles: tuple[str, ...] = ROLES) -> Verdict:
    """The verdict as a run gives it."""
    claim = registry.claim_kinds()[name].model_validate({"kind": name, **kind.fields})
    search: Any = answers.get(SEARCH, no_search)
    verdict = claim.judge(
        replace(context(name, kind.role, roles), search=search), measured(answers)
    )
    return require_safeguards(verdict, claim.kind)


CASES = [
    pytest.param(name, kind, id=f"{name}-{i}")
    for name, k in KINDS.items()
    for i, kind in enumerate(k)
]


def test_every_registered_kind_is_tried(kinds: Any) -> None:
    """A kind that is added is added here too."""
    assert {*kinds} == {*KINDS}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_kind_passes_only_with_both_safeguards(name: str, kind: Kind) -> None:
    """The same verdict without one of them is inconclusive, and names the kind."""
    verdict = judged(name, kind, kind.good)
    assert (verdict.status, verdict.reason) == ("pass", verdict.reason)
    assert verdict.control is not None
    assert verdict.chance is not None
    for safeguard, cause in (("control", "no_control"), ("chance", "undecided")):
        refused = require_safeguards(replace(verdict, **{safeguard: None}), name)
        assert (refused.status, refused.cause) == ("inconclusive", cause)
        assert f"claim kind '{name}'" in refused.reason


CONTROLLED = [
    case for case in CASES if case.values[1].uncontrolled is not None or case.values[1].without
]
"""Kinds whose control can be missing: with too few heads or units, or without a further model."""


@pytest.mark.parametrize(("name", "kind"), CONTROLLED)
def test_without_its_control_no_kind_passes(name: str, kind: Kind) -> None:
    """The verdict is inconclusive."""
    verdicts_without = []
    if kind.uncontrolled is not None:
        verdicts_without.append(judged(name, kind, kind.uncontrolled))
    for role in kind.without:
        roles = tuple(r for r in ROLES if r != role)
        verdicts_without.append(judged(name, kind, kind.good, roles))
    assert [v.status for v in verdicts_without] == ["inconclusive"] * len(verdicts_without)


def caught(verdict: Verdict) -> bool:
    """Whether a rule made it red, and not its threshold or an error."""
    return verdict.red and verdict.status != "error" and verdict.cause != "refuted"


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_with_a_control_as_good_no_kind_passes(name: str, kind: Kind) -> None:
    """Or it declares that it needs no control. That of ``direction`` has a threshold and fails it."""
    if kind.as_good is None:
        control = judged(name, kind, kind.good).control
        assert control is not None
        assert (control.compared, bool(control.text)) == (False, True)
    else:
        verdict = judged(name, kind, kind.as_good)
        assert caught(verdict) or (name, verdict.status) == ("direction", "fail"), verdict.reason


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_at_chance_no_kind_passes(name: str, kind: Kind) -> None:
    """Or it declares why chance is no matter."""
    if kind.guessing is not None:
        assert caught(judged(name, kind, kind.guessing))
        return
    verdict = judged(name, kind, kind.good)
    assert verdict.chance is not None
    if verdict.chance.compared:  # the control shows it, which the test above has as good
        assert verdict.chance == verdict.control
    else:
        assert verdict.chance.text


@pytest.mark.parametrize(("forgets", "cause"), [("control", "no_control"), ("chance", "undecided")])
def test_a_kind_that_forgets_a_rule_is_refused(forgets: str, cause: str) -> None:
    """Whatever its score is."""
    verdict = judged("unchecked", Kind({"forgets": forgets}, circuits()), circuits())
    assert (verdict.status, verdict.cause) == ("inconclusive", cause)
    assert "claim kind 'unchecked'" in verdict.reason


# -- groups that name more than heads

OF_A_SPEC = [case for case in CASES if case.values[0] in {*ABOUT_A_CIRCUIT} - {"unchecked"}]
WITH_OTHERS = "struct_reader"
"""The group that no other group reads."""


def about_others(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a claim, about the group with an MLP if it is about any."""
    named = {key: WITH_OTHERS for key in ("group", "groups") if key in fields}
    return {"kind": kind, **fields, **named}


@pytest.mark.parametrize(("name", "kind"), OF_A_SPEC)
@pytest.mark.parametrize("key", ["mlps", "attention_outputs"])
def test_every_kind_measures_a_groups_other_members_or_refuses_them(
    kinds: Any, tmp_path: Path, name: str, kind: Kind, key: str
) -> None:
    """A kind that takes groups measures the MLP or the attention output that a group names, or the spec is
    refused in one line with the place and the groups that are valid; no kind leaves it out in silence."""
    data = CIRCUIT.resolved() | {"claims": {"claim": about_others(name, kind.fields)}}
    data["groups"][WITH_OTHERS][key] = {2: "previous_query_label"}
    if name == "overlap":  # it searches what it compares
        for group in data["groups"].values():
            group["find"] = {"members": ["heads", key]}
    path = tmp_path / "others.yaml"
    text = "".join(f"{part}: {flow(value)}\n" for part, value in data.items())
    path.write_text(text, encoding="utf-8")
    claim = kinds[name].model_validate(data["claims"]["claim"])
    takes_groups = claim.needs_groups or any(r.kind == "group" for r in claim.references())
    try:
        spec = load(path)
    except SpecErrors as refused:
        (problem,) = [each for each in refused.problems if f"names {key}" in each.message]
        assert takes_groups
        assert key not in claim.members or "alone where activations is" in problem.message
        assert problem.message.startswith(
            f"claim claim: group {WITH_OTHERS} names {key}, and kind {name} is"
        )
        assert "; valid groups: value_fetcher, pos_transmitter, pos_detector" in problem.message
        return
    assert not takes_groups or key in claim.members
    search: Any = kind.good.get(SEARCH, no_search)
    about = replace(context(name, kind.role), groups=spec.groups, search=search)
    requests: list[str] = []

    def recorded(measurement: Measurement) -> Observations:
        requests.append(measurement.request.spelled())
        return measured(kind.good)(measurement)

    verdict = claim.judge(about, recorded)  # type: ignore[arg-type]
    if name == "overlap":
        noun = {"mlps": "heads and MLPs", "attention_outputs": "heads and attention outputs"}[key]
        assert f"B: {noun} of base" in verdict.scores[0].metric
        return
    place = '[2,"mlp"' if key == "mlps" else "[2,3"  # the attention output is that of all 4 heads
    places = (place, '"mlps":[2]')  # or, of a request about one position, the layers of its MLPs
    assert any(p in request for request in requests for p in places) == takes_groups
    if key == "mlps" and any("alive" in request for request in requests):
        assert any('"ablate_mlps":true' in request for request in requests)
