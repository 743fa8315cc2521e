"""Every measurement on every family: both engines agree, and no measurement is skipped silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from configs import FAMILIES, HEADS, LAYERS, QUICK, QUICK_OR_SLOW
from float64 import exact
from small_requests import (
    CROSSED,
    CROSSED_INPUTS,
    DONATED,
    DONATED_INPUTS,
    EVERY,
    LAST,
    LEARNED,
    OTHERS,
    PATCHED,
    READ,
    SEARCH,
    TASK,
    TEXT,
    WEIGHED,
)

from pytest_mechanism.engine.interface import Branch, Edit, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.direction import DirectionComparison, RefusalDirection
from pytest_mechanism.measurements.grafting import (
    AnswerDonation,
    GraftDivergence,
    MemberGraft,
)
from pytest_mechanism.measurements.member_weights import WeightDonation
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.measurements.snip import SafetyEntries, WeightChange
from pytest_mechanism.methods.circuits import dcm
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights.matrices import editable_copy
from pytest_mechanism.methods.weights.pruning import Units, zeroed
from pytest_mechanism.registry import resolve
from pytest_mechanism.runner.store import ROW_FIELDS
from pytest_mechanism.types import Observations

ContextFactory = Callable[..., MeasurementContext]
BOTH = ("branch", "reference")
OUT_OF_WINDOW = {
    "mistral": {
        "edges", "path through q", "path through k", "path through v", "path from and into MLPs"
    },
    "gemma2": {"path through q", "path from and into MLPs"},
    "gemma3": {"path through q", "path from and into MLPs"},
    "gpt-oss": {"path through q", "path from and into MLPs"},
}  # fmt: skip
"""Paths of no effect: a layer with a window does not see the operand from the last token."""

NO_HEAD_ALONE = {"gemma2", "gemma3", "olmo2"}
"""Families with a norm behind attention, so that its heads do not add up to its output."""


@pytest.fixture(autouse=True)
def short_mask_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is learned in two steps."""
    settings = partial(dcm.DcmSettings, train=32, validation=8, batch=16, epochs=1)
    monkeypatch.setattr(dcm, "DcmSettings", settings)


def measured(context: MeasurementContext, request: Request, *inputs: Any) -> Any:
    return resolve(request.implementation)(context, request, inputs)


def extra_fields(observations: Observations) -> dict[str, Any]:
    """The fields besides the rows' columns."""
    return {
        f.name: getattr(observations, f.name)
        for f in fields(observations)
        if f.name not in ROW_FIELDS
    }


def largest_difference(left: Observations, right: Observations) -> float:
    """The largest difference of any row's value. Ratios of probabilities are left out, because they are
    exponentials of other columns."""
    assert list(left.values) == list(right.values)
    assert extra_fields(left) == extra_fields(right)
    names = [name for name in left.values if not name.startswith("ratio ")]
    return max(float(np.abs(left.values[n] - right.values[n]).max()) for n in names)


def largest_spread(observations: Observations) -> float:
    """The largest difference between two rows of any column."""
    names = [name for name in observations.values if not name.startswith("ratio ")]
    return max(float(np.ptp(observations.values[n])) for n in names)


def spread(context: MeasurementContext) -> float:
    """Standard deviation of the answers' logits."""
    rows = context.task.rows(context.vocabulary, 12, "test")
    return float(context.engine.run(context.batch(rows).base.tokens).outcome.logits.std())


@pytest.mark.parametrize("name", QUICK_OR_SLOW)
def test_what_goes_through_an_engine_is_the_same_by_both(
    context_of: ContextFactory, name: str
) -> None:
    """Row by row, within 1e-4 of the logits' standard deviation in float32."""
    fast, sure = (context_of(name, engine) for engine in BOTH)
    assert fast.engine.name == FAMILIES[name].engine
    result = {
        method: [measured(context, request) for context in (fast, sure)]
        for method, request in PATCHED.items()
    }
    donors = [context_of(name, engine, seed=1) for engine in BOTH]
    result["cmap"] = [
        measured(context, CROSSED, measured(donor, DONATED))
        for context, donor in zip((fast, sure), donors, strict=True)
    ]
    inputs = [measured(donor, DONATED_INPUTS) for donor in donors]
    for part, request in CROSSED_INPUTS.items():
        result[f"cmap of {part}"] = [
            measured(context, request, donation)
            for context, donation in zip((fast, sure), inputs, strict=True)
        ]
    limit = 1e-4 * spread(sure)
    gaps = {method: largest_difference(*both) for method, both in result.items()}
    assert {method: gap for method, gap in gaps.items() if not gap <= limit} == {}
    # What does not move compares nothing. Rounding moves a column by less than the limit, an effect
    # by 400 limits and more. CMAP, a mask and cells give right and wrong alone, and here may turn no answer.
    moves = {
        method for method, (by_branches, _) in result.items() if largest_spread(by_branches) > limit
    }
    still = {"cmap", "mask", "cells"}
    moving = {*PATCHED, *(f"cmap of {part}" for part in CROSSED_INPUTS)}
    assert moves - still == moving - still - OUT_OF_WINDOW.get(name, set())
    # text is read by hooks of the method's own, whatever the engine
    texts = [measured(sure, READ, measured(model, TEXT)) for model in (fast, donors[1])]
    assert [float(np.max(found.values["divergence"])) > 1e-3 for found in texts] == [False, True]
    codes = [observations.codes for observations in result["cmap"]]
    assert len(codes[0]) == len(LAST + OTHERS)
    for by_branches, by_reference in zip(*codes, strict=True):
        assert by_branches.agreement == pytest.approx(by_reference.agreement, abs=1e-3)


