"""The loaded model with random weights, as a control: what does a method find where there is nothing?

Each tensor is drawn from a normal distribution with the tensor's own mean and standard deviation, so that
activations keep about their size: norms stay near their weights, and matrices lose what they learned. The
weights of the checkpoint are kept in the memory of the CPU and put back afterwards, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.context import MeasurementContext


@contextmanager
def random_weights(context: MeasurementContext, seed: int) -> Iterator[MeasurementContext]:
    """A context whose model has random weights, until it is left; the given one must not be used within.

    Args:
        context: with the checkpoint's weights.
        seed: of the draw, the same on every device.

    Raises:
        MeasurementError: the weights are quantised or not all in memory, so that they cannot be replaced.
    """
    wrapped = context.model.wrapped
    parameters = list(wrapped.parameters())
    if not all(p.is_floating_point() and p.device.type != "meta" for p in parameters):
        raise MeasurementError(
            f"{context.model.role}: weights that are quantised or do not fit into memory cannot be "
            "replaced by random ones; mask_controls needs full weights in memory"
        )
    generator = torch.Generator().manual_seed(seed)
    kept = [p.detach().to("cpu", copy=True) for p in parameters]
    # records of runs with the other weights must not be used
    engine = type(context.engine)(wrapped)  # type: ignore[call-arg]
    engine.tick = context.engine.tick
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(drawn(parameter, generator))
        yield replace(context, engine=engine, cache={})
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)


def drawn(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Random values with the mean and standard deviation of a tensor."""
    values = parameter.detach().float()
    noise = torch.randn(parameter.shape, generator=generator)
    spread = float(values.std(correction=0))
    return (noise * spread + float(values.mean())).to(parameter.dtype)
