"""Putting z of chosen heads at named positions from one prompt, or model, into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Reading, Site
from pytest_mechanism.methods.context import Side

Heads = Sequence[Sequence[Any]]
"""[layer, head, named position] each."""


def grouped(heads: Heads) -> list[tuple[int, str, tuple[int, ...]]]:
    """(layer, position, heads) in a fixed order: one edit each."""
    found: dict[tuple[int, str], list[int]] = {}
    for layer, head, name in heads:
        found.setdefault((layer, name), []).append(head)
    return [(layer, name, tuple(sorted(set(h)))) for (layer, name), h in sorted(found.items())]


def readings(heads: Heads, side: Side) -> list[Reading]:
    """What to record where activations come from; the order of `grouped`."""
    return [Reading(Site(layer, "z"), side.at(name), h) for layer, name, h in grouped(heads)]


def edits(
    heads: Heads, side: Side, values: Sequence[Tensor], keep: Sequence[Tensor] | None = None
) -> list[Edit]:
    """The recorded ``values`` put in place; ``keep`` is the share of the old value, each."""
    shares = keep if keep is not None else [None] * len(values)
    return [
        Edit(Site(layer, "z"), value, at=side.at(name), heads=h, keep=share)
        for (layer, name, h), value, share in zip(grouped(heads), values, shares, strict=True)
    ]
