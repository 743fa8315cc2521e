"""Linear probes: what can be read off the residual stream, layer by layer.

Jain et al., ICLR 2024 (arXiv 2311.12786), section 3 and appendix: for each layer a linear map of
the residual stream x at the token where the answer is due,

    p(answer | x) = softmax(W (x - mean) / size + b),

trained to give the answer. Theirs take 4,000 steps of AdamW at rates of 1e-3 to 1e-6, and are held
back by ending there. Ours is the same map fitted to the end and held back by a penalty: multinomial
logistic regression, mean cross-entropy + penalty |W|^2, whose only minimum L-BFGS finds on all rows
at once, so nothing about it is random. Which layer reads best is chosen on rows that are neither
trained nor judged on.

How hard a probe is held back decides what it finds. A model that reads a text holds much of what
could be asked about it: in one that counts letters, and was never asked about one of them, all
letters' shares lie side by side after the first layers, faintly. A probe that may use any weights
makes the right count out of them in three rows of four (penalty 1e-5); the claim's default penalty
in .35 and the paper's probe in .31, where a guess is right in .29 and the model that was asked
gives 1.00 to all three. So x is divided by one number, its root mean square, as the model's own
next norm would do, and not coordinate by coordinate, which makes what is faint as loud as the rest.

Controls: the same probe trained on shuffled answers (in the spirit of the control tasks of Hewitt
and Liang, EMNLP 2019), which shows what is right by luck or by leakage; and, in the claim, a model
that never had the capability.

transformer-lens has sparse probes (`tools.analysis.sparse_probing`). They tell two classes apart,
where answers are many, and draw their own test rows from those that they are given, where ours are
named streams that other measurements are paired with. So they are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.probing import LinearProbes, ProbeResult
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.tasks.base import Row

ITERATIONS = 200
"""Of L-BFGS, at most."""

MOST_BYTES = 2**29
"""Activations kept at once. Where all layers need more, the rows are run again for the rest."""


def measure(
    context: MeasurementContext, request: LinearProbes, inputs: Sequence[Any]
) -> ProbeResult:
    """``correct@K`` and ``shuffled@K`` for the residual stream after K layers (0 is the
    embedding): does a probe give the row's answer, trained on the answers and on shuffled ones?

    Arguments: ``asked`` (which questions), ``position`` (a named position of one token), ``rows``,
    ``stream``; ``train`` and ``chosen``, rows that the probes are trained and chosen on, from the
    streams ``probing`` and ``validation``; ``penalty``; ``seed`` of the shuffling.

    Raises:
        MeasurementError: the position has several tokens, or all answers are the same.
    """
    task, vocabulary, asked = context.task, context.vocabulary, request.asked
    judged = task.row_set(asked, vocabulary, request.rows, request.stream)
    choosing = task.row_set(asked, vocabulary, request.chosen, "validation")
    known = {row.base.text for row in (*judged, *choosing)}
    drawn = task.row_set(asked, vocabulary, request.train, "probing")
    training = [row for row in drawn if row.base.text not in known]
    classes = sorted({row.base.answer for row in training})
    if len(classes) < 2:
        raise MeasurementError(
            f"a probe needs two answers to tell apart, the training rows have {len(classes)}"
        )
    sets = [training, choosing, judged]
    labels = [numbered(rows, classes) for rows in sets]
    order = torch.from_numpy(np.random.default_rng(int(request.seed)).permutation(len(training)))
    layers = context.model.shape.n_layers
    columns: dict[str, Tensor] = {}
    accuracy: dict[int, float] = {}
    for some in passes(layers, sum(map(len, sets)), context.model.shape.d_model):
        streams = [residuals(context, rows, request.position, some) for rows in sets]
        for k, *(train, choose, judge) in zip(some, *streams, strict=True):
            probe = fit(train, labels[0], len(classes), request.penalty)
            lucky = fit(train, labels[0][order], len(classes), request.penalty)
            accuracy[k] = float((probe.says(choose) == labels[1]).double().mean())
            columns[f"correct@{k}"] = probe.says(judge) == labels[2]
            columns[f"shuffled@{k}"] = lucky.says(judge) == labels[2]
    best = max(sorted(accuracy), key=lambda k: accuracy[k])
    return ProbeResult(
        tuple(row.id for row in judged),
        tuple(row.cluster for row in judged),
        {name: column.double().numpy() for name, column in columns.items()},
        accuracy=accuracy,
        layer=best,
        dropped=len(drawn) - len(training),
    )


def numbered(rows: Sequence[Row], classes: Sequence[str]) -> Tensor:
    """[R] number of each row's answer; -1 for one that no training row has."""
    number = {answer: i for i, answer in enumerate(classes)}
    return torch.tensor([number.get(row.base.answer, -1) for row in rows])


# -- activations


def passes(layers: int, rows: int, width: int) -> list[list[int]]:
    """0 (the embedding) to ``layers``, in as few runs as fit in memory."""
    each = max(1, MOST_BYTES // max(1, rows * width * 4))
    return [list(range(k, min(k + each, layers + 1))) for k in range(0, layers + 1, each)]


def residuals(
    context: MeasurementContext, rows: Sequence[Row], position: str, after: Sequence[int]
) -> Tensor:
    """[len(after), R, d], in float32 on the CPU: the residual stream after so many layers.

    Raises:
        MeasurementError: the position has several tokens.
    """
    found: list[Tensor] = []
    for batch in context.batches(rows):
        at = batch.base.at(position)
        if at.shape[1] != 1:
            raise MeasurementError(
                f"position {position!r} has up to {at.shape[1]} tokens, a probe reads one; take "
                "another, such as last"
            )
        readings = [
            Reading(Site(k - 1, "resid_post") if k else Site(0, "resid_pre"), at) for k in after
        ]
        outcome = context.engine.run(batch.base.tokens, readings=readings, answer=False).outcome
        found.append(torch.stack([each[:, 0, 0] for each in outcome.readings]).float().cpu())
    return torch.cat(found, 1)


# -- the probe


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted one.

    Attributes:
        weights: [d + 1, C], the last row is the bias.
        mean: [d], of the training rows.
        size: root mean square of the training rows' coordinates.
    """

    weights: Tensor
    mean: Tensor
    size: float

    def says(self, x: Tensor) -> Tensor:
        """[R], the likeliest answer."""
        return (prepared(x, self.mean, self.size) @ self.weights).argmax(1)


def prepared(x: Tensor, mean: Tensor, size: float) -> Tensor:
    """[R, d + 1], centred and of a size that does not depend on the layer, and a constant."""
    return torch.cat([(x - mean) / size, torch.ones(len(x), 1)], 1)


def fit(x: Tensor, labels: Tensor, classes: int, penalty: float) -> Probe:
    """Multinomial logistic regression.

    Args:
        x: [R, d].
        labels: [R], 0 to ``classes`` - 1.
        classes: how many answers.
        penalty: on the squared weights; the bias is free.
    """
    mean, size = x.mean(0), float(x.square().mean().sqrt()) or 1.0
    inputs = prepared(x, mean, size)
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=ITERATIONS,
        history_size=20,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        with torch.enable_grad():
            found = cross_entropy(inputs @ weights, labels) + penalty * (weights[:-1] ** 2).sum()
            found.backward()
        return found.detach()

    optimiser.step(loss)
    return Probe(weights.detach(), mean, size)
