"""The stages of a profile: what each group's readers read, where, and which heads and MLPs can write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.nodes import MLP, Node, in_order, layers_before
from pytest_mechanism.nodes import readers as reading_members
from pytest_mechanism.types import Head


@dataclass(frozen=True)
class Stage:
    """What a group's readers read, and who can write it.

    Attributes:
        at: named position.
        receivers: the readers; none for the logits.
        via: their input; None for the logits.
        readers: ``q of value_fetcher``, or ``the logits``.
        heads: that can reach the readers.
        mlps: that can reach the readers.
        own: member that some group names at this position -> the group.
        others: member that groups name at other positions only -> the first of them.
    """

    at: str
    receivers: tuple[Node, ...]
    via: str | None
    readers: str
    heads: tuple[Head, ...]
    mlps: tuple[Node, ...]
    own: Mapping[Node, str]
    others: Mapping[Node, str] = field(default_factory=dict)


def stages(context: ClaimContext, on: str) -> list[Stage]:
    """The stages of the spec's groups on a model, from the spec's first group to the last."""
    shape = context.shapes[on]
    named: dict[str, dict[Node, str]] = {}
    for name in context.groups:
        for layer, part, at in context.group(name, on).placed():
            for node in context.nodes([(layer, part)], on):
                named.setdefault(at, {}).setdefault(node, name)
    anywhere = {node: name for at in reversed(named) for node, name in named[at].items()}
    known: dict[tuple[object, ...], Stage] = {}
    for name in context.groups:
        group: Group = context.group(name, on)
        receivers: tuple[Node, ...] = ()
        via, readers = None, "the logits"
        heads, mlps = shape.heads(), range(shape.n_layers)
        if group.into is not None:
            via, readers = group.into.via, f"{group.into.via} of {group.into.group}"
            reading = context.group(group.into.group, on).placed()
            nodes = {*context.nodes([(layer, part) for layer, part, _ in reading], on)}
            receivers = tuple(sorted(reading_members(nodes, via), key=in_order))
            end = layers_before(receivers, "heads")
            heads = [head for head in heads if head[0] < end]
            mlps = range(layers_before(receivers, "mlps"))
        key = (group.at, receivers, via)
        if key in known or not (heads or mlps):
            continue
        known[key] = Stage(
            group.at,
            receivers,
            via,
            readers,
            tuple(heads),
            tuple((layer, MLP) for layer in mlps),
            named.get(group.at, {}),
            {node: name for node, name in anywhere.items() if node not in named.get(group.at, {})},
        )
    return list(known.values())
