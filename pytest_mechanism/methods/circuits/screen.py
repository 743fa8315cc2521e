"""Attribution patching as a screen: which heads are worth an exact look.

transformer-lens' gradient cache gives, for one forward and one backward of a batch, the first-order
estimate of patching every head's z (Nanda 2023; Syed et al. 2023): (z of the source - z of the base)
times the gradient of log p(answer) at the base's z. It is an estimate of the *total* effect at that
position; what is kept is then measured exactly, what is not is said to be screened out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.finite import not_finite
from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.methods.context import Columns, MeasurementContext
from pytest_mechanism.methods.readout import log_probability
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: AttributionPatching, inputs: Sequence[Any]
) -> Observations:
    """``{layer}.{head}``: estimated change of the answer's log-probability.

    Args:
        bench: the model.
        arguments: ``rows``, ``stream``, ``at`` (named position), ``heads`` ([layer, head] each).
        inputs: none.
    """
    rows = context.task.pairs(context.vocabulary, request.rows, request.stream)
    layers = sorted({layer for layer, _ in request.heads})
    sites = {layer: Site(layer, "z") for layer in layers}
    columns = Columns()
    for batch in context.batches(rows):
        source, place = batch.the_source(), batch.base.at(request.at)
        theirs = context.engine.run(
            source.tokens,
            readings=[Reading(site, source.at(request.at)) for site in sites.values()],
            answer=False,
        ).outcome.readings
        row = torch.arange(len(batch.rows), device=place.device)

        def answered(logits: Tensor, batch: Any = batch, row: Tensor = row) -> Tensor:
            last = logits[row, batch.base.tokens.last]
            context.engine.non_finite.mark(batch.base.tokens, not_finite(last))
            # rows do not touch each other, so the gradient of the sum has each row's own
            return log_probability(last, batch.accepted).sum()

        with row_lengths(batch.base.tokens.lengths):
            activations, gradients = context.model.wrapped.activations_and_gradients(
                batch.base.tokens.ids, answered, [site.hook for site in sites.values()]
            )
        for layer, value in zip(layers, theirs, strict=True):
            z, gradient = (
                kept[sites[layer].hook][row[:, None], place] for kept in (activations, gradients)
            )
            estimate = ((value - z) * gradient).sum((1, 3))  # [R, H], over places and width
            for at, head in request.heads:
                if at == layer:
                    columns.add(f"{layer}.{head}", estimate[:, head])
    return columns.observations(rows)
