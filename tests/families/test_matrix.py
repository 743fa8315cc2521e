"""Every measurement on every family: the same by both engines, and nothing left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from asked import CROSSED, DONATED, EVERY, LAST, LEARNED, OTHERS, PATCHED, SEARCH, TASK, WEIGHED
from configs import FAMILIES, HEADS, LAYERS
from float64 import exact

from pytest_mechanism.engine.interface import Branch, Edit, Site
from pytest_mechanism.measurements.direction import DirectionComparison, RefusalDirection
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.measurements.snip import SafetyEntries, WeightChange
from pytest_mechanism.methods.circuits import dcm
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights.matrices import editable_copy
from pytest_mechanism.methods.weights.pruning import Units, zeroed
from pytest_mechanism.registry import resolve
from pytest_mechanism.runner.store import ROW_FIELDS
from pytest_mechanism.types import Observations

Benches = Callable[..., MeasurementContext]
BOTH = ("branch", "reference")
OUT_OF_WINDOW = {
    "mistral": {"path through q", "path through k", "path through v"},
    "gemma2": {"path through q"},
    "gemma3": {"path through q"},
    "gpt-oss": {"path through q"},
}
"""Paths of no effect: a layer with a window does not see the operand from the last token."""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is learned in two steps."""
    settings = partial(dcm.DcmSettings, train=32, validation=8, batch=16, epochs=1)
    monkeypatch.setattr(dcm, "DcmSettings", settings)


def measured(bench: MeasurementContext, request: Request, *inputs: Any) -> Any:
    return resolve(request.implementation)(bench, request, inputs)


def beside(seen: Observations) -> dict[str, Any]:
    """The fields beside the rows."""
    return {f.name: getattr(seen, f.name) for f in fields(seen) if f.name not in ROW_FIELDS}


def farthest(mine: Observations, theirs: Observations) -> float:
    """The largest difference of any row's value. Ratios of probabilities are exponentials of
    differences that stand beside them."""
    assert list(mine.values) == list(theirs.values)
    assert beside(mine) == beside(theirs)
    names = [name for name in mine.values if not name.startswith("ratio ")]
    return max(float(np.abs(mine.values[n] - theirs.values[n]).max()) for n in names)


def widest(seen: Observations) -> float:
    """The largest difference between two rows of any column."""
    names = [name for name in seen.values if not name.startswith("ratio ")]
    return max(float(np.ptp(seen.values[n])) for n in names)


def spread(bench: MeasurementContext) -> float:
    """Standard deviation of the answers' logits."""
    rows = bench.task.rows(bench.vocabulary, 12, "test")
    return float(bench.engine.run(bench.batch(rows).base.tokens).outcome.logits.std())


