"""Which heads a stage patches alone, and on how many rows: on a made-up model whose effects are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluators import open_evaluator

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.patched_alone import BANDS
from pytest_mechanism.discovery.discover import no_heads_reason
from pytest_mechanism.discovery.looks import looks, measure_in_looks
from pytest_mechanism.discovery.screening import Screening, agreement, bands, number_kept, summary
from pytest_mechanism.discovery.stages import Stage, StageSearch
from pytest_mechanism.fields.groups import DiscoveredGroup, Find, Screen
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.nodes import Member
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.types import Head, Observations

SPEC = """mechanism: 1
circuit: made_up
task: {family: entity_tracking, boxes: 7, rows: 140}
groups: {movers: {heads: discovered, at: last}}
claims: {solves: {kind: accuracy, at_least: 0.5}}
"""


@dataclass
class MadeUp:
    """Answers requests from known effects.

    Attributes:
        effects: head -> nats; 0 for others.
        missed: heads whose gradient is 0.
        spread: of a head's effect between rows.
        rows_measured: (name of the set of senders, first row, rows) of path patching.
    """

    effects: dict[Member, float]
    missed: set[Member] = field(default_factory=set)
    spread: float = 0.001
    rows_measured: list[tuple[str, int, int]] = field(default_factory=list)

    def __call__(self, measurement: Measurement[Any]) -> Any:
        request = measurement.request
        rows = range(request.first, request.first + request.rows)
        noise = np.array([np.random.default_rng(row).normal() for row in rows]) * self.spread
        values = {}
        if isinstance(request, PathPatching):
            for name, heads in request.senders.items():
                self.rows_measured.append((name, request.first, request.rows))
                values[name] = sum(self.effects.get(head, 0.0) for head in heads) + noise
                values[f"ratio {name}"] = np.expm1(values[name])
        else:
            for layer, part in (*request.heads, *((n, "mlp") for n in request.mlps)):
                effect = self.effects.get((layer, part), 0.0)
                estimate = 0.0 if (layer, part) in self.missed else effect
                values[f"{layer}.{part}"] = values[f"slope {layer}.{part}"] = estimate + 0 * noise
        ids = tuple(map(str, rows))
        return Observations(ids, ids, values)


Run = Callable[..., tuple[dict[Head, Any], Screening]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Searches one stage of 16 heads, of which the screen keeps four."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load(tmp_path / "spec.yaml")
    gate = open_evaluator("--model", "zoo:base", "--store", tmp_path / "store")
    context = gate.context(spec, Accuracy(kind="accuracy", on="base", at_least=0.01), "base")

    def search(model: MadeUp, **find: Any) -> tuple[dict[Head, Any], Screening]:
        group = DiscoveredGroup(heads="discovered", at="last", find=Find(**find))
        effects, _, screened = StageSearch(context, "base", group, None, model, 210).run()
        return effects, screened

    return search


FOUR = Screen(keep=4)


def test_heads_left_out_are_patched_together_and_said(run: Run) -> None:
    """Four heads are patched alone, the other twelve in sets of layers; the summary gives the effect of these
    sets."""
    model = MadeUp({(3, 0): -1.0, (2, 1): -0.5, (1, 0): -0.01})
    effects, screened = run(model, screen=FOUR)
    assert {(3, 0), (2, 1), (1, 0)} < set(effects)
    assert len(effects) == 4
    assert len(screened.left_out) == 12
    assert {name for name, _, _ in model.rows_measured} == {
        *(f"{layer}.{head}" for layer, head in effects),
        *(f"rest of layer {layer}" for layer in range(4)),
    }
    assert summary(screened, 4).startswith(
        "12 of 16 heads left out by gradient, the others patched alone; those left out were patched together in "
        "4 sets of layers, with "
    )


def test_a_group_without_heads_says_how_many_were_not_patched_alone(run: Run) -> None:
    """The reason names the key that sets how many are; of a stage without a screen it does not."""
    groups = {"g": DiscoveredGroup(heads="discovered", at="last", find=Find(screen=FOUR))}
    effects, screened = run(MadeUp({(3, 0): -0.001}), screen=FOUR)
    said = "12 heads were patched only together; find: {screen: {keep: ...}} sets how many"
    for screening_of_stage, expected in ((screened, True), (Screening(), False)):
        stage = Stage("g", "last", None, None, effects, {}, (), (), screening_of_stage)
        assert (said in no_heads_reason(groups, [stage], ["g"])) == expected


def test_a_table_has_estimates_for_heads_left_out(run: Run) -> None:
    """Not NaN, which means that a head cannot reach the receivers."""
    effects, screened = run(MadeUp({(3, 0): -1.0, (0, 1): -0.01}), screen=FOUR)
    stage = Stage("g", "last", None, None, effects, {}, (), (), screened)
    table = stage.table(Shape(5, 4, 4, 8, 2, 10))
    assert np.isnan(table[4]).all()
    assert not np.isnan(table[:4]).any()
    assert {head: table[head] for head in screened.left_out} == {
        head: screened.estimates[head] for head in screened.left_out
    }
    assert table[3, 0] == effects[3, 0].value


def test_a_head_that_the_gradient_misses_is_found_by_its_layer(run: Run) -> None:
    """The head's estimate is 0, but its layer's effect is not, so the layer's heads are patched alone after
    all. The layer is a band too, and is measured once."""
    model = MadeUp({(3, 0): -1.0, (2, 1): -0.5, (1, 2): -0.4}, missed={(1, 2)})
    effects, screened = run(model, screen=FOUR)
    assert effects[1, 2].value == pytest.approx(-0.4, abs=0.01)
    assert (1, 2) in screened.opened
    assert [name for name, _, _ in model.rows_measured].count("rest of layer 1") == 1
    assert "heads of layer 1 were patched alone after all" in summary(screened, 8)


ALL = ["heads", "mlps", "attention_outputs"]


def test_mlps_and_attention_outputs_pass_the_same_screen(run: Run) -> None:
    """24 members compete for four places; an attention output is estimated, and patched, as the sum of its heads."""
    model = MadeUp({(3, 0): -1.0, (3, 1): -0.5, (1, "mlp"): -0.7})
    effects, screened = run(model, members=ALL, screen=FOUR)
    assert {(3, "attention"), (3, 0), (1, "mlp"), (3, 1)} == set(effects)
    assert effects[3, "attention"].value == pytest.approx(-1.5, abs=0.01)
    assert screened.estimates[3, "attention"] == pytest.approx(-1.5)
    assert len(screened.left_out) == 20
    assert summary(screened, 4).startswith(
        "20 of 24 heads, MLPs and attention outputs left out by gradient, the others patched alone"
    )


def test_an_mlp_that_the_gradient_misses_is_found_by_its_layer(run: Run) -> None:
    """Its layer's members are patched alone after all, the whole attention output among them."""
    model = MadeUp({(3, 0): -1.0, (1, "mlp"): -0.4}, missed={(1, "mlp")})
    effects, screened = run(model, members=ALL, screen=Screen(keep=1))
    assert effects[1, "mlp"].value == pytest.approx(-0.4, abs=0.01)
    assert {(1, "mlp"), (1, "attention"), (1, 0)} <= {*screened.opened}


