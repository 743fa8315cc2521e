"""Which senders of a stage are path patched one by one.

In a small model, all are. Of many senders, gradients estimate the effect (`methods.circuits.screen`), and only those
with the largest estimates are patched alone. An estimate can be wrong, so the others are patched too, many at once:
bands of layers, then the layers of a band whose joint effect would be enough for a candidate, then the heads of such
a layer. A head that the gradient misses is found so, unless the others of its band cancel its effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.types import Head, Observations

SCREEN_ABOVE = 64
"""Possible senders above which gradients screen a stage whose group has no ``find: {screen: ...}``."""

KEPT_SHARE = 16
"""A screen leaves one in 16 possible senders to be patched alone."""

LEAST_KEPT = 16
"""The least number of senders that are patched alone."""

SCREEN_ROWS = 32
"""Pairs of prompts on which gradients are computed; gradients only rank heads."""

BANDS = 6
"""Sets of consecutive layers in which the other senders are patched together."""

Together = Mapping[str, tuple[Head, ...]]
"""Name of a set -> heads that are patched together."""


@dataclass(frozen=True)
class Screening:
    """What a screen found, and what the heads that it left out do together.

    Attributes:
        estimates: head -> estimated effect, in nats.
        left_out: heads that were not patched alone.
        rest: name of a set of heads that were patched together, and not opened -> its effect.
        agreement: Spearman's rank correlation of estimate and effect, over the heads that were patched alone.
        opened: heads that the screen had left out and a set's effect brought back.
    """

    estimates: Mapping[Head, float] = field(default_factory=dict)
    left_out: tuple[Head, ...] = ()
    rest: Mapping[str, float] = field(default_factory=dict)
    agreement: float | None = None
    opened: tuple[Head, ...] = ()


def number_kept(group: AnyGroup, possible: int) -> int:
    """How many senders are patched alone."""
    if group.find is not None and group.find.screen is not None:
        return min(possible, group.find.screen.keep)
    if possible <= SCREEN_ABOVE:
        return possible
    return max(LEAST_KEPT, -(-possible // KEPT_SHARE))


def strongest(
    estimated: Observations, group: AnyGroup, possible: Sequence[Head], count: int
) -> tuple[list[Head], dict[Head, float]]:
    """The senders with the largest estimates and the heads that the group names; and every estimate.

    A head counts by the larger of its two estimates: the first-order one is better where a path is nearly linear,
    the integrated one where the base's softmax is saturated.
    """
    integrated = {h: float(np.mean(estimated.values[f"{h[0]}.{h[1]}"])) for h in possible}
    slope = {h: float(np.mean(estimated.values[f"slope {h[0]}.{h[1]}"])) for h in possible}
    size = {h: max(abs(integrated[h]), abs(slope[h])) for h in possible}
    kept = {*sorted(possible, key=lambda head: (-size[head], head))[:count]}
    if isinstance(group, Group):
        kept |= {*group.named_heads()} & {*possible}
    return [head for head in possible if head in kept], integrated


def bands(heads: Sequence[Head]) -> dict[str, tuple[Head, ...]]:
    """The heads in at most `BANDS` sets of consecutive layers."""
    layers = sorted({layer for layer, _ in heads})
    return {
        name_of(part): tuple(head for head in heads if head[0] in part)
        for part in (
            layers[len(layers) * i // BANDS : len(layers) * (i + 1) // BANDS] for i in range(BANDS)
        )
        if part
    }


def layers_of(heads: Sequence[Head]) -> dict[str, tuple[Head, ...]]:
    """The heads of each layer."""
    layers = sorted({layer for layer, _ in heads})
    return {name_of([layer]): tuple(h for h in heads if h[0] == layer) for layer in layers}


def name_of(layers: Sequence[int]) -> str:
    """A set's name, which no head has."""
    first, last = layers[0], layers[-1]
    return f"rest of layer {first}" if first == last else f"rest of layers {first} to {last}"


def agreement(estimated: Mapping[Head, float], measured: Mapping[Head, float]) -> float | None:
    """Spearman's rank correlation over the heads that have both; None of fewer than three heads."""
    from scipy import stats

    heads = [head for head in measured if head in estimated]
    if len(heads) < 3:
        return None
    found = stats.spearmanr([estimated[h] for h in heads], [measured[h] for h in heads]).statistic
    return None if np.isnan(found) else float(found)


def summary(screening: Screening, alone: int) -> str:
    """What the screen left out, and how good it was, in a line.

    Args:
        screening: of a stage that was screened.
        alone: number of heads that were patched alone.
    """
    total = len(screening.left_out) + alone
    parts = [
        f"{len(screening.left_out)} of {total} heads left out by gradient, the others patched alone"
    ]
    if screening.rest:
        name = min(screening.rest, key=lambda rest: screening.rest[rest])
        parts.append(
            f"those left out were patched together in {len(screening.rest)} sets of layers, with "
            f"{screening.rest[name]:+.2g} nats at most ({name.removeprefix('rest of ')})"
        )
    if screening.opened:
        layers = dict.fromkeys(str(layer) for layer, _ in screening.opened)
        parts.append(
            f"heads of layer {', '.join(layers)} were patched alone after all, since together they have "
            "an effect"
        )
    if screening.agreement is not None:
        n = alone - len(screening.opened)
        parts.append(
            f"rank correlation of gradient and patching {screening.agreement:.2f} (n = {n})"
        )
    return "; ".join(parts)