@pytest.mark.parametrize("name", FAMILIES)
def test_what_goes_through_an_engine_is_the_same_by_both(bench: Benches, name: str) -> None:
    """Row by row, within 1e-4 of the logits' standard deviation in float32."""
    fast, sure = (bench(name, engine) for engine in BOTH)
    assert fast.engine.name == FAMILIES[name].engine
    result = {
        what: [measured(each, request) for each in (fast, sure)]
        for what, request in PATCHED.items()
    }
    donors = (bench(name, engine, seed=1) for engine in BOTH)
    result["cmap"] = [
        measured(each, CROSSED, measured(donor, DONATED))
        for each, donor in zip((fast, sure), donors, strict=True)
    ]
    limit = 1e-4 * spread(sure)
    gaps = {what: farthest(*both) for what, both in result.items()}
    assert {what: gap for what, gap in gaps.items() if not gap <= limit} == {}
    # What does not move compares nothing. Rounding moves a column by less than the limit, an effect
    # by 400 limits and more. CMAP and a mask give right and wrong alone, and here may turn no answer.
    moves = {what for what, (one, _) in result.items() if widest(one) > limit}
    still = {"cmap", "mask"}
    assert moves - still == {*PATCHED} - still - OUT_OF_WINDOW.get(name, set())
    codes = [each.codes for each in result["cmap"]]
    assert len(codes[0]) == len(LAST + OTHERS)
    for one, other in zip(*codes, strict=True):
        assert one.agreement == pytest.approx(other.agreement, abs=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_effects_are_the_same_in_float64(bench: Benches, name: str) -> None:
    """Within 1e-6: each head's, and the paths through q, k and v."""
    fast, sure = (bench(name, engine, "float64") for engine in BOTH)
    assert fast.engine.name == FAMILIES[name].engine
    whats = ("path to the logits", "path through q", "path through k", "path through v")
    for what in (*whats, "circuit, positional mean"):
        with exact():
            both = [measured(each, PATCHED[what]) for each in (fast, sure)]
        assert farthest(*both) < 1e-6, what


@pytest.mark.parametrize("name", FAMILIES)
def test_masks_learn_the_same_by_both(bench: Benches, name: str) -> None:
    """DCM's gradient, through whatever a family's layers hold."""
    result = []
    for engine in BOTH:
        one = bench(name, engine)
        (batch,) = one.batches(TASK.interchange(one.vocabulary, "operand", 12, "test"))
        mask = torch.full((len(LEARNED),), 0.5, requires_grad=True)
        with torch.enable_grad():
            logits = dcm.patched(
                one, LEARNED, batch, dcm.source_z(one, LEARNED, batch), mask, gradients=True
            )
            logits.gather(1, batch.targets[:, None]).mean().backward()
        result.append(mask.grad.detach())
    assert float(result[1].abs().min()) > 0
    torch.testing.assert_close(*result, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_changes_weights_does_so_in_every_family(bench: Benches, name: str) -> None:
    """Pruning, curves and directions: untouched, a copy says what the model says; touched, it
    moves."""
    one = bench(name)
    result = {what: measured(one, request) for what, request in WEIGHED.items()}
    rows = TASK.capability(one.vocabulary, 12, "test")
    batch = one.batch(rows)
    right = one.engine.run(batch.base.tokens).outcome.logits.argmax(-1) == batch.answers
    for what in ("pruning, weights", "pruning, heads", "curve", "curve, LoRA"):
        assert result[what].values["correct@0"].tolist() == right.double().tolist(), what
    for what in ("curve", "curve, LoRA"):
        first, second = result[what].losses
        assert np.isfinite([first, second]).all()
        assert first != second
        assert result[what].diverged is None
    for what in ("weights", "neurons", "heads"):
        assert len(set(result[f"pruning, {what}"].units)) == 2
    without = result["direction"].values
    assert without["refusal_score"].tolist() == result["refusal"].values["refusal_score"].tolist()
    assert np.abs(without["random_0_refusal_score"] - without["refusal_score"]).min() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_without_its_weights_is_a_head_without_z(bench: Benches, name: str) -> None:
    """What the output matrix reads of a head, zeroed in a plain copy, and z zeroed by the engine,
    are one thing, whatever norms come after."""
    one = bench(name)
    copy = editable_copy(one.model)
    units = Units("heads", copy.outputs, one.model.shape.d_head)
    tokens = one.batch(TASK.rows(one.vocabulary, 8, "test")).base.tokens
    rows = torch.arange(8)
    for layer, head in EVERY[::3]:
        with zeroed(units.views(layer * HEADS + head)), torch.no_grad():
            plain = copy.model(tokens.ids, attention_mask=tokens.unmasked).logits
        edit = Edit(Site(layer, "z"), torch.zeros(()), heads=(head,))
        (outcome,) = one.engine.run(tokens).branches([Branch([edit])])
        torch.testing.assert_close(outcome.logits, plain[rows, tokens.last], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_weight_of_a_layer_is_left_out(bench: Benches, name: str) -> None:
    """SNIP's matrices are all of a layer's but norms, biases and sinks: experts, and what chooses
    among them, too. What it says of their change is what the files say."""
    one, other = bench(name), bench(name, seed=1)
    safety = measured(one, SafetyEntries(q=0.1, p=0.05, scored=4))
    change = measured(other, WeightChange(seed=0), safety)
    before, after = (
        {
            key: weight.detach()
            for key, weight in each.model.read_plain_model(torch.float32).named_parameters()
            if "layers." in key or ".h." in key
            if weight.dim() > 1 and not key.endswith("_bias")
        }
        for each in (one, other)
    )
    assert sum(change.values["entries"]) == sum(weight.numel() for weight in before.values())
    squares = sum(float((after[k] - before[k]).double().square().sum()) for k in before)
    assert sum(change.values["squared"]) == pytest.approx(squares, rel=1e-6)
    assert len(before) >= 4 * LAYERS
    safe = np.divide(change.values["safety"], change.values["entries"])
    assert (safe > 0).any()
    assert (safe <= 0.11).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_directions_are_compared_in_every_family(bench: Benches, name: str) -> None:
    """A direction found in one is found again by its twin, at the same place."""
    one = bench(name)
    search = measured(one, RefusalDirection(**SEARCH))
    same = measured(one, DirectionComparison(learn=SEARCH["learn"]), search)
    best = search.best and (search.best.layer, search.best.place)
    assert (same.direction and (same.direction.layer, same.direction.token)) == best
    for column in (c for c in same.values if c.startswith("own")):
        other = same.values[column.replace("own", "other")]
        np.testing.assert_allclose(same.values[column], other, atol=1e-4, rtol=1e-4)
