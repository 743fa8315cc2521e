"""Pruning: does zeroing the few units that hide a capability bring it back?

Jain et al., ICLR 2024 (arXiv 2311.12786), section 3 and appendix. L is the cross-entropy of the
*pre-training* task: the prompts that must be refused, with their answers. One backward pass gives
each weight w of a matrix [outputs, inputs] the score

    s(w) = w dL/dw,        L(w = 0) - L(w) = -s(w) + higher orders,

so zeroing the weights with the most positive scores lowers the loss most. The score has its sign, and
nothing is trained afterwards. The score of a unit is the sum over its weights. Units:

``weights``
    entries of the matrices of all layers;
``neurons``
    rows of these matrices, as in the paper: an output of a linear map, with its bias. A hidden
    unit of an MLP is a row of the matrix that reads into it (in a gated MLP, of either one, since
    the product of its two rows is zero if one is zero). A coordinate that a layer writes to the
    residual stream is a row of a matrix that writes;
``heads``
    the columns of attention's output matrix that read one head, which has the effect of a zero z.

The control is the same number of random other units of the same kind, drawn again for each count and
draw.

Other than published: the random control, the choice of the number of units on rows that are neither
scored nor evaluated, and heads as units.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.pruning import Pruning, PruningResult, UnitKind
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.replies import prompt_batches, reply_columns
from pytest_mechanism.methods.token_batches import chunks
from pytest_mechanism.methods.weights.batches import finite_loss
from pytest_mechanism.methods.weights.matrices import (
    EditableCopy,
    Matrix,
    editable_copy,
    finite_scores,
)
from pytest_mechanism.tasks.base import Row


def measure(context: MeasurementContext, request: Pruning, inputs: Sequence[Any]) -> PruningResult:
    """Columns on the prompts that must be refused: ``correct@K`` and ``refused@K`` with the K best units
    zeroed, and ``random{I}_correct@K`` with the I-th draw of K random other units (left out if the
    model has too few).

    Raises:
        MeasurementError: the model has fewer units than the spec zeroes.
    """
    task, vocabulary = context.task, context.vocabulary
    rows = task.capability(vocabulary, request.rows, request.stream)
    validation = task.capability(vocabulary, request.chosen, "validation")
    copy = editable_copy(context.model)
    backward(context, copy, task.capability(vocabulary, request.scored, "pruning"))
    units = Units(request.units, unit_matrices(copy, request.units), context.model.shape.d_head)
    counts = sorted(request.counts)
    if counts[-1] > units.total:
        raise MeasurementError(
            f"the spec zeroes {counts[-1]} {units.kind}, but {context.model.role} has {units.total}"
        )
    best = units.best(counts[-1])
    copy.clear_gradients()
    evaluated, held_out = prompt_batches(context, rows), prompt_batches(context, validation)
    values: dict[str, list[float]] = {}
    accuracy: dict[int, float] = {}
    for count in counts:
        with zeroed([view for unit in best[:count] for view in units.views(unit)]):
            for name, column in reply_columns(context, copy.model, evaluated).items():
                values[f"{name}@{count}"] = column
            correct = reply_columns(context, copy.model, held_out)["correct"]
            accuracy[count] = float(np.mean(correct))
        for draw in range(request.draws if 0 < count <= units.total - count else 0):
            rng = random.Random(f"random units/{request.seed}/{draw}/{count}")
            others = units.others(rng, best[:count])
            with zeroed([view for unit in others for view in units.views(unit)]):
                columns = reply_columns(context, copy.model, evaluated)
                values[f"random{draw}_correct@{count}"] = columns["correct"]
    return PruningResult(
        tuple(row.id for row in rows),
        tuple(row.cluster for row in rows),
        {name: np.asarray(column) for name, column in values.items()},
        accuracy=accuracy,
        units=tuple(units.name(unit) for unit in best),
    )


# -- scores


def backward(context: MeasurementContext, copy: EditableCopy, rows: Sequence[Row]) -> None:
    """Accumulates the gradient of the mean loss on the rows' answers, batch by batch."""
    for batch in chunks(rows, context.batch_size):
        loss = finite_loss(context.model, copy.model, batch)
        (loss * (len(batch) / len(rows))).backward()
        context.tick(3 * len(batch))  # a backward costs two forwards


