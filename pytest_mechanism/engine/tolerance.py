"""When two ways to the same numbers agree."""

from __future__ import annotations

import torch

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.errors import SelfCheckError

TOLERANCE = {
    torch.float64: 1e-5,  # most families take softmax of attention in float32 all the same
    torch.float32: 1e-3,
    torch.bfloat16: 0.1,
    torch.float16: 0.05,
}
"""Largest difference, in standard deviations of what is compared: rounding stays far below,
a wrong hook far above (`compare`)."""


def compare(
    found: torch.Tensor,
    wanted: torch.Tensor,
    limit: float,
    model: LoadedModel,
    what: str,
    reference: str,
    rounding: torch.Tensor | float = 0.0,
) -> None:
    """Equal within ``limit`` standard deviations of ``wanted``, and half of that on average.

    In half precision single numbers may be three times as far off: rounding adds up from layer to
    layer there, and now and then sends a token to another expert.

    Args:
        found: of any shape.
        wanted: of the same.
        limit: of `TOLERANCE`.
        model: whose numbers they are.
        what: they are called.
        reference: what they are compared with is called.
        rounding: how far each may be off beside that. Coordinates that need it are far above the
            others, so what the others differ by is then taken from the middle of them.

    Raises:
        SelfCheckError: they are not, or something is not finite.
    """
    theirs = wanted.double()
    gap = ((found.double() - theirs).abs() - rounding).clamp_min(0)
    scale = theirs.std().item()
    if isinstance(rounding, torch.Tensor):
        middle = (theirs - theirs.median()).abs().median().item() * 1.4826  # of a normal one: std
        scale = middle or scale
    scale = max(scale, 1e-12)
    many = limit * (3 if model.dtype in (torch.bfloat16, torch.float16) else 1)
    for size, allowed, where in (
        (gap.max().item(), many, ""),
        (gap.square().mean().sqrt().item(), limit / 2, " on average"),
    ):
        if not size <= allowed * scale:
            raise SelfCheckError(
                f"self-check failed on {model.role}: {what} differ from {reference} by "
                f"{size / scale:.2g} standard deviations{where}, {allowed:g} are allowed"
            )
