"""How much two circuits of these sizes have in common by chance: the control of ``overlap``.

A random circuit has as many heads, MLPs and attention outputs in each group as the circuit that was found, drawn
without replacement from the layers that the group's readers can read. So the number of members in common is
hypergeometric, for each group and kind, and no model is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.heads_in_common import Circuit, Index
from pytest_mechanism.claims.needed_heads import Part
from pytest_mechanism.nodes import ATTENTION, MLP, kind_of, layers_before, readers
from pytest_mechanism.types import Control

RANDOM_CIRCUITS = 1000
"""How many circuits are drawn."""

BEATEN = 0.95
"""The share of random circuits whose overlap must be exceeded."""


def by_chance(
    context: ClaimContext, on: str, reference: Sequence[Circuit], found: Sequence[Circuit]
) -> dict[Index, Control]:
    """For each index, what 95 random circuits in 100 do not exceed.

    Args:
        context: of the claim.
        on: role of the model whose circuits were found.
        reference: circuits of the other model, one beside each of ``found``.
        found: circuits that are replaced by random circuits of their sizes.
    """
    rng = np.random.default_rng(context.seed)
    common = np.zeros(RANDOM_CIRCUITS)
    for own, theirs in zip(reference, found, strict=True):
        for name, members in theirs.items():
            for kind in sorted(
                {kind_of(part) for _, part, *_ in (*members, *own[name])} or {"heads"}
            ):
                drawn = [member for member in members if kind_of(member[1]) == kind]
                possible = possible_members(context, on, theirs, name, kind, own[name] | members)
                good = len(own[name] & possible)
                count = min(len(drawn), len(possible))
                common += rng.hypergeometric(good, len(possible) - good, count, RANDOM_CIRCUITS)
    precision = max(1, sum(len(members) for circuit in found for members in circuit.values()))
    recall = max(1, sum(len(members) for circuit in reference for members in circuit.values()))
    draws: dict[Index, Any] = {
        "jaccard": common / np.maximum(precision + recall - common, 1),
        "precision": common / precision,
        "recall": common / recall,
    }
    name = f"{round(BEATEN * 100)} % of {RANDOM_CIRCUITS} random circuits of the same sizes"
    return {
        index: Control(name, float(np.quantile(values, BEATEN, method="higher")))
        for index, values in draws.items()
    }


def possible_members(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    name: str,
    kind: str,
    members: frozenset[Part],
) -> frozenset[Part]:
    """The members of a kind in the layers that a group's readers can read; MLPs and attention outputs at each
    position at which either circuit has some."""
    into, shape = context.groups[name].into, context.shapes[on]
    read_by = readers(circuit.get(into.group, frozenset()), into.via) if into else []
    below = layers_before(read_by, kind) if read_by else shape.n_layers
    if kind == "heads":
        return frozenset(head for head in shape.heads() if head[0] < below)
    part = MLP if kind == "mlps" else ATTENTION
    places = {at for _, other, *places in members if other == part for at in places}
    return frozenset((layer, part, at) for layer in range(below) for at in places)
