"""Members of a circuit: attention heads, MLPs and attention outputs, as they are named, counted and sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

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


AnyMember = TypeVar("AnyMember", bound=Sequence[Any])
"""A member, with or without its position."""


def spelled(member: Sequence[Any]) -> str:
    """``layer.head``, ``layer.mlp`` or ``layer.attention``; a member with its own position also says that."""
    layer, part, *at = member
    return f"{layer}.{part}{''.join(f' at {place}' for place in at)}"


def described(member: Sequence[Any]) -> str:
    """``head 3.1``, or ``MLP 3``."""
    layer, part, *_ = member
    noun = KINDS[kind_of(part)][0]
    return f"{noun} {layer}" if isinstance(part, str) else f"{noun} {layer}.{part}"


def listing(kinds: Iterable[str], number: Literal[0, 1] = 1, word: str = "and") -> str:
    """``heads, MLPs and attention outputs``; ``number`` 0 for the singular."""
    *first, last = [KINDS[kind][number] for kind in KINDS if kind in {*kinds}]
    return f"{', '.join(first)} {word} {last}" if first else last


def readers(members: Iterable[AnyMember], via: str | None) -> list[AnyMember]:
    """The members that have an input: MLPs have ``input``, heads and attention outputs q, k and v."""
    return [member for member in members if (member[1] == MLP) == (via == "input")]


def layers_before(receivers: Iterable[Sequence[Any]], kind: str) -> int:
    """How many layers, from the first, have members of a kind that can reach the receivers.

    A layer's attention comes before its MLP. So its heads and its attention output also reach its MLP, and its
    MLP reaches the layers above alone.

    Args:
        receivers: members, with or without their position.
        kind: key of a group that names the senders.
    """
    return max(
        (layer + (part == MLP and kind != "mlps") for layer, part, *_ in receivers), default=0
    )


def is_part(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether one of two members is an attention output and the other a head of it."""
    kinds = {kind_of(one[1]), kind_of(other[1])}
    return one[0] == other[0] and kinds == {"heads", "attention_outputs"}


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


def by_key(members: Iterable[Sequence[Any]], at: str) -> dict[str, dict[int, Any]]:
    """The keys of a group that name these members: heads by layer, and others with their position, which is
    ``at`` where they have none of their own."""
    named: dict[str, dict[int, Any]] = {}
    for layer, part, *own in sorted(members, key=in_order):
        of_layer = named.setdefault(kind_of(part), {}).setdefault(layer, [])
        of_layer.append(part if isinstance(part, int) else (own or [at])[0])
    for key in named.keys() - {"heads"}:
        named[key] = {n: p[0] if len(p) == 1 else p for n, p in named[key].items()}
    return {key: named[key] for key in KINDS if key in named}


def by_layer(heads: Iterable[Head]) -> dict[int, list[int]]:
    """Layer -> indices of its heads, both in ascending order."""
    layers: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        layers.setdefault(layer, []).append(head)
    return layers
