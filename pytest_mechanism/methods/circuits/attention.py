"""How much of their attention heads give to a position.

    A_h(x, y) = mean over tokens i of x of the sum over tokens j of y of the attention weight of h
                from i to j, after the softmax

z is the attention-weighted sum of v. If v is 1 at the tokens of y and 0 at all others, z of head h at
i is the weight that h gives to y there, whatever the family does to its scores before the softmax
(position biases, caps, windows, sinks). So each layer has a branch with this v, in which only z of
that layer is read: lower layers are those of the run, so the weights are the run's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site
from pytest_mechanism.engine.reference import is_repeat
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.attention import AttentionShare
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.types import Observations

TOLERANCE = 0.02
"""Rounding of a weight in half precision, and more."""


def measure(
    context: MeasurementContext, request: AttentionShare, inputs: Sequence[Any]
) -> Observations:
    """``{name}`` for each set of heads: the mean of A_h over its heads, from 0 to 1."""
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        check_order(batch, request.query, request.key)
        weights = attention(context, batch, request)
        for name, heads in request.heads.items():
            of_heads = [weights[layer][:, head] for layer, head in heads]
            columns.add(name, torch.stack(of_heads).mean(0))
    return columns.observations(rows)


def attention(
    context: MeasurementContext, batch: Batch, request: AttentionShare
) -> dict[int, Float[Tensor, "rows heads"]]:
    """A_h of every head, by layer.

    Raises:
        MeasurementError: z of a head is not the attention-weighted sum of v.
    """
    queries, keys = batch.base.at(request.query), batch.base.at(request.key)
    marks = torch.zeros(batch.base.tokens.ids.shape, device=keys.device).scatter(1, keys, 1.0)
    value = marks[:, :, None, None]
    branches = (
        Branch([Edit(Site(layer, "v"), value)], [Reading(Site(layer, "z"), queries)], answer=False)
        for layer in request.layers
    )
    run = context.engine.run(batch.base.tokens, answer=False)
    counted = ~is_repeat(queries)[:, :, None]
    weights = {}
    for layer, outcome in zip(request.layers, run.branches(branches), strict=True):
        (z,) = outcome.readings
        low, high = z.aminmax(dim=-1)
        is_weight = (high - low <= TOLERANCE) & (low >= -TOLERANCE) & (high <= 1 + TOLERANCE)
        if not bool(is_weight.all()):
            raise MeasurementError(
                f"{context.model.role}: the output of a head of layer {layer} is not its attention "
                "times its values (a gate may follow), so its attention cannot be read"
            )
        weights[layer] = (z[..., 0] * counted).sum(1) / counted.sum(1)
    return weights


def check_order(batch: Batch, query: str, key: str) -> None:
    """Check that each row has a token of ``key`` at or before one of ``query``.

    Raises:
        MeasurementError: a row has none, so that its attention is 0 in every model.
    """
    late = batch.base.at(key).amin(1) > batch.base.at(query).amax(1)
    if bool(late.any()):
        text = batch.rows[int(late.int().argmax())].base.text
        raise MeasurementError(
            f"tokens attend to earlier tokens alone, and {key} comes after {query} in "
            f"{text[:100]!r}; exchange the two positions"
        )
