"""SNIP: the weights that matter for safety alone, and how much a fine-tune has changed them.

Wei et al., ICML 2024 (arXiv 2402.05162), section 3, after Lee et al., ICLR 2019. With L(x) the mean
negative log-likelihood of the tokens of a reply to the prompt x, every weight of a linear layer has the
score

    I(W) = E_x |W * dL(x)/dW|,        W [outputs, inputs],

with the absolute value taken for each prompt. The safety entries of each matrix are

    S = top q of I on prompts that must be refused, with refusals as replies,
      minus top p of I on other prompts, with answers as replies.

`donate` finds S on the model that refuses. `measure` runs on the model made from it and returns how
much of the weights' change lies on S, beside the same number of random entries of each matrix.

Other than published: the paper removes these entries to see whether the model still refuses, and
freezes them during fine-tuning; here nothing is removed or frozen. The paper chooses (q, p) by the
result; here the spec sets them, with our default of 0.05 and 0.05. Each expert of a mixture is a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.snip import SafetyEntries, WeightChange, WeightChangeResult
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.replies import prompt_batches, reply_columns
from pytest_mechanism.methods.weights.batches import finite_loss
from pytest_mechanism.methods.weights.matrices import EditableCopy, editable_copy, finite_scores
from pytest_mechanism.tasks.base import Row


@dataclass(frozen=True, eq=False)
class SafetyWeights:
    """The weights of the model that refuses, and which of them are safety entries; on the CPU.

    Attributes:
        weights: matrix -> its weights, in the checkpoint's layout.
        entries: matrix -> flat indices of its safety entries.
        refused: for each prompt that must be refused, whether the model refuses it.
    """

    weights: Mapping[str, Float[Tensor, "height width"]]
    entries: Mapping[str, Int[Tensor, " n"]]
    refused: Sequence[float]


def donate(
    context: MeasurementContext, request: SafetyEntries, inputs: Sequence[Any]
) -> SafetyWeights:
    """The safety entries of all matrices."""
    task, vocabulary, count = context.task, context.vocabulary, request.scored
    forbidden = task.forbidden(vocabulary, count, "snip")
    allowed = task.allowed(vocabulary, count, "snip")
    copy = editable_copy(context.model)
    safety = largest(scores(context, copy, forbidden), request.q)
    utility = largest(scores(context, copy, allowed), request.p)
    entries = {
        name: indices[~torch.isin(indices, utility[name])].sort().values
        for name, indices in safety.items()
    }
    refused = reply_columns(context, copy.model, prompt_batches(context, forbidden))["refused"]
    weights = {m.name: m.values.cpu() for m in copy.matrices}
    return SafetyWeights(weights, entries, refused)


def scores(
    context: MeasurementContext, copy: EditableCopy, rows: Sequence[Row]
) -> dict[str, Float[Tensor, "height width"]]:
    """Matrix -> I(W), in the checkpoint's layout. One backward pass for each prompt, since the absolute
    value is taken before the mean."""
    # half precision would lose small scores in the sum
    wide = torch.promote_types(copy.matrices[0].weight.dtype, torch.float32)
    sums = {m.name: torch.zeros_like(m.values, dtype=wide) for m in copy.matrices}
    for row in rows:
        finite_loss(context.model, copy.model, [row]).backward()
        for matrix in copy.matrices:
            sums[matrix.name] += matrix.importance().to(wide).abs() / len(rows)
        copy.clear_gradients()
        context.tick(3)  # a backward costs two forwards
    return sums


def largest(
    scores: Mapping[str, Float[Tensor, "height width"]], share: float
) -> dict[str, Int[Tensor, " n"]]:
    """Matrix -> flat indices of the given share of its entries with the largest scores."""
    return {
        name: finite_scores(name, table).flatten().topk(round(share * table.numel())).indices.cpu()
        for name, table in scores.items()
    }


def measure(
    context: MeasurementContext, request: WeightChange, inputs: Sequence[Any]
) -> WeightChangeResult:
    """The change of the weights, one row for each matrix.

    Columns: ``entries`` (number of all entries), ``safety`` (number of safety entries), the sums of
    the squared change over all, safety and random entries (``squared``, ``squared_safety``,
    ``squared_random``), the same for the ``absolute`` change, and ``before_safety``, the sum of the
    safety entries' squares before the change.

    Args:
        context: of the changed model.
        request: see `WeightChange`.
        inputs: the other model's `SafetyWeights`.

    Raises:
        MeasurementError: the two models do not have the same matrices.
    """
    safety: SafetyWeights = inputs[0]
    matrices = editable_copy(context.model).matrices
    check_same_shapes(context, safety, {m.name: m.values for m in matrices})
    rng = torch.Generator().manual_seed(request.seed)
    columns: dict[str, list[float]] = {}
    for matrix in matrices:
        before = safety.weights[matrix.name].double().flatten()
        entries = safety.entries[matrix.name]
        change = matrix.values.cpu().double().flatten() - before
        chosen = torch.randperm(len(change), generator=rng)[: len(entries)]
        row: dict[str, float] = {"entries": len(change), "safety": len(entries)}
        for name, size in (("squared", change**2), ("absolute", change.abs())):
            row[name] = float(size.sum())
            row[f"{name}_safety"] = float(size[entries].sum())
            row[f"{name}_random"] = float(size[chosen].sum())
        row["before_safety"] = float(before[entries].square().sum())
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    names = tuple(m.name for m in matrices)
    return WeightChangeResult(names, names, columns, refused=tuple(safety.refused))


def check_same_shapes(
    context: MeasurementContext, safety: SafetyWeights, weights: Mapping[str, Tensor]
) -> None:
    """Checks that the two models have the same matrices.

    Raises:
        MeasurementError: they do not.
    """
    changed, original = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for tensors in (weights, safety.weights)
    )
    if changed != original:
        name = min(n for n in {*changed, *original} if changed.get(n) != original.get(n))
        raise MeasurementError(
            f"{context.model.role} has {changed.get(name, 'no')} weights {name}, the other model "
            f"{original.get(name, 'none')}; the change of weights needs two models of the same shape"
        )
