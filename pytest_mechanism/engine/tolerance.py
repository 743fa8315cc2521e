"""When two ways to the same numbers agree."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.errors import SelfCheckError

TOLERANCE = {
    torch.float64: 1e-5,  # most families take the softmax of attention in float32 all the same
    torch.float32: 1e-3,
    torch.bfloat16: 0.1,
    torch.float16: 0.05,
}
"""Largest difference, in standard deviations of the numbers: rounding stays far below, a wrong hook
is far above (`compare`)."""


def compare(
    actual: Float[Tensor, "*shape"],
    expected: Float[Tensor, "*shape"],
    limit: float,
    model: LoadedModel,
    what: str,
    reference: str,
    rounding: Float[Tensor, "*shape"] | float = 0.0,
) -> None:
    """Equal within ``limit`` standard deviations of ``expected``, and within half of that on
    average.

    In half precision single numbers may differ three times as much: rounding adds up from layer to
    layer, and now and then sends a token to another expert.

    Args:
        actual: numbers to check.
        expected: numbers to check against.
        limit: of `TOLERANCE`.
        model: whose numbers they are.
        what: name of ``actual`` in an error.
        reference: name of ``expected`` in an error.
        rounding: how far each number may be off beside that. Coordinates that need it are far above
            all others, so the standard deviation is then estimated from the median.

    Raises:
        SelfCheckError: they differ, or something is not finite.
    """
    theirs = expected.double()
    gap = ((actual.double() - theirs).abs() - rounding).clamp_min(0)
    scale = theirs.std().item()
    if isinstance(rounding, Tensor):
        deviation = (theirs - theirs.median()).abs().median().item()
        scale = deviation * 1.4826 or scale  # the ratio of the two in a normal distribution
    scale = max(scale, 1e-12)
    of_one = limit * (3 if model.dtype in (torch.bfloat16, torch.float16) else 1)
    for size, allowed, where in (
        (gap.max().item(), of_one, ""),
        (gap.square().mean().sqrt().item(), limit / 2, " on average"),
    ):
        if not size <= allowed * scale:
            raise SelfCheckError(
                f"self-check failed on {model.role}: {what} differ from {reference} by "
                f"{size / scale:.2g} standard deviations{where}, {allowed:g} are allowed"
            )
