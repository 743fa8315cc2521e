"""SNIP: the weights that safety needs and usefulness does not, and what fine-tuning did to them.

Wei et al., ICML 2024 (arXiv 2402.05162), section 3, after Lee et al., ICLR 2019. For a question x
with its reply, L the mean negative log-likelihood of the reply's tokens, every weight of a linear
layer has the score

    I(W) = E_x |W * dL(x)/dW|,

the absolute value taken for each question. Of each matrix, the safety entries are

    S = top q of I on what must be refused, replies refusing,
      minus top p of I on what need not be, replies answering.

`donate` finds them on the model that refuses; `measure`, on the model made from it, says how much
of the change of the weights lies on them. Beside them stand as many random entries of each matrix.

Other than published: the paper removes these entries and sees whether the model still refuses, and
freezes them while it fine-tunes; nothing is removed or frozen here. Its choice among several (q, p) by
the result is left to the spec; 0.05 and 0.05 are ours. Experts of a mixture are matrices of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.snip import SafetyEntries, WeightChange, WeightChangeResult
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.replies import answers, questions
from pytest_mechanism.methods.weights.batches import finite_loss
from pytest_mechanism.methods.weights.weights import Copy, copy_of, finite_scores
from pytest_mechanism.tasks.base import Row


@dataclass(frozen=True, eq=False)
class Safety:
    """What the other model is compared with, on the CPU until it is loaded.

    Attributes:
        weights: matrix -> its weights, in the checkpoint's own layout.
        entries: matrix -> [n] numbers of its safety entries, in the flattened layout.
        refused: for each question that must be refused, whether the model refuses it.
    """

    weights: Mapping[str, Tensor]
    entries: Mapping[str, Tensor]
    refused: Sequence[float]


def donate(context: MeasurementContext, request: SafetyEntries, inputs: Sequence[Any]) -> Safety:
    """The safety entries of every matrix.

    Arguments: ``q`` and ``p`` (shares of a matrix), ``scored`` (questions of each kind).
    """
    task, vocabulary, count = context.task, context.vocabulary, request.scored
    forbidden = task.forbidden(vocabulary, count, "snip")
    allowed = task.allowed(vocabulary, count, "snip")
    copy = copy_of(context.model)
    safety = largest(scores(context, copy, forbidden), request.q)
    utility = largest(scores(context, copy, allowed), request.p)
    entries = {
        name: found[~torch.isin(found, utility[name])].sort().values
        for name, found in safety.items()
    }
    refused = answers(context, copy.model, questions(context, forbidden))["refused"]
    weights = {m.name: m.values.cpu() for m in copy.matrices}
    return Safety(weights, entries, refused)


def scores(context: MeasurementContext, copy: Copy, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Matrix -> I(W), in the checkpoint's layout. One question at a time: absolute values of their
    own gradients are wanted, not of the sum."""
    # in half precision, many small scores added up are none
    wide = torch.promote_types(copy.matrices[0].weight.dtype, torch.float32)
    found = {m.name: torch.zeros_like(m.values, dtype=wide) for m in copy.matrices}
    for row in rows:
        finite_loss(context.model, copy.model, [row]).backward()
        for matrix in copy.matrices:
            found[matrix.name] += matrix.importance().to(wide).abs() / len(rows)
        copy.forget_gradients()
        context.tick(3)  # a backward costs two forwards
    return found


def largest(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Matrix -> numbers of its entries with the largest scores, a share of each matrix."""
    return {
        name: finite_scores(name, table).flatten().topk(round(share * table.numel())).indices.cpu()
        for name, table in scores.items()
    }


def measure(
    context: MeasurementContext, request: WeightChange, inputs: Sequence[Any]
) -> WeightChangeResult:
    """What changed, one row for each matrix: sums over ``safety`` entries and over ``random`` ones,
    and over all of them, of the ``squared`` and the ``absolute`` change.

    Columns: ``entries`` (of the matrix), ``safety`` (how many of them), ``squared``,
    ``squared_safety``, ``squared_random`` and the same of ``absolute``, and ``before_safety``, the
    sum of the safety entries' own squares before the change.

    Arguments: ``seed`` of the random entries. Inputs: the other model's `Safety`.

    Raises:
        MeasurementError: the two models' matrices are not the same ones.
    """
    safety: Safety = inputs[0]
    matrices = copy_of(context.model).matrices
    check_same(context, safety, {m.name: m.values for m in matrices})
    rng = torch.Generator().manual_seed(request.seed)
    found: dict[str, list[float]] = {}
    for matrix in matrices:
        before, entries = (
            safety.weights[matrix.name].double().flatten(),
            safety.entries[matrix.name],
        )
        change = matrix.values.cpu().double().flatten() - before
        chosen = torch.randperm(len(change), generator=rng)[: len(entries)]
        row: dict[str, float] = {"entries": len(change), "safety": len(entries)}
        for name, size in (("squared", change**2), ("absolute", change.abs())):
            row[name] = float(size.sum())
            row[f"{name}_safety"] = float(size[entries].sum())
            row[f"{name}_random"] = float(size[chosen].sum())
        row["before_safety"] = float(before[entries].square().sum())
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    names = tuple(m.name for m in matrices)
    return WeightChangeResult(names, names, found, refused=tuple(safety.refused))


def check_same(context: MeasurementContext, safety: Safety, weights: Mapping[str, Tensor]) -> None:
    """The two models have the same matrices.

    Raises:
        MeasurementError: they do not.
    """
    mine, theirs = (
        {name: tuple(each.shape) for name, each in some.items()}
        for some in (weights, safety.weights)
    )
    if mine != theirs:
        name = min(n for n in {*mine, *theirs} if mine.get(n) != theirs.get(n))
        raise MeasurementError(
            f"{context.model.role} has {mine.get(name, 'no')} weights {name}, the other model "
            f"{theirs.get(name, 'none')}: what changed can be told of two models of one shape"
        )
