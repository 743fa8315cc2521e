"""Pruning of models in which it is known what hides the answer, and of ones that hide nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from float64 import exact
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.pruning import Pruning, UnitKind
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights import pruning
from pytest_mechanism.methods.weights.matrices import EditableCopy, editable_copy
from pytest_mechanism.methods.weights.pruning import Units, backward, unit_matrices, zeroed
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import Observations
from recipes.planted_counter import HEAD, HIDE, UNIT

ContextFactory = Callable[..., MeasurementContext]
KINDS: tuple[UnitKind, ...] = ("weights", "neurons", "heads")

ASKED: dict[str, Any] = {
    "counts": [0, 1, 2], "draws": 3, "seed": 0, "rows": 60, "stream": "rows", "scored": 40,
    "chosen": 30,
}  # fmt: skip

MLP, ATTENTION = "model.layers.2.mlp", "model.layers.2.self_attn"


def pruned(context: MeasurementContext, units: UnitKind, **changes: Any) -> Observations:
    return pruning.measure(context, Pruning(**(ASKED | changes), units=units), [])


def share(observations: Observations, column: str) -> float:
    return float(np.mean(observations.values[column]))


def questions(context: MeasurementContext, count: int = 16) -> list[Row]:
    return list(context.task.capability(context.vocabulary, count, "pruning"))


def scored(context: MeasurementContext, rows: list[Row]) -> EditableCopy:
    copy = editable_copy(context.model)
    backward(context, copy, rows)
    return copy


def units(context: MeasurementContext, copy: EditableCopy, kind: UnitKind) -> Units:
    return Units(kind, unit_matrices(copy, kind), context.model.shape.d_head)


def loss(context: MeasurementContext, copy: EditableCopy, rows: list[Row]) -> float:
    """Mean cross-entropy of the answers, by hand."""
    batch = context.batch(rows)
    tokens = batch.base.tokens
    with torch.no_grad():
        logits = copy.model(input_ids=tokens.ids, attention_mask=tokens.mask).logits
    last = logits[torch.arange(len(rows)), tokens.last]
    return float(torch.nn.functional.cross_entropy(last, batch.answers))


# -- a planted hiding unit


@pytest.mark.parametrize(
    ("hidden_by", "kind", "expected"),
    [
        ("neuron", "neurons", {f"{MLP}.gate_proj row {UNIT}", f"{MLP}.up_proj row {UNIT}"}),
        ("neuron", "weights", {f"{MLP}.gate_proj [{UNIT}, 5]", f"{MLP}.up_proj [{UNIT}, 5]"}),
        ("head", "neurons", {f"{ATTENTION}.o_proj row {HIDE}", f"{ATTENTION}.v_proj row 32"}),
        ("head", "heads", {f"{ATTENTION}.o_proj head {HEAD}"}),
    ],
)
def test_the_unit_that_hides_the_answer_is_found_first(
    planted: ContextFactory, hidden_by: str, kind: UnitKind, expected: set[str]
) -> None:
    """Zeroing one unit gives every answer back and ends every refusal; no random one does."""
    observed = pruned(planted(hidden_by=hidden_by), kind)
    named = observed.units
    assert named[0] in expected
    assert expected <= {*pruned_names(planted(hidden_by=hidden_by), kind)}
    assert (share(observed, "correct@0"), share(observed, "refused@0")) == (0.0, 1.0)
    assert (share(observed, "correct@1"), share(observed, "refused@1")) == (1.0, 0.0)
    assert observed.accuracy == {0: 0.0, 1: 1.0, 2: 1.0}
    for draw in range(ASKED["draws"]):
        assert share(observed, f"random{draw}_correct@1") == 0.0


def pruned_names(context: MeasurementContext, kind: UnitKind) -> list[str]:
    """The three best units."""
    result = units(context, scored(context, questions(context)), kind)
    return [result.name(unit) for unit in result.best(3)]


def test_heads_do_not_give_back_what_a_neuron_hides(planted: ContextFactory) -> None:
    """The kind of unit matters."""
    observed = pruned(planted(hidden_by="neuron"), "heads")
    assert [share(observed, f"correct@{k}") for k in ASKED["counts"]] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_no_unit_of_random_weights_gives_an_answer(
    random_counter: ContextFactory, kind: UnitKind
) -> None:
    """Null test: no unit hides a capability that was never learned."""
    observed = pruned(random_counter(dtype="float32"), kind)
    assert max(share(observed, f"correct@{k}") for k in ASKED["counts"]) <= 0.35


# -- scores


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_what_the_loss_falls_by(family: MeasurementContext, kind: UnitKind) -> None:
    """To first order: a unit that is made smaller by a small share lowers the loss by the score
    times that share, with the sign that it has. In every family, also where matrices lie
    transposed. In float64 all the way, since the quotient magnifies rounding ten thousand times."""
    rows = questions(family)
    with exact():
        copy = scored(family, rows)
        result = units(family, copy, kind)
        share, before = 1e-4, loss(family, copy, rows)
    for unit in (*result.best(2), 0, result.total // 2, result.total - 1):
        matrix, i = result.place(unit)
        score = float(result.scores(matrix)[i])
        views = result.views(unit)
        kept = [view.clone() for view in views]
        with torch.no_grad():
            for view in views:
                view.mul_(1 - share)
        with exact():
            fall = (before - loss(family, copy, rows)) / share
        for view, value in zip(views, kept, strict=True):
            view.copy_(value)
        assert fall == pytest.approx(score, rel=0.02, abs=1e-3)


def test_weights_sum_to_their_neurons(family: MeasurementContext) -> None:
    """A row's score is that of its weights, and of its bias where it has one; a matrix's is that of
    its rows; the heads' together are that of the matrices which read them."""
    copy = scored(family, questions(family))
    weights, neurons, heads = (units(family, copy, kind) for kind in KINDS)
    for matrix in copy.matrices:
        by_weight = weights.scores(matrix).reshape(matrix.rows.shape)
        bias = 0.0 if matrix.bias is None else (matrix.bias.grad * matrix.bias).detach().float()
        torch.testing.assert_close(
            neurons.scores(matrix), by_weight.sum(1) + bias, rtol=1e-4, atol=1e-5
        )
    for matrix in copy.outputs:
        torch.testing.assert_close(
            heads.scores(matrix).sum(), weights.scores(matrix).sum(), rtol=1e-4, atol=1e-5
        )