def test_a_table_has_a_column_for_mlps_and_for_attention_outputs(run: Run) -> None:
    """To the right of the heads; and none where only heads were searched."""
    shape = Shape(4, 4, 4, 8, 2, 10)
    effects, screened = run(MadeUp({(1, "mlp"): -0.7}), members=ALL)
    stage = Stage("g", "last", None, None, effects, {}, (), (), screened)
    assert stage.wholes == ["attention", "mlp"]
    assert stage.table(shape).shape == (4, 6)
    assert stage.table(shape)[1, 5] == effects[1, "mlp"].value
    assert stage.cells([(1, "mlp"), (3, 0)], shape) == [(1, 5), (3, 0)]
    heads, _ = run(MadeUp({(3, 0): -0.7}))
    alone = Stage("g", "last", None, None, heads, {}, (), ())
    assert alone.table(shape).shape == (4, 4)
    assert alone.cells([(1, "mlp"), (3, 0)], shape) == [(3, 0)]


def test_a_head_whose_layer_cancels_it_stays_hidden(run: Run) -> None:
    """A limit of the screen, which the docstring of `discovery.screening` states."""
    hidden = MadeUp({(3, 0): -1.0, (1, 2): -0.4, (1, 3): 0.4}, missed={(1, 2), (1, 3)})
    effects, screened = run(hidden, screen=Screen(keep=1))
    assert (1, 2) not in effects
    assert (1, 2) in screened.left_out


