"""``diffuse_change``: what it calls concentrated, and what it refuses to judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluators import open_evaluator

from pytest_mechanism.causes import Cause
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.diffuse_change import DiffuseChange
from pytest_mechanism.measurements.grafting import GraftDivergence
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.types import Observations, Verdict
from recipes.simulation.setting import context_of
from recipes.simulation.world import measured

N = 70
SPREAD = np.linspace(0.5, 1.5, N)
ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"


def judged(
    before: float = 0.02, /, *, layers_at_most: float | None = None, **shares: Any
) -> Verdict:
    """The verdict on parts that hold these shares (names: ``h2_1`` is head 2.1) of a divergence in nats."""
    names = {name: name.removeprefix("h").replace("_", ".") if name[0] == "h" else name.replace("_", " ")
             for name in shares}  # fmt: skip
    columns = {"before": before * SPREAD, "predictions": np.ones(N)}
    columns |= {names[name]: before * SPREAD * (1 - held) for name, held in shares.items()}
    claim = DiffuseChange(kind="diffuse_change", at_most=0.6, layers_at_most=layers_at_most)
    right = {"correct": np.ones(N)}
    answers = {"Performance": right, "GraftDivergence": columns}
    return require_safeguards(claim.judge(context_of(N), measured(answers, {})), claim.kind)


NOISY = 0.03 * np.random.default_rng(0).normal(size=N)


def test_a_part_that_brings_most_back_is_named_whatever_the_size_of_the_change() -> None:
    """.9 is above the bound of .6 for a change of .02 nats and of .0002; .3 is below it, and .598 cannot be told."""
    found = [judged(size, h2_1=0.9 + NOISY, h1_mlp=0.2 + NOISY) for size in (0.02, 0.0002)]
    assert [(v.status, v.cause) for v in found] == [("fail", Cause.REFUTED)] * 2
    assert found[0].reason.startswith("head 2.1 of base, put into ft alone, brings back 0.9")
    assert (
        "of a typical row's divergence (KL(base || ft) 0.02 [0.0158, 0.0242] nats a prediction)"
        in found[0].reason
    )
    assert judged(h2_1=0.3 + NOISY, h1_mlp=0.2 + NOISY).status == "pass"
    near = judged(h2_1=0.598 + 10 * NOISY, h1_mlp=0.2)
    assert (near.status, near.cause) == ("inconclusive", Cause.UNSETTLED)
    assert near.scores[0].name == "largest share of a head or MLP"


def test_a_row_that_holds_most_of_the_mean_does_not_decide() -> None:
    """One row of 70 has nine tenths of the divergence, and a head that brings back this row alone; a typical row of
    another head's is brought back by nine tenths, and the mean hardly."""
    before = np.where(np.arange(N) == 7, 10.0, 0.016)
    rare = np.where(np.arange(N) == 7, 0.998, 0.01)
    common = np.where(np.arange(N) == 7, 0.0, 0.9)
    columns = {"before": before, "predictions": np.ones(N)}
    claim = DiffuseChange(kind="diffuse_change", at_most=0.6)
    status = {}
    for name, held in (("rare", rare), ("common", common)):
        parts = columns | {"2.1": before * (1 - held), "1.mlp": before * 0.99}
        answers = {"Performance": {"correct": np.ones(N)}, "GraftDivergence": parts}
        status[name] = claim.judge(context_of(N), measured(answers, {})).status
    assert status == {"rare": "pass", "common": "fail"}


def test_a_change_that_is_surely_too_small_may_lie_anywhere() -> None:
    """.0002 nats [.00016, .00024] in one head pass below .0003, and fail where .0002 is the most that is ignored."""
    found = {}
    for most in (0.0003, 0.0002):
        claim = {"kind": "diffuse_change", "at_most": 0.6, "same_below": most}
        columns = {"before": 0.0002 * SPREAD, "2.1": 0.00002 * SPREAD, "predictions": np.ones(N)}
        answers = {"Performance": {"correct": np.ones(N)}, "GraftDivergence": columns}
        verdict = DiffuseChange(**claim).judge(context_of(N), measured(answers, {}))
        found[most] = verdict.status
    assert found == {0.0003: "pass", 0.0002: "fail"}


def test_layers_have_a_bound_of_their_own_or_none() -> None:
    """.8 of the change in a layer is too much only where the claim says so."""
    shares = {"h2_1": 0.3 + NOISY, "layer_2": 0.8 + NOISY}
    bounds = (None, 0.9, 0.7)
    assert [judged(**shares, layers_at_most=b).status for b in bounds] == ["pass", "pass", "fail"]


