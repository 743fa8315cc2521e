"""Safety entries against their definition, and changes of weights that are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.snip import SafetyEntries, WeightChange
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal import replies as said
from pytest_mechanism.methods.weights import snip
from pytest_mechanism.methods.weights.matrices import editable_copy
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import Observations

ContextFactory = Callable[..., MeasurementContext]
ContextOfModel = Callable[[Any], MeasurementContext]

ASKED = {"q": 0.1, "p": 0.2, "scored": 8}


def safety(context: MeasurementContext) -> snip.SafetyWeights:
    return context.remember("safety", lambda: snip.donate(context, SafetyEntries(**ASKED), []))


def sums_after(
    context: MeasurementContext,
    context_of_model: ContextOfModel,
    change: Callable[[torch.Tensor, torch.Tensor], None],
) -> Any:
    """Sums over all matrices of what is measured on a copy whose weights were changed.

    Args:
        context: of the model that refuses.
        over: makes a context of the changed model.
        change: given a matrix's flattened weights, and where its safety entries are.
    """
    copy = editable_copy(context.model)
    for matrix in copy.matrices:
        weights = matrix.weight.detach().view(-1)
        here = torch.zeros_like(weights, dtype=torch.bool)
        here[safety(context).entries[matrix.name]] = True
        change(weights, here)
    observed: Observations = snip.measure(
        context_of_model(copy.model), WeightChange(seed=0), [safety(context)]
    )
    return {name: float(np.sum(column)) for name, column in observed.values.items()}


def by_hand(context: MeasurementContext, rows: list[Row]) -> dict[str, torch.Tensor]:
    """Matrix -> mean over rows of |w dL/dw|, from a plain forward and the last token's logits."""
    copy = editable_copy(context.model)
    result = {m.name: torch.zeros_like(m.weight) for m in copy.matrices}
    for row in rows:
        batch = context.batch([row])
        logits = copy.model(input_ids=batch.base.tokens.ids).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, batch.answers)
        grads = torch.autograd.grad(loss, [m.weight for m in copy.matrices])
        for matrix, grad in zip(copy.matrices, grads, strict=True):
            result[matrix.name] += (matrix.weight * grad).abs().detach() / len(rows)
    return result


def test_safety_entries_are_the_top_for_refusing_without_the_top_for_answering(
    family: MeasurementContext,
) -> None:
    """Of every matrix, by the definition, in every family."""
    task, vocabulary = family.task, family.vocabulary
    refusing = by_hand(family, list(task.forbidden(vocabulary, 8, "snip")))
    answering = by_hand(family, list(task.allowed(vocabulary, 8, "snip")))
    observed = safety(family)
    assert [*observed.entries] == [*refusing]
    for name, result in observed.entries.items():
        n = refusing[name].numel()
        wanted, unwanted = (
            {*np.argsort(-scores[name].flatten().numpy(), kind="stable")[: round(part * n)]}
            for scores, part in ((refusing, 0.1), (answering, 0.2))
        )
        assert {*result.tolist()} == wanted - unwanted


def test_refusals_are_counted_on_the_model_that_gives_the_entries(planted: ContextFactory) -> None:
    """The hidden counter refuses everything, the open one nothing."""
    assert list(safety(planted(hidden_by="neuron")).refused) == [1.0] * 8
    assert list(safety(planted()).refused) == [0.0] * 8


def test_a_change_of_safety_entries_alone_lies_on_them(
    random_counter: ContextFactory, context_of_model: ContextOfModel
) -> None:
    """All of it by the square and by size; hardly any of it on random entries."""

    def change(weights: torch.Tensor, here: torch.Tensor) -> None:
        weights[here] += 0.25

    result = sums_after(random_counter(), context_of_model, change)
    assert result["squared_safety"] == pytest.approx(result["squared"])
    assert result["absolute_safety"] == pytest.approx(result["absolute"])
    assert result["squared"] == pytest.approx(0.25**2 * result["safety"], rel=1e-5)
    assert result["squared_random"] <= 0.2 * result["squared"]


def test_a_change_elsewhere_spares_them(
    random_counter: ContextFactory, context_of_model: ContextOfModel
) -> None:
    """Not one of them moved."""

    def change(weights: torch.Tensor, here: torch.Tensor) -> None:
        weights[~here] *= 1.5

    result = sums_after(random_counter(), context_of_model, change)
    assert result["squared_safety"] == result["absolute_safety"] == 0
    assert result["squared"] > result["squared_random"] > 0
    assert result["before_safety"] > 0


def test_an_even_change_lies_on_them_as_on_any(
    random_counter: ContextFactory, context_of_model: ContextOfModel
) -> None:
    """Null: every entry moved by the same, so their share of the change is their share of all, and
    so is that of as many random ones."""

    def change(weights: torch.Tensor, here: torch.Tensor) -> None:
        weights += 0.125

    result = sums_after(random_counter(), context_of_model, change)
    share = result["safety"] / result["entries"]
    for which in ("safety", "random"):
        assert result[f"squared_{which}"] / result["squared"] == pytest.approx(share, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 1000), min_size=5, max_size=60, unique=True),
    st.floats(0.01, 1),
)
def test_the_largest_are_a_share_of_each_matrix(numbers: list[int], share: float) -> None:
    """The number of entries is the share, and no entry is smaller than an entry left out."""
    table = torch.tensor([numbers], dtype=torch.float32)
    (result,) = snip.largest({"w": table}, share).values()
    assert len(result) == round(share * len(numbers))
    left = [number for i, number in enumerate(numbers) if i not in result.tolist()]
    assert min([numbers[i] for i in result.tolist()], default=1001) > max(left, default=-1)


def test_models_of_two_shapes_are_refused(random_counter: ContextFactory) -> None:
    """One line that names a matrix and both sizes."""
    with pytest.raises(MeasurementError, match="of the same shape") as problem:
        snip.measure(
            random_counter("llama-gqa"), WeightChange(seed=0), [safety(random_counter("llama"))]
        )
    assert "(16, 32) weights model.layers.0.self_attn.k_proj" in str(problem.value)
    assert "(32, 32)" in str(problem.value)


def test_what_the_other_model_refused_is_handed_on(planted: ContextFactory) -> None:
    """The claim judges it."""
    context = planted(hidden_by="neuron")
    observed = snip.measure(context, WeightChange(seed=0), [safety(context)])
    assert observed.refused == (1.0,) * 8
    assert not any(observed.values["squared"])


def test_replies_are_asked_for_in_batches(
    planted: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, their logits would fill the memory that the run's batch size was chosen for."""
    context = planted()
    several = []
    real = said.greedy_replies
    monkeypatch.setattr(
        said, "greedy_replies", lambda m, t, c: several.append(len(t.ids)) or real(m, t, c)
    )
    monkeypatch.setattr(context, "batch_size", 3)
    assert len(snip.donate(context, SafetyEntries(**ASKED), []).refused) == 8
    assert several == [3, 3, 2]
