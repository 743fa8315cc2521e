"""Members of a circuit: attention heads, MLPs and attention outputs, as they are named, counted and sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pytest_mechanism.types import Head

MLP: Literal["mlp"] = "mlp"
ATTENTION: Literal["attention"] = "attention"

Node = tuple[int, int | Literal["mlp"]]
"""(layer, head), or (layer, ``mlp``): the output of a layer's MLP."""

Member = tuple[int, int | Literal["mlp", "attention"]]
"""A `Node`, or (layer, ``attention``): the output of a layer's attention, which is that of all its heads."""

PlacedMember = tuple[int, int | Literal["mlp", "attention"], str]
"""A member with its named position, or `EVERYWHERE`."""

EVERYWHERE = "everywhere"
"""In place of a named position: every token."""

KINDS: Mapping[str, tuple[str, str]] = {
    "heads": ("head", "heads"),
    "mlps": ("MLP", "MLPs"),
    "attention_outputs": ("attention output", "attention outputs"),
}
"""Key of a group -> what its members are called, singular and plural."""


def kind_of(part: int | str) -> str:
    """The key of a group that names such members; ``part`` is the second entry of a member."""
    return {MLP: "mlps", ATTENTION: "attention_outputs"}.get(str(part), "heads")


def in_order(member: Sequence[Any]) -> tuple[Any, ...]:
    """A sort key of members: by layer, heads before attention outputs before MLPs."""
    layer, part, *at = member
    named = isinstance(part, str)
    return layer, named, part if named else "", -1 if named else part, *at


def counted(parts: Iterable[int | str]) -> str:
    """``2 heads and 1 MLP``; ``parts`` are the second entries of members."""
    numbers = Counter(map(kind_of, parts))
    return " and ".join(
        f"{numbers[kind]} {one if numbers[kind] == 1 else several}"
        for kind, (one, several) in KINDS.items()
        if numbers[kind]
    )


def by_layer(heads: Iterable[Head]) -> dict[int, list[int]]:
    """Layer -> indices of its heads, both in ascending order."""
    layers: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        layers.setdefault(layer, []).append(head)
    return layers