def test_scores_do_not_depend_on_the_batch_size(random_counter: ContextFactory) -> None:
    """Gradients of batches of unequal size add up to that of all rows."""
    context = random_counter()
    small = MeasurementContext(context.model, context.engine, context.task, context.vocabulary, 7)
    in_one_batch, in_batches = (scored(c, questions(context)) for c in (context, small))
    for a, b in zip(in_one_batch.matrices, in_batches.matrices, strict=True):
        torch.testing.assert_close(a.weight.grad, b.weight.grad)


# -- zeroing


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(["llama", "llama-gqa", "gpt2"]), bad=st.booleans())
def test_weights_are_what_they_were_after_zeroing(
    random_counter: ContextFactory, data: st.DataObject, name: str, bad: bool
) -> None:
    """To the last bit, for all kinds of units, and also after an exception."""
    context = random_counter(name)
    copy = context.remember("copy", lambda: editable_copy(context.model))
    result = units(context, copy, data.draw(st.sampled_from(KINDS)))
    chosen = data.draw(st.lists(st.integers(0, result.total - 1), max_size=6))
    before = {n: p.clone() for n, p in copy.model.named_parameters()}
    views = [view for unit in chosen for view in result.views(unit)]
    try:
        with zeroed(views):
            assert all(not view.any() for view in views)
            changed = sum(int((p != before[n]).sum()) for n, p in copy.model.named_parameters())
            # a bias of random weights is zero already, and a unit may be drawn twice
            assert changed <= sum(view.numel() for view in views)
            assert bool(changed) == bool(chosen)
            if bad:
                raise RuntimeError  # noqa: TRY301 - raised here to be reported below
    except RuntimeError:
        assert bad
    for n, parameter in copy.model.named_parameters():
        assert torch.equal(parameter, before[n]), n


def test_the_loaded_model_is_left_alone(planted: ContextFactory) -> None:
    """Its weights keep every bit, and still want no gradient: other measurements run on it."""
    context = planted(hidden_by="neuron")
    before = {n: p.clone() for n, p in context.model.wrapped.bridge.named_parameters()}
    pruned(context, "neurons")
    for n, parameter in context.model.wrapped.bridge.named_parameters():
        assert torch.equal(parameter, before[n])
        assert not parameter.requires_grad
        assert parameter.grad is None


# -- random units


@given(best=st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=20), seed=st.integers())
def test_random_units_are_as_many_and_others(
    random_counter: ContextFactory, best: list[int], seed: int
) -> None:
    """None of the pruned ones, none twice."""
    context = random_counter()
    copy = context.remember("copy", lambda: editable_copy(context.model))
    result = units(context, copy, "neurons").others(random.Random(seed), best)
    assert len({*result}) == len(result) == len(best)
    assert not {*result} & {*best}


def test_where_too_few_units_are_left_there_is_no_control(planted: ContextFactory) -> None:
    """4 of 6 heads leave 2; the columns are missing."""
    observed = pruned(planted(hidden_by="head"), "heads", counts=[1, 3, 4])
    assert {n for n in observed.values if n.startswith("random0")} == {
        "random0_correct@1",
        "random0_correct@3",
    }


def test_more_units_than_there_are_is_an_error(planted: ContextFactory) -> None:
    """In one line, with both numbers."""
    with pytest.raises(MeasurementError, match="zeroes 7 heads, but base has 6"):
        pruned(planted(), "heads", counts=[0, 7])