def test_a_settled_head_gets_no_further_rows(run: Run) -> None:
    """The first rows settle heads far from the threshold; the head near it gets all rows."""
    model = MadeUp({(3, 0): -1.0, (2, 1): -0.2}, spread=0.05)
    effects, _ = run(model)
    rows = {head: effect.n for head, effect in effects.items()}
    assert rows.pop((2, 1)) == 210
    assert {*rows.values()} == {64}
    total = sum(count for name, _, count in model.rows_measured)
    assert total == 16 * 64 + 64 + 82


def test_heads_taken_by_rank_get_all_rows(run: Run) -> None:
    """The published rule compares heads with each other, so no threshold settles a head."""
    effects, _ = run(MadeUp({(3, 0): -1.0}), candidates=2)
    assert {effect.n for effect in effects.values()} == {210}


def test_looks_are_at_most_three() -> None:
    """A search over few rows has a single look."""
    assert looks(210) == [64, 128, 210]
    assert looks(100) == [64, 100]
    assert looks(64) == [64]
    assert looks(20) == [20]


def test_small_models_are_not_screened() -> None:
    """Up to 64 senders, every sender is patched; above, one in sixteen, at least sixteen, unless the spec
    names a number."""
    group = DiscoveredGroup(heads="discovered", at="last")
    assert [number_kept(group, n) for n in (16, 64, 65, 270, 1024)] == [16, 64, 16, 17, 64]
    explicit = DiscoveredGroup(heads="discovered", at="last", find=Find(screen=Screen(keep=300)))
    assert number_kept(explicit, 270) == 270


def test_bands_hold_every_head_once() -> None:
    """Consecutive layers, six sets at most."""
    heads = [(layer, head) for layer in range(30) for head in range(9)]
    sets = bands(heads)
    assert len(sets) == BANDS
    assert sorted(head for part in sets.values() for head in part) == heads
    assert list(bands([(4, 1), (4, 2)])) == ["rest of layer 4"]


def test_a_task_with_few_rows_ends_the_looks() -> None:
    """Heads keep what their rows gave; a look without rows is no error."""

    def measure(heads: Sequence[Head], first: int, rows: int) -> Observations:
        ids = tuple(map(str, range(first, min(70, first + rows))))
        values = {f"{layer}.{head}": [-0.2] * len(ids) for layer, head in heads}
        values |= {f"ratio {name}": column for name, column in values.items()} if ids else {}
        return Observations(ids, ids, values if ids else {})

    effects, _ = measure_in_looks([(0, 0)], 210, None, 0.95, 0, measure)
    assert effects[0, 0].n == 70


@pytest.mark.parametrize(
    "family", ["entity_tracking, boxes: 7", "ioi", "induction", "counting, refuse: a"]
)
def test_more_rows_begin_with_the_same_rows(tmp_path: Path, family: str) -> None:
    """A later look continues where the earlier look ended, in every task."""
    (tmp_path / "task.yaml").write_text(
        f"mechanism: 1\ncircuit: x\ntask: {{family: {family}, rows: 140}}\n"
        "claims: {solves: {kind: accuracy, at_least: 0.5}}\n"
    )
    task = load(tmp_path / "task.yaml").task
    few, many = (task.pairs(AnyWord(), count, "discover_rank") for count in (64, 210))
    assert [row.base.text for row in few] == [row.base.text for row in many[:64]]
    assert len(many) == 210


@pytest.mark.parametrize(
    ("effects", "expected"),
    [([-3.0, -2.0, -1.0], 1.0), ([-1.0, -2.0, -3.0], -1.0), ([0.0, 0.0, 0.0], None)],
)
def test_equal_effects_have_no_rank_correlation(
    effects: list[float], expected: float | None
) -> None:
    """Path patching at a position before which the source prompts are the same has no effect at all; the search
    says so without a library's warning."""
    heads = [(0, head) for head in range(3)]
    estimates = dict(zip(heads, (-0.3, -0.2, -0.1), strict=True))
    found = agreement(estimates, dict(zip(heads, effects, strict=True)))
    assert found == (expected if expected is None else pytest.approx(expected))
