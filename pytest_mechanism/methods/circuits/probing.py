"""Linear probes: what a linear map can read off the residual stream, layer by layer.

Jain et al. 2024 (arXiv 2311.12786), section 3 and appendix. For each layer a linear map of the
residual stream x at the token where the answer is due,

    p(answer | x) = softmax(W (x - mean) / size + b),

is trained to give the answer. The paper takes 4,000 steps of AdamW at rates of 1e-3 to 1e-6, and
stopping early regularises it. Here the same map is fitted to convergence with a penalty: multinomial
logistic regression, mean cross-entropy + penalty |W|^2, whose only minimum L-BFGS finds on all rows at
once, without randomness. The best layer is chosen on rows that no probe is trained or evaluated on.

How strong the penalty is decides what a probe finds. A model that reads a text holds much of what
could be asked about it: in one that counts letters, and was never asked about one of them, the first
layers hold the shares of all letters faintly. A probe that may use any weights makes the right count
out of them in three rows of four (penalty 1e-5); with the claim's default penalty in .35, as the
paper's probe in .31, where a guess is right in .29 and the model that was asked gives 1.00 to all
three. So x is divided by one number, its root mean square, as the model's next norm would do, and not
coordinate by coordinate, which would amplify what is faint.

Controls: the same probe trained on shuffled answers (in the spirit of the control tasks of Hewitt and
Liang, EMNLP 2019), which shows what is right by luck or by leakage; and, in the claim, a model that
never had the capability.

transformer-lens' sparse probes (`tools.analysis.sparse_probing`) are not used: they tell two classes
apart, where answers are many, and draw their own test rows, where ours are named streams that other
measurements are paired with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.errors import MeasurementError, choices
from pytest_mechanism.measurements.probing import LinearProbes, ProbeResult
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights.trained_copies import copy_residuals, trained_copy
from pytest_mechanism.tasks.base import Row

ITERATIONS = 200
"""Of L-BFGS, at most."""

MOST_BYTES = 2**29
"""Activations kept at once. Where all layers need more, the rows are run again for the rest."""


def measure(
    context: MeasurementContext, request: LinearProbes, inputs: Sequence[Any]
) -> ProbeResult:
    """Columns ``correct@K`` and ``shuffled@K`` of the residual stream after K layers (0 is the
    embedding): does a probe trained on the answers, or on shuffled ones, give the row's answer?

    Raises:
        MeasurementError: the position has several tokens, or all answers are the same.
    """
    task, vocabulary = context.task, context.vocabulary
    evaluation = task.row_set(request.asked, vocabulary, request.rows, request.stream)
    validation = task.row_set(request.asked, vocabulary, request.chosen, "validation")
    other_texts = {row.base.text for row in (*evaluation, *validation)}
    drawn = task.row_set(request.asked, vocabulary, request.train, "probing")
    training = [row for row in drawn if row.base.text not in other_texts]
    classes = sorted({row.base.answer for row in training})
    if len(classes) < 2:
        raise MeasurementError(
            f"a probe needs two answers to tell apart, the training rows have {len(classes)}"
        )
    sets = [training, validation, evaluation]
    labels = [numbered(rows, classes) for rows in sets]
    order = torch.from_numpy(np.random.default_rng(int(request.seed)).permutation(len(training)))
    shape, read = context.model.shape, coordinates(context, request.reads)
    streams_of = partial(residuals, context)
    if request.after is not None:
        streams_of = partial(copy_residuals, context, trained_copy(context, request.after))
    columns: dict[str, Tensor] = {}
    accuracy: dict[int, float] = {}
    for layers in passes(shape.n_layers, sum(map(len, sets)), shape.d_model):
        streams = [streams_of(rows, request.position, layers)[..., read] for rows in sets]
        for k, train, validate, evaluate in zip(layers, *streams, strict=True):
            probe = fit(train, labels[0], len(classes), request.penalty)
            shuffled = fit(train, labels[0][order], len(classes), request.penalty)
            accuracy[k] = float((probe.predict(validate) == labels[1]).double().mean())
            columns[f"correct@{k}"] = probe.predict(evaluate) == labels[2]
            columns[f"shuffled@{k}"] = shuffled.predict(evaluate) == labels[2]
    best = max(sorted(accuracy), key=lambda k: accuracy[k])
    return ProbeResult(
        tuple(row.id for row in evaluation),
        tuple(row.cluster for row in evaluation),
        {name: column.double().numpy() for name, column in columns.items()},
        accuracy=accuracy,
        layer=best,
        dropped=len(drawn) - len(training),
    )


def coordinates(context: MeasurementContext, label: str | None) -> list[int] | slice:
    """The coordinates of the residual stream with a label, or with labels that begin so; all for None.

    Tracr puts the name of a variable before what it is: ``selector_width`` also names the one variable
    ``count_a_1_selector_width_attn_output``.

    Raises:
        MeasurementError: the model has no labels, none that is named so, or several variables are.
    """
    config = context.model.wrapped.plain.config
    if label is None:
        return slice(None)  # indices would copy the activations
    labels = getattr(config, "residual_labels", None)
    if not labels:
        raise MeasurementError(
            f"{context.model.role}: reads: {label!r} names a label, and only compiled programs have "
            f"residual labels; this is a {type(context.model.wrapped.plain).__name__}"
        )
    if label in labels:
        return [labels.index(label)]
    found = [i for i, name in enumerate(labels) if name.startswith(label)]
    if found:
        return found
    variables = [name.rpartition(":")[0] or name for name in labels]
    inside = {variable for variable in variables if f"_{label}" in variable}
    if len(inside) != 1:
        problem = "several variables are named" if inside else "no residual label is named"
        raise MeasurementError(
            f"{context.model.role}: reads: {problem} {label!r}; "
            f"{choices(label, dict.fromkeys(variables))}"
        )
    return [i for i, variable in enumerate(variables) if variable in inside]


def numbered(rows: Sequence[Row], classes: Sequence[str]) -> Int[Tensor, " rows"]:
    """Number of each row's answer; -1 for answers that no training row has."""
    number = {answer: i for i, answer in enumerate(classes)}
    return torch.tensor([number.get(row.base.answer, -1) for row in rows])