def unit_matrices(copy: EditableCopy, kind: UnitKind) -> Sequence[Matrix]:
    """The matrices with units of a kind."""
    return copy.outputs if kind == "heads" else copy.matrices


@dataclass(frozen=True, eq=False)
class Units:
    """All units of a kind, numbered through all matrices.

    Attributes:
        kind: of the units.
        matrices: with the units.
        d_head: width of a head.
    """

    kind: UnitKind
    matrices: Sequence[Matrix]
    d_head: int

    def count(self, matrix: Matrix) -> int:
        """The number of units of a matrix."""
        outputs, width = matrix.rows.shape
        return {"weights": outputs * width, "neurons": outputs, "heads": width // self.d_head}[
            self.kind
        ]

    @property
    def starts(self) -> list[int]:
        """Number of the first unit of each matrix, followed by the total."""
        return [0, *accumulate(self.count(matrix) for matrix in self.matrices)]

    @property
    def total(self) -> int:
        return self.starts[-1]

    def scores(self, matrix: Matrix) -> Float[Tensor, " units"]:
        """The sums of gradient x weight over the weights of each unit of the matrix."""
        score = finite_scores(matrix.name, matrix.oriented(matrix.importance()).float())
        if self.kind == "weights":
            return score.flatten()
        if self.kind == "heads":
            return score.sum(0).reshape(-1, self.d_head).sum(1)
        rows, bias = score.sum(1), matrix.bias_importance()
        return rows if bias is None else rows + bias.float()

    def best(self, count: int) -> list[int]:
        """The units with the most positive scores, best first."""
        candidates: list[tuple[float, int]] = []
        for start, matrix in zip(self.starts, self.matrices, strict=False):
            scores = self.scores(matrix)
            top = scores.topk(min(count, len(scores)))
            candidates += [
                (-score, start + unit)
                for score, unit in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ]
        return [unit for _, unit in sorted(candidates)[:count]]

    def others(self, rng: random.Random, units: Sequence[int]) -> list[int]:
        """The same number of random other units."""
        drawn = rng.sample(range(self.total), min(self.total, 2 * len(units)))
        return [unit for unit in drawn if unit not in units][: len(units)]

    def place(self, unit: int) -> tuple[Matrix, int]:
        """The matrix of a unit, and the unit's index in it."""
        starts = self.starts
        index = bisect_right(starts, unit) - 1
        return self.matrices[index], unit - starts[index]

    def views(self, unit: int) -> list[Float[Tensor, ...]]:
        """The unit's weights, sharing the model's memory."""
        matrix, i = self.place(unit)
        width = matrix.rows.shape[1]
        if self.kind == "weights":
            return [matrix.rows[i // width, i % width]]
        if self.kind == "heads":
            return [matrix.rows[:, i * self.d_head : (i + 1) * self.d_head]]
        bias = [] if matrix.offsets is None else [matrix.offsets[i]]
        return [matrix.rows[i], *bias]

    def name(self, unit: int) -> str:
        matrix, i = self.place(unit)
        width = matrix.rows.shape[1]
        if self.kind == "weights":
            return f"{matrix.name} [{i // width}, {i % width}]"
        return f"{matrix.name} {'row' if self.kind == 'neurons' else 'head'} {i}"


# -- with units zeroed


@contextmanager
def zeroed(views: Sequence[Float[Tensor, ...]]) -> Iterator[None]:
    """Context in which these weights are zero; they are restored afterwards in any case."""
    original = [view.clone() for view in views]
    try:
        with torch.no_grad():
            for view in views:
                view.zero_()
        yield
    finally:
        with torch.no_grad():
            for view, value in zip(views, original, strict=True):
                view.copy_(value)
