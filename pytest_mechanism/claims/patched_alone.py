"""How many of a stage's senders are path patched alone, and in which sets of layers the others are patched together.

Discovery (`discovery.screening`) and profiles (`claims.profiles`) follow these numbers: of many senders, gradients
choose those with the largest estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

ALL_UP_TO = 64
"""Senders up to which each is patched alone, and no gradient chooses."""

LEAST_ALONE, ALONE_SHARE = 16, 16
"""Of more senders, one in 16 is patched alone, and at least 16."""

SCREEN_ROWS = 32
"""Pairs of prompts on which gradients are computed; gradients only rank senders."""

BANDS = 6
"""Sets of consecutive layers in which the other senders are patched together."""


def number_alone(possible: int) -> int:
    """How many of so many senders are patched alone."""
    return possible if possible <= ALL_UP_TO else max(LEAST_ALONE, -(-possible // ALONE_SHARE))


def bands_of(layers: Sequence[int]) -> list[Sequence[int]]:
    """Layers, in order, as at most `BANDS` sets of consecutive ones."""
    ends = [len(layers) * i // BANDS for i in range(BANDS + 1)]
    return [layers[a:b] for a, b in pairwise(ends) if a < b]