# -- activations


def passes(layers: int, rows: int, width: int) -> list[list[int]]:
    """The numbers 0 (the embedding) to ``layers``, in as few runs as fit in memory."""
    at_once = max(1, MOST_BYTES // max(1, rows * width * 4))
    return [list(range(k, min(k + at_once, layers + 1))) for k in range(0, layers + 1, at_once)]


def residuals(
    context: MeasurementContext, rows: Sequence[Row], position: str, after: Sequence[int]
) -> Float[Tensor, "layers rows d_model"]:
    """The residual stream after each of these numbers of layers, in float32 on the CPU.

    Raises:
        MeasurementError: the position has several tokens.
    """
    parts: list[Tensor] = []
    for batch in context.batches(rows):
        at = batch.base.token_at(position)[:, None]
        readings = [
            Reading(Site(k - 1, "resid_post") if k else Site(0, "resid_pre"), at) for k in after
        ]
        outcome = context.engine.run(batch.base.tokens, readings=readings, answer=False).outcome
        parts.append(torch.stack([stream[:, 0, 0] for stream in outcome.readings]).float().cpu())
    return torch.cat(parts, 1)


# -- the probe


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        weights: W, and the bias b as the last row.
        mean: of the training rows.
        size: root mean square of the training rows' coordinates.
    """

    weights: Float[Tensor, "inputs classes"]
    mean: Float[Tensor, " d_model"]
    size: float

    def predict(self, x: Float[Tensor, "rows d_model"]) -> Int[Tensor, " rows"]:
        """The likeliest answer."""
        return (prepared(x, self.mean, self.size) @ self.weights).argmax(1)


def prepared(
    x: Float[Tensor, "rows d_model"], mean: Float[Tensor, " d_model"], size: float
) -> Float[Tensor, "rows d_model+1"]:
    """(x - mean) / size, whose size does not depend on the layer, and a constant for the bias."""
    return torch.cat([(x - mean) / size, torch.ones(len(x), 1)], 1)


def fit(
    x: Float[Tensor, "rows d_model"], labels: Int[Tensor, " rows"], classes: int, penalty: float
) -> Probe:
    """Multinomial logistic regression.

    Args:
        x: the residual stream.
        labels: 0 to ``classes`` - 1.
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
            value = cross_entropy(inputs @ weights, labels) + penalty * (weights[:-1] ** 2).sum()
            value.backward()
        return value.detach()

    optimiser.step(loss)
    return Probe(weights.detach(), mean, size)
