"""Which senders of a stage are path patched one by one.

In a small model, all are. Of many senders, gradients estimate the effect (`methods.circuits.screen`), and only those
with the largest estimates are patched alone. An estimate can be wrong, so the others are patched too, many at once:
bands of layers, then the layers of a band whose joint effect would be enough for a candidate, then the members of such
a layer. A head that the gradient misses is found so, unless the others of its band cancel its effect.

MLPs and attention outputs, where a group may have some, are screened in the same way. The estimate of an attention
output is the sum of those of its heads, of which it consists.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pytest_mechanism.claims.patched_alone import bands_of, number_alone
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.nodes import ATTENTION, Member, kind_of, listing, spelled
from pytest_mechanism.types import Observations

Together = Mapping[str, tuple[Member, ...]]
"""Name of a set -> members that are patched together."""

Sender = TypeVar("Sender", bound=Hashable)
"""A member, or an edge."""

Estimates = Mapping[Member, float]
"""Member -> estimated effect, in nats."""


@dataclass(frozen=True)
class Screening:
    """What a screen found, and what the members that it left out do together.

    Attributes:
        estimates: member -> estimated effect, in nats.
        left_out: members that were not patched alone.
        rest: name of a set of members that were patched together, and not opened -> its effect.
        agreement: Spearman's rank correlation of estimate and effect, over the members that were patched alone.
        opened: members that the screen had left out and a set's effect brought back.
    """

    estimates: Estimates = field(default_factory=dict)
    left_out: tuple[Member, ...] = ()
    rest: Mapping[str, float] = field(default_factory=dict)
    agreement: float | None = None
    opened: tuple[Member, ...] = ()


def number_kept(group: AnyGroup, possible: int) -> int:
    """How many senders are patched alone."""
    if group.find is not None and group.find.screen is not None:
        return min(possible, group.find.screen.keep)
    return number_alone(possible)


def strongest(
    estimated: Sequence[Observations], group: AnyGroup, possible: Sequence[Member], count: int
) -> tuple[list[Member], Estimates]:
    """The senders with the largest estimates and the members that the group names; and every estimate.

    A member counts by the larger of its two estimates: the first-order one is better where a path is nearly linear,
    the integrated one where the base's softmax is saturated.
    """
    values = {name: column for found in estimated for name, column in found.values.items()}

    def mean(member: Member, kind: str = "") -> float:
        if member[1] != ATTENTION:
            return float(np.mean(values[f"{kind}{spelled(member)}"]))
        layer = f"{kind}{member[0]}."
        heads = [name for name in values if name.removeprefix(layer).isdecimal()]
        return sum(float(np.mean(values[name])) for name in heads)

    integrated = {member: mean(member) for member in possible}
    size = {
        member: max(abs(integrated[member]), abs(mean(member, "slope "))) for member in possible
    }
    # `possible` is in order, and sorting is stable
    kept = {*sorted(possible, key=lambda member: -size[member])[:count]}
    if isinstance(group, Group):
        kept |= {(layer, part) for layer, part, _ in group.placed()} & {*possible}
    return [member for member in possible if member in kept], integrated


def bands(members: Sequence[Member]) -> dict[str, tuple[Member, ...]]:
    """The members in a few sets of consecutive layers."""
    return {
        name_of(part): tuple(member for member in members if member[0] in part)
        for part in bands_of(sorted({layer for layer, _ in members}))
    }


def layers_of(members: Sequence[Member]) -> dict[str, tuple[Member, ...]]:
    """The members of each layer."""
    layers = sorted({layer for layer, _ in members})
    return {name_of([layer]): tuple(m for m in members if m[0] == layer) for layer in layers}


def name_of(layers: Sequence[int]) -> str:
    """A set's name, which no head has."""
    first, last = layers[0], layers[-1]
    return f"rest of layer {first}" if first == last else f"rest of layers {first} to {last}"


def agreement(estimated: Mapping[Sender, float], measured: Mapping[Sender, float]) -> float | None:
    """Spearman's rank correlation over the members, or edges, that have both; None of fewer than three, or if all
    estimates or all effects are equal, as where the source prompts are the same up to the patched position."""
    from scipy import stats

    both = [
        (estimated[sender], effect) for sender, effect in measured.items() if sender in estimated
    ]
    if len(both) < 3 or any(np.ptp(values) == 0 for values in zip(*both, strict=True)):
        return None
    return float(stats.spearmanr(both).statistic)


def summary(screening: Screening, alone: int) -> str:
    """What the screen left out, and how good it was, in a line.

    Args:
        screening: of a stage that was screened.
        alone: number of members that were patched alone.
    """
    total = len(screening.left_out) + alone
    kinds = listing({kind_of(part) for _, part in screening.estimates} or {"heads"})
    parts = [
        f"{len(screening.left_out)} of {total} {kinds} left out by gradient, the others patched alone"
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
            f"{kinds} of layer {', '.join(layers)} were patched alone after all, since together they have "
            "an effect"
        )
    if screening.agreement is not None:
        n = alone - len(screening.opened)
        parts.append(
            f"rank correlation of gradient and patching {screening.agreement:.2f} (n = {n})"
        )
    return "; ".join(parts)