@pytest.mark.parametrize("name", QUICK)
def test_effects_are_the_same_in_float64(context_of: ContextFactory, name: str) -> None:
    """Within 1e-6: each head's, and the paths through q, k and v. What is left of a difference in float32, in which the
    other families are compared too, is rounding."""
    fast, sure = (context_of(name, engine, "float64") for engine in BOTH)
    assert fast.engine.name == FAMILIES[name].engine
    paths = ("path to the logits", "path through q", "path through k", "path through v")
    for method in (*paths, "circuit, positional mean"):
        with exact():
            both = [measured(context, PATCHED[method]) for context in (fast, sure)]
        assert largest_difference(*both) < 1e-6, method


@pytest.mark.parametrize("name", QUICK_OR_SLOW)
def test_masks_learn_the_same_by_both(context_of: ContextFactory, name: str) -> None:
    """DCM's gradient in heads and MLPs agrees through every part of a family's layers."""
    mlps = [(layer, "last" if layer else "letters") for layer in range(LAYERS)]
    result = []
    for engine in BOTH:
        context = context_of(name, engine)
        (batch,) = context.batches(TASK.interchange(context.vocabulary, "operand", 12, "test"))
        mask = torch.full((len(LEARNED) + len(mlps),), 0.5, requires_grad=True)
        values = dcm.source_z(context, LEARNED, batch, mlps)
        with torch.enable_grad():
            run = context.engine.run(batch.base.tokens)
            logits = dcm.patched(run, LEARNED, batch, values, mask, gradients=True, mlps=mlps)
            logits.gather(1, batch.targets[:, None]).mean().backward()
        result.append(mask.grad.detach())
    assert float(result[1].abs().min()) > 0
    torch.testing.assert_close(*result, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", QUICK_OR_SLOW)
def test_what_changes_weights_does_so_in_every_family(
    context_of: ContextFactory, name: str
) -> None:
    """Pruning, curves and directions: an unchanged copy gives the model's answers, a changed copy differs."""
    context = context_of(name)
    result = {method: measured(context, request) for method, request in WEIGHED.items()}
    rows = TASK.capability(context.vocabulary, 12, "test")
    batch = context.batch(rows)
    right = context.engine.run(batch.base.tokens).outcome.logits.argmax(-1) == batch.answers
    for method in ("pruning, weights", "pruning, heads", "curve", "curve, LoRA"):
        assert result[method].values["correct@0"].tolist() == right.double().tolist(), method
    for method in ("curve", "curve, LoRA"):
        first, second = result[method].losses
        assert np.isfinite([first, second]).all()
        assert first != second
        assert result[method].diverged is None
    for method in ("weights", "neurons", "heads"):
        assert len(set(result[f"pruning, {method}"].units)) == 2
    without = result["direction"].values
    assert without["refusal_score"].tolist() == result["refusal"].values["refusal_score"].tolist()
    assert np.abs(without["random_0_refusal_score"] - without["refusal_score"]).min() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_without_its_weights_is_a_head_without_z(
    context_of: ContextFactory, name: str
) -> None:
    """Zeroing a head's columns of the output matrix in a plain copy, and zeroing z in the engine, give the
    same logits, whatever norms follow."""
    context = context_of(name)
    copy = editable_copy(context.model)
    units = Units("heads", copy.outputs, context.model.shape.d_head)
    tokens = context.batch(TASK.rows(context.vocabulary, 8, "test")).base.tokens
    rows = torch.arange(8)
    for layer, head in EVERY[::3]:
        with zeroed(units.views(layer * HEADS + head)), torch.no_grad():
            plain = copy.model(tokens.ids, attention_mask=tokens.mask_for(copy.model)).logits
        edit = Edit(Site(layer, "z"), torch.zeros(()), heads=(head,))
        (outcome,) = context.engine.run(tokens).branches([Branch([edit])])
        torch.testing.assert_close(outcome.logits, plain[rows, tokens.last], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", QUICK_OR_SLOW)
def test_no_weight_of_a_layer_is_left_out(context_of: ContextFactory, name: str) -> None:
    """SNIP covers all matrices of a layer except norms, biases and sinks, including experts and routers. The
    change that it reports is that of the files."""
    context, changed = context_of(name), context_of(name, seed=1)
    safety = measured(context, SafetyEntries(q=0.1, p=0.05, scored=4))
    change = measured(changed, WeightChange(seed=0), safety)
    before, after = (
        {
            key: weight.detach()
            for key, weight in c.model.read_plain_model(torch.float32).named_parameters()
            if "layers." in key or ".h." in key
            if weight.dim() > 1 and not key.endswith("_bias")
        }
        for c in (context, changed)
    )
    assert sum(change.values["entries"]) == sum(weight.numel() for weight in before.values())
    squares = sum(float((after[k] - before[k]).double().square().sum()) for k in before)
    assert sum(change.values["squared"]) == pytest.approx(squares, rel=1e-6)
    assert len(before) >= 4 * LAYERS
    safe = np.divide(change.values["safety"], change.values["entries"])
    assert (safe > 0).any()
    assert (safe <= 0.11).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_directions_are_compared_in_every_family(context_of: ContextFactory, name: str) -> None:
    """A direction found in one is found again by its twin, at the same place."""
    context = context_of(name)
    search = measured(context, RefusalDirection(**SEARCH))
    same = measured(context, DirectionComparison(learn=SEARCH["learn"]), search)
    best = search.best and (search.best.layer, search.best.place)
    assert (same.direction and (same.direction.layer, same.direction.token)) == best
    for column in (c for c in same.values if c.startswith("own")):
        other = same.values[column.replace("own", "other")]
        np.testing.assert_allclose(same.values[column], other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", QUICK_OR_SLOW)
def test_a_graft_is_the_model_with_the_other_weights(context_of: ContextFactory, name: str) -> None:
    """A layer of another seed's model, put into a run, gives what a plain copy with these weights gives; a head is
    grafted alone where heads add up to attention's output, and refused elsewhere."""
    context, other = context_of(name), context_of(name, seed=1)
    donation = measured(other, WeightDonation())
    heads = [(1, head) for head in range(HEADS)]
    members = {"layer 1": (*heads, (1, "mlp"))}
    request = MemberGraft(members=members, rows=8, stream="test")
    found = measured(context, request, donation)
    plain, theirs = (c.model.read_plain_model(torch.float32) for c in (context, other))
    state = theirs.state_dict()
    mixed = {k: state[k] if f"{context.model.wrapped.layers_path}.1." in k else v
             for k, v in plain.state_dict().items()}  # fmt: skip
    plain.load_state_dict(mixed)
    batch = context.batch(TASK.rows(context.vocabulary, 8, "test"))
    tokens = batch.base.tokens
    with torch.no_grad():
        logits = plain(tokens.ids, attention_mask=tokens.mask_for(plain)).logits
    last = logits[torch.arange(8), tokens.last].log_softmax(-1)
    expected = last[torch.arange(8), batch.answers]
    np.testing.assert_allclose(found.values["layer 1"], expected, atol=1e-4)
    assert float(np.abs(found.values["layer 1"] - found.values["before"]).max()) > 1e-2
    said = measured(other, AnswerDonation(rows=8, stream="test"))
    apart = GraftDivergence(members=members, outside=True, rows=8)
    left = measured(context, apart, donation, said).values
    with torch.no_grad():
        logits = theirs(tokens.ids, attention_mask=tokens.mask_for(theirs)).logits
    sure = logits[torch.arange(8), tokens.last].log_softmax(-1)
    kl = (sure.exp() * (sure - last)).sum(-1)
    np.testing.assert_allclose(left["layer 1"], kl, atol=1e-4 * max(1.0, float(kl.max())))
    assert len(left) > len(members) + 2  # before, predictions, and what is outside the layers
    alone = MemberGraft(members={"1.0": heads[:1]}, rows=8, stream="test")
    if name in NO_HEAD_ALONE:
        with pytest.raises(MeasurementError):
            measured(context, alone, donation)
    else:
        one = measured(context, alone, donation).values
        assert float(np.abs(one["1.0"] - one["before"]).max()) > 1e-4
