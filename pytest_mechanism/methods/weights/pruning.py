"""Pruning: zero the few units that hide the capability, and see whether it comes back.

Jain et al., ICLR 2024 (arXiv 2311.12786), section 3 and appendix. The loss is the cross-entropy of
the *pre-training* task: what is forbidden is asked, and its own answer is what should be said. One
backward pass gives each weight w the score

    s(w) = w dL/dw,        L(w = 0) - L(w) = -s(w) + higher orders,

so the weights with the most positive scores are those whose zeroing lowers the loss most. No
absolute value is taken, and nothing is trained afterwards. The score of a unit is the sum over its
weights. Units:

``weights``
    entries of the matrices of all layers;
``neurons``
    rows of these matrices, as in the paper: an output of a linear map, with its bias. A hidden
    unit of an MLP is a row of the matrix that reads into it (of either one, in a gated MLP, since
    the product of its two rows is zero when one is), a coordinate that a layer writes to the
    residual stream is a row of one that writes;
``heads``
    what the output matrix of attention reads from one head. The head's own z is then as good as
    zero.

Beside the units with the best scores stand as many random others of the same kind, drawn anew for
each count and draw.

Other than published: the random others, and that the number of units is chosen on rows that are
neither scored nor judged on. Heads are units of ours.
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
from torch import Tensor

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.pruning import Pruning, PruningResult, UnitKind
from pytest_mechanism.methods.context import MeasurementContext, chunks
from pytest_mechanism.methods.refusal.replies import answers, questions
from pytest_mechanism.methods.weights.batches import finite_loss
from pytest_mechanism.methods.weights.weights import Copy, Matrix, copy_of, finite_scores
from pytest_mechanism.tasks.base import Row


def measure(context: MeasurementContext, request: Pruning, inputs: Sequence[Any]) -> PruningResult:
    """``correct@K`` and ``refused@K`` with the K best units zeroed, and ``random{I}_correct@K``
    with the I-th draw of K random others (none where the model has too few), on questions that
    must be refused.

    Arguments: ``units`` (`UnitKind`), ``counts`` (each K), ``draws``, ``seed``, ``rows``, ``stream``;
    ``scored`` and ``chosen``, rows for the scores and for the choice of a count, from the streams
    ``pruning`` and ``validation``.

    Raises:
        MeasurementError: the model has fewer units than are to be zeroed.
    """
    task, vocabulary = context.task, context.vocabulary
    rows = task.capability(vocabulary, request.rows, request.stream)
    choosing = task.capability(vocabulary, request.chosen, "validation")
    copy = copy_of(context.model)
    backward(context, copy, task.capability(vocabulary, request.scored, "pruning"))
    units = Units(request.units, pools(copy, request.units), context.model.shape.d_head)
    counts = sorted(request.counts)
    if counts[-1] > units.total:
        raise MeasurementError(
            f"{counts[-1]} {units.kind} are to be zeroed, {context.model.role} has {units.total}"
        )
    best = units.best(counts[-1])
    copy.forget_gradients()
    judged, other = questions(context, rows), questions(context, choosing)
    values: dict[str, list[float]] = {}
    accuracy: dict[int, float] = {}
    for count in counts:
        with zeroed([view for unit in best[:count] for view in units.views(unit)]):
            for what, column in answers(context, copy.model, judged).items():
                values[f"{what}@{count}"] = column
            accuracy[count] = float(np.mean(answers(context, copy.model, other)["correct"]))
        for draw in range(request.draws if 0 < count <= units.total - count else 0):
            rng = random.Random(f"random units/{request.seed}/{draw}/{count}")
            others = units.others(rng, best[:count])
            with zeroed([view for unit in others for view in units.views(unit)]):
                found = answers(context, copy.model, judged)
                values[f"random{draw}_correct@{count}"] = found["correct"]
    return PruningResult(
        tuple(row.id for row in rows),
        tuple(row.cluster for row in rows),
        {name: np.asarray(column) for name, column in values.items()},
        accuracy=accuracy,
        units=tuple(units.name(unit) for unit in best),
    )


# -- scores


def backward(context: MeasurementContext, copy: Copy, rows: Sequence[Row]) -> None:
    """The gradient of the mean loss of the rows' own answers, batch by batch."""
    for some in chunks(rows, context.batch_size):
        loss = finite_loss(context.model, copy.model, some)
        (loss * (len(some) / len(rows))).backward()
        context.tick(3 * len(some))  # a backward costs two forwards


def pools(copy: Copy, kind: UnitKind) -> Sequence[Matrix]:
    """The matrices that units of a kind lie in."""
    return copy.outputs if kind == "heads" else copy.matrices


@dataclass(frozen=True, eq=False)
class Units:
    """All units of a kind, numbered: those of the first matrix, of the second, and so on.

    Attributes:
        kind: what a unit is.
        matrices: that the units lie in.
        d_head: width of a head.
    """

    kind: UnitKind
    matrices: Sequence[Matrix]
    d_head: int

    def inside(self, matrix: Matrix) -> int:
        """How many units a matrix has."""
        outputs, width = matrix.rows.shape
        return {"weights": outputs * width, "neurons": outputs, "heads": width // self.d_head}[
            self.kind
        ]

    @property
    def starts(self) -> list[int]:
        """Number of each matrix's first unit, and at the end how many there are."""
        return [0, *accumulate(self.inside(matrix) for matrix in self.matrices)]

    @property
    def total(self) -> int:
        return self.starts[-1]

    def scores(self, matrix: Matrix) -> Tensor:
        """[units of the matrix], each the sum of gradient x weight over the unit's weights."""
        score = finite_scores(matrix.name, matrix.turned(matrix.importance()).float())
        if self.kind == "weights":
            return score.flatten()
        if self.kind == "heads":
            return score.sum(0).reshape(-1, self.d_head).sum(1)
        rows, bias = score.sum(1), matrix.bias_importance()
        return rows if bias is None else rows + bias.float()

    def best(self, count: int) -> list[int]:
        """The units with the most positive scores, best first."""
        found: list[tuple[float, int]] = []
        for start, matrix in zip(self.starts, self.matrices, strict=False):
            scores = self.scores(matrix)
            top = scores.topk(min(count, len(scores)))
            found += [
                (-score, start + unit)
                for score, unit in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ]
        return [unit for _, unit in sorted(found)[:count]]

    def others(self, rng: random.Random, units: Sequence[int]) -> list[int]:
        """As many random units, none of them among these."""
        drawn = rng.sample(range(self.total), min(self.total, 2 * len(units)))
        return [unit for unit in drawn if unit not in units][: len(units)]

    def place(self, unit: int) -> tuple[Matrix, int]:
        """The matrix of a unit, and the unit's number in it."""
        starts = self.starts
        which = bisect_right(starts, unit) - 1
        return self.matrices[which], unit - starts[which]

    def views(self, unit: int) -> list[Tensor]:
        """The unit's weights, sharing memory with the model."""
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
def zeroed(views: Sequence[Tensor]) -> Iterator[None]:
    """These weights are zero inside, and afterwards what they were, whatever happens."""
    kept = [view.clone() for view in views]
    try:
        with torch.no_grad():
            for view in views:
                view.zero_()
        yield
    finally:
        with torch.no_grad():
            for view, value in zip(views, kept, strict=True):
                view.copy_(value)
