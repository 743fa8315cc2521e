"""The members that can send something to the readers of a stage of discovery."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.nodes import (
    ATTENTION,
    MLP,
    Member,
    Node,
    in_order,
    kind_of,
    layers_before,
    spelled,
)
from pytest_mechanism.types import Head


def senders(shape: Shape, receivers: Sequence[Node] | None) -> list[Head]:
    """Heads that can reach the receivers: those of lower layers, and of an MLP's own layer, or all heads for
    the logits."""
    if receivers is None:
        return shape.heads()
    end = layers_before(receivers, "heads")
    return [(layer, head) for layer, head in shape.heads() if layer < end]


def members_before(
    shape: Shape, receivers: Sequence[Node] | None, kinds: Collection[str]
) -> list[Member]:
    """Members of these kinds that can reach the receivers, in order."""
    heads = senders(shape, receivers)
    end = shape.n_layers if receivers is None else layers_before(receivers, "mlps")
    possible: list[Member] = [
        *heads,
        *((layer, ATTENTION) for layer in sorted({layer for layer, _ in heads})),
        *((layer, MLP) for layer in range(end)),
    ]
    return sorted((m for m in possible if kind_of(m[1]) in kinds), key=in_order)


def alone(members: Sequence[Member]) -> dict[str, tuple[Member, ...]]:
    """A set for each member, named ``layer.head`` or ``layer.mlp``."""
    return {spelled(member): (member,) for member in members}
