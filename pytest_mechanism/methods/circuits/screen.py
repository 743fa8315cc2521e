"""Attribution patching as a screen: which heads are worth an exact look.

transformer-lens' gradient cache gives, for one forward and one backward of a batch, the first-order
estimate of patching every head's z (Nanda 2023; Syed et al. 2023): (z of the source - z of the base)
times the gradient of log p(answer) at the base's z. It is an estimate of the *total* effect at that
position; what is kept is then measured exactly, what is not is said to be screened out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.rotary import seen
from pytest_mechanism.engine.finite import unsound
from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.methods.context import Columns, MeasurementContext
from pytest_mechanism.methods.readout import log_probability
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
    from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

    rows = context.task.pairs(context.vocabulary, request.rows, request.stream)
    layers = sorted({layer for layer, _ in request.heads})
    sites = {layer: Site(layer, "z") for layer in layers}
    bridge = context.model.bridge
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
            context.engine.finite.note(batch.base.tokens, unsound(last))
            # rows do not touch each other, so the gradient of the sum has each row's own
            return log_probability(last, batch.accepted).sum()

        with torch.enable_grad(), differentiable(bridge), seen(batch.base.tokens.lengths):
            # the lowest point asked for gets no gradient, so one below all others is asked too
            names = ["hook_embed", *(site.hook for site in sites.values())]
            cache = cache_activation_and_gradient(bridge, batch.base.tokens.ids, answered, names)
        for layer, value in zip(layers, theirs, strict=True):
            z, gradient = (
                kept[sites[layer].hook][row[:, None], place]
                for kept in (cache.activations, cache.gradients)
            )
            estimate = ((value - z) * gradient).sum((1, 3))  # [R, H], over places and width
            for at, head in request.heads:
                if at == layer:
                    columns.add(f"{layer}.{head}", estimate[:, head])
    return columns.observations(rows)


@contextmanager
def differentiable(bridge: Any) -> Iterator[None]:
    """The frozen model with a gradient to follow: from its first weights on."""
    first = next(bridge.parameters())
    first.requires_grad_(True)
    try:
        yield
    finally:
        first.requires_grad_(False)