def test_models_that_say_the_same_pass_without_a_share() -> None:
    """Below 1e-5 nats a prediction lies rounding: its shares may be anything, also 1 or minus a thousand."""
    for size in (0.0, 1e-9, 5e-6):
        verdict = judged(size, h2_1=1.0, h1_mlp=-1000.0)
        assert (verdict.status, verdict.scores[0].value) == ("pass", 0.0)
        assert "the models say the same" in verdict.reason
    assert judged(2e-5, h2_1=0.9 + NOISY, h1_mlp=0.0).status == "fail"


def test_shares_are_not_judged_where_no_graft_fits() -> None:
    """Activations in another basis: whatever is grafted makes it worse."""
    verdict = judged(h2_1=-3.0 + NOISY, h1_mlp=-0.2 + NOISY, layer_2=-0.5 + NOISY)
    assert verdict.status == "inconclusive"
    assert "their activations may have different bases" in verdict.reason or (
        "does not fit" in verdict.reason
    )
    worse = judged(h1_mlp=-0.2 + NOISY, layer_2=-0.5 + NOISY)
    assert (worse.status, worse.cause) == ("inconclusive", Cause.CONTROL_AS_GOOD)


def test_a_head_in_another_place_is_not_called_harmless() -> None:
    """The layer fits as a whole, and one head of it doubles the divergence."""
    verdict = judged(h2_1=-2.0 + NOISY, h2_2=-2.0 + NOISY, layer_2=0.5 + NOISY, h1_mlp=0.1 + NOISY)
    assert (verdict.status, verdict.cause) == ("inconclusive", Cause.NOT_COMPARABLE)
    assert "head 2.1 of base does not fit into ft" in verdict.reason


def test_a_large_model_is_grafted_layer_by_layer_first() -> None:
    """30 layers with 9 heads: 30 layers, then heads, MLP and attention of the 3 that bring most back: 63 grafts and
    those outside the layers."""
    asked: list[GraftDivergence] = []

    def measure(measurement: Measurement) -> Observations:
        ids = [f"row-{i}" for i in range(N)]
        request = measurement.request
        if not isinstance(request, GraftDivergence):
            return Observations(ids, ids, {"correct": np.ones(N)})
        asked.append(request)
        held = {"layer 7": 0.3, "layer 8": 0.2, "layer 21": 0.1, "8.4": 0.2}
        columns = {name: 0.02 * SPREAD * (1 - held.get(name, 0.0)) for name in request.members}
        return Observations(
            ids, ids, columns | {"before": 0.02 * SPREAD, "predictions": np.ones(N)}
        )

    context = context_of(N)
    shape = Shape(30, 9, 3, 576, 64, 49152)
    context = replace(context, shapes=dict.fromkeys(context.shapes, shape))
    claim = DiffuseChange(kind="diffuse_change", at_most=0.6)
    verdict = claim.judge(context, measure)
    assert (verdict.status, verdict.scores[0].value) == ("pass", pytest.approx(0.2, abs=1e-4))
    first, inside = asked
    assert (len(first.members), first.outside) == (30, True)
    assert (len(inside.members), inside.outside) == (33, False)
    assert {name for name in inside.members if name.startswith("attention")} == {
        f"attention of layer {layer}" for layer in (7, 8, 21)
    }


def test_a_doubled_value_matrix_lies_in_its_head(tmp_path: Path) -> None:
    """On the planted pair, through the gate: head 2.6 of the base brings all back."""
    spec = tmp_path / "x.yaml"
    spec.write_text(
        "mechanism: 1\ncircuit: x\ntask: {family: entity_tracking, boxes: 2, rows: 60, seed: 0}\n"
        "claims:\n  spread: {kind: diffuse_change, at_most: 0.6}\n"
    )
    gate = open_evaluator(
        "--model-pair", "zoo:planted_base,ft=zoo:planted_ft", "--store", tmp_path / "store"
    )
    loaded = load(spec)
    verdict = gate.judge(loaded, loaded.claims["spread"], "pair")
    gate.runner.checkpoint.release()
    assert verdict.status == "fail"
    assert verdict.reason.startswith("head 2.6 of base, put into ft alone, brings back 0.99")
    assert verdict.scores[0].value == pytest.approx(1, abs=0.005)
