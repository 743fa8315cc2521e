"""Put z of some heads at named positions from one prompt, or model, into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Positions, Reading, Site
from pytest_mechanism.methods.token_batches import Side
from pytest_mechanism.nodes import EVERYWHERE, MLP

Heads = Sequence[Sequence[Any]]
"""[layer, head, named position] of each head."""


def grouped(heads: Heads) -> list[tuple[int, str, tuple[int, ...]]]:
    """(layer, position, heads) in a fixed order, for one edit each."""
    groups: dict[tuple[int, str], list[int]] = {}
    for layer, head, name in heads:
        groups.setdefault((layer, name), []).append(head)
    return [(layer, name, tuple(sorted(set(h)))) for (layer, name), h in sorted(groups.items())]


Nodes = Sequence[Sequence[Any]]
"""[layer, head or ``mlp``, named position or ``everywhere``] of each head and MLP."""


def heads_of(nodes: Nodes) -> list[tuple[int, str, tuple[int, ...]]]:
    """The heads among them, as by `grouped`."""
    return grouped([node for node in nodes if node[1] != MLP])


def mlps_of(nodes: Nodes) -> list[tuple[int, str]]:
    """(layer, position) of the MLPs among them, in a fixed order."""
    return sorted({(layer, name) for layer, part, name in nodes if part == MLP})


def places(side: Side, name: str) -> Positions | None:
    """Token positions of a named position; None, which is all of them, for ``everywhere``."""
    return None if name == EVERYWHERE else side.at(name)


def readings(heads: Heads, side: Side) -> list[Reading]:
    """Record z where activations come from, in the order of `grouped`."""
    return [Reading(Site(layer, "z"), side.at(name), h) for layer, name, h in grouped(heads)]


def edits(
    heads: Heads,
    side: Side,
    values: Sequence[Float[Tensor, "rows _ _ d_head"]],
    keep: Sequence[Float[Tensor, ...]] | None = None,
) -> list[Edit]:
    """Put recorded ``values`` in place; ``keep`` has the share of the old z in each edit."""
    shares = keep if keep is not None else [None] * len(values)
    return [
        Edit(Site(layer, "z"), value, at=side.at(name), heads=h, keep=share)
        for (layer, name, h), value, share in zip(grouped(heads), values, shares, strict=True)
    ]
