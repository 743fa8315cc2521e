"""Growing and pruning on made-up models: which heads a circuit needs is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluators import open_evaluator

from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.discovery import sufficiency
from pytest_mechanism.discovery.discover import Discovery
from pytest_mechanism.discovery.pruning import prune
from pytest_mechanism.discovery.remarks import growth
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.discovery.sufficiency import grow
from pytest_mechanism.fields.groups import Find
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head, Observations

SPEC = """mechanism: 1
circuit: made_up
task: {family: entity_tracking, boxes: 7, rows: 140}
groups: {movers: {heads: discovered, at: last}}
claims: {solves: {kind: accuracy, at_least: 0.5}}
"""

A, B, C, D, USELESS = (3, 0), (3, 1), (3, 2), (2, 0), (1, 0)


@dataclass
class MadeUp:
    """Answers right with a probability that the heads alive decide.

    Attributes:
        probability: heads alive -> share of rows that are right.
        circuits: how many were measured.
    """

    probability: Callable[[set[Head]], float]
    circuits: list[int] = field(default_factory=list)

    def __call__(self, measurement: Measurement[Any]) -> Any:
        request = measurement.request
        drawn = np.random.default_rng(len(request.stream)).permutation(request.rows) / request.rows
        ids = tuple(map(str, range(request.rows)))
        if not isinstance(request, CircuitPerformance):
            return Observations(ids, ids, {"correct": (drawn < 0.95).astype(float)})
        self.circuits.append(len(request.alive))
        values = {}
        for name, alive in request.alive.items():
            share = self.probability({(layer, head) for layer, head, _ in alive})
            values[f"{name}_correct"] = (drawn < share).astype(float)
            values[f"{name}_log_probability"] = np.full(request.rows, np.log(share))
        return Observations(ids, ids, values)


@pytest.fixture
def context(tmp_path: Path) -> ClaimContext:
    """Of a search for one group on a model of 16 heads."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    gate = open_evaluator("--model", "zoo:base", "--store", tmp_path / "store")
    claim = Accuracy(kind="accuracy", on="base", at_least=0.01)
    return gate.context(load(tmp_path / "spec.yaml"), claim, "base")


def pruned(context: ClaimContext, heads: list[Head], model: MadeUp) -> tuple[list[Head], Any]:
    result = prune(context, "base", {"movers": heads}, model, 105, 210, "threshold", 0.01)
    return sorted(result.heads["movers"]), result.restored


def test_three_heads_that_replace_each_other_are_needed_together(context: ClaimContext) -> None:
    """No single head is needed, but without all three nothing is left. The strongest stays, and the result
    names it."""
    model = MadeUp(lambda alive: 0.9 if alive & {A, B, C} else 0.2)
    assert pruned(context, [A, B, C], model) == ([A], (("movers", A),))


def test_heads_that_nothing_needs_go(context: ClaimContext) -> None:
    """A is needed alone; the others add nothing together either."""
    model = MadeUp(lambda alive: 0.9 if A in alive else 0.2)
    assert pruned(context, [A, D, USELESS], model) == ([A], ())


def test_a_group_that_is_partly_shared_keeps_a_substitute(context: ClaimContext) -> None:
    """D is needed alone, and one of A, B, C with it."""
    model = MadeUp(lambda alive: 0.9 if D in alive and alive & {A, B, C} else 0.2)
    assert pruned(context, [D, A, B, C], model) == (sorted([D, A]), (("movers", A),))


def test_minimality_of_a_large_group_tries_few_pairs(context: ClaimContext) -> None:
    """Pairs with one of the eight strongest heads: 15 heads alone and 84 pairs, not 105 pairs."""
    heads = [(layer, head) for layer in range(4) for head in range(4)][:15]
    model = MadeUp(lambda alive: 0.2 + 0.7 * len(alive) / 15)
    pruned(context, heads, model)
    assert model.circuits[0] == 15 + 15 * 14 // 2 - 7 * 6 // 2


def stage(*heads: Head) -> Stage:
    effects = {
        head: Estimate(-1.0 / (i + 1), (-1.1, -0.001), 0.1, 64, 64) for i, head in enumerate(heads)
    }
    return Stage("movers", "last", None, None, effects, {}, heads[:1], heads[:1])


def test_heads_that_help_together_join_together(context: ClaimContext) -> None:
    """Four heads add little each; they join in one round, without the useless one."""
    helpers = [(0, head) for head in range(4)]
    model = MadeUp(lambda alive: 0.2 + 0.35 * (A in alive) + 0.1 * len(alive & {*helpers}))
    grown = grow(
        context,
        "base",
        {"movers": [A]},
        [stage(A, USELESS, *helpers)],
        model,
        210,
        210,
        "threshold",
    )
    assert {head for _, head in grown.joined} == {*helpers}
    assert grown.faithfulness is not None
    assert grown.faithfulness.interval[0] >= 0.9
    assert len(model.circuits) == 4  # reached, each alone, sets, reached


def test_an_mlp_joins_as_a_head_does(context: ClaimContext) -> None:
    """In a circuit that has one already, with all others ablated; where the group may have heads alone, it does
    not, and an attention output does not join beside a head of its layer."""
    mlp, taken, whole = (2, "mlp"), (1, "mlp"), (3, "attention")
    effects: dict[Any, Estimate] = {
        part: Estimate(-1.0, (-1.1, -0.9), 0.1, 64, 64) for part in (A, mlp, taken, whole)
    }
    tried = Stage("movers", "last", None, None, effects, {}, (A,), (A,))
    model = MadeUp(lambda alive: 0.2 + 0.35 * (A in alive) + 0.4 * (mlp in alive))
    for members, joined in (
        (["heads", "mlps", "attention_outputs"], (("movers", mlp),)),
        (["heads"], ()),
    ):
        group = context.groups["movers"]
        find = Find.model_validate({"members": members})
        groups = {"movers": group.model_copy(update={"find": find})}
        grown = grow(
            replace(context, groups=groups),
            "base",
            {"movers": [A, taken]},
            [tried],
            model,
            210,
            210,
            "threshold",
        )
        assert grown.joined == joined


def test_a_circuit_that_no_head_helps_stays_as_it_is(context: ClaimContext) -> None:
    """And its faithfulness is kept, for the line that says that it does not suffice."""
    model = MadeUp(lambda alive: 0.2 + 0.35 * (A in alive))
    grown = grow(context, "base", {"movers": [A]}, [stage(A, B, C)], model, 210, 210, "threshold")
    assert grown.joined == ()
    assert grown.faithfulness is not None
    assert grown.faithfulness.value == pytest.approx(0.35 / 0.75, abs=0.02)
    (line,) = growth(Discovery({}, (), None, grown=grown))
    assert line.endswith("on the rows of the search, and no head significantly improves it")


def test_heads_that_were_not_tried_are_counted_where_growth_stops(
    context: ClaimContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C would help and comes too late; the line does not say that no head does."""
    monkeypatch.setattr(sufficiency, "MOST_TRIED", 2)
    model = MadeUp(lambda alive: 0.2 + 0.35 * (A in alive) + 0.4 * (C in alive))
    tried = stage(A, B, USELESS, D, C)
    grown = grow(context, "base", {"movers": [A]}, [tried], model, 210, 210, "threshold")
    assert (grown.joined, grown.untried) == ((), 2)
    (line,) = growth(Discovery({}, (), None, grown=grown))
    assert "the strongest effects (the other 2 were not tried) significantly improves" in line
