"""Attribution patching as a screen: which heads are worth path patching.

Nanda 2023; Syed et al. 2023. One forward and one backward of a batch give the first-order estimate of
patching every head's z:

    estimate = (z(source) - z(base)) . d log p(answer) / d z, at the base's z

It estimates the *total* effect of a head at that position. The heads that the screen keeps are then
measured exactly; the report lists the others as screened out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.finite import not_finite
from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probability
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: AttributionPatching, inputs: Sequence[Any]
) -> Observations:
    """``{layer}.{head}``: estimated change of the answer's log-probability."""
    rows = context.task.pairs(context.vocabulary, request.rows, request.stream)
    layers = sorted({layer for layer, _ in request.heads})
    sites = {layer: Site(layer, "z") for layer in layers}
    columns = Columns()
    for batch in context.batches(rows):
        source, place = batch.require_source(), batch.base.at(request.at)
        source_z = context.engine.run(
            source.tokens,
            readings=[Reading(site, source.at(request.at)) for site in sites.values()],
            answer=False,
        ).outcome.readings
        with row_lengths(batch.base.tokens.lengths):
            activations, gradients = context.model.wrapped.activations_and_gradients(
                batch.base.tokens.ids,
                partial(score, context, batch),
                [site.hook for site in sites.values()],
            )
        row = torch.arange(len(batch.rows), device=place.device)
        for layer, value in zip(layers, source_z, strict=True):
            z, gradient = (
                at_hooks[sites[layer].hook][row[:, None], place]
                for at_hooks in (activations, gradients)
            )
            estimate = ((value - z) * gradient).sum((1, 3))  # [rows, heads], over places and width
            for of_layer, head in request.heads:
                if of_layer == layer:
                    columns.add(f"{layer}.{head}", estimate[:, head])
    return columns.observations(rows)


def score(
    context: MeasurementContext, batch: Batch, logits: Float[Tensor, "rows tokens words"]
) -> Float[Tensor, ""]:
    """Summed log-probability of the answers. Rows do not affect each other, so the gradient of the
    sum is each row's own."""
    tokens = batch.base.tokens
    last = logits[torch.arange(len(batch.rows), device=logits.device), tokens.last]
    context.engine.non_finite.mark(tokens, not_finite(last))
    return log_probability(last, batch.correct_answers).sum()
