"""Circuits as data: what stays alive, and random circuits of the same sizes."""

from __future__ import annotations

import random

from pytest_mechanism.claims.base import ClaimContext
from pytest_mechanism.claims.scoring import RANDOM_ROWS
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.types import Head, Measurement

Alive = list[tuple[int, int, str]]
"""(layer, head, named position) of each head that is not ablated."""


def alive(context: ClaimContext, on: str, hint: bool = True) -> Alive:
    """The heads of all groups; ``hint=False`` widens oracle positions.

    A circuit kept alive only where the answer stands is told the answer by its author, so it is
    also measured without that hint (`Task.oracles`).
    """
    found: Alive = []
    for name in context.groups:
        group = context.group(name, on)
        at = group.at if hint else context.task.without_oracle(group.at)
        found += [(layer, head, at) for layer, head in group.members()]
    return found


def circuit(context: ClaimContext, on: str) -> Measurement:
    """The spec's circuit, with and without oracle hints, and the model with every head silent."""
    variants = {"circuit": alive(context, on), "empty": []}
    if any(context.task.without_oracle(group.at) != group.at for group in context.groups.values()):
        variants["circuit_without_hint"] = alive(context, on, hint=False)
    request = CircuitPerformance(
        rows=context.rows, stream="rows", ablation=context.ablation, alive=variants
    )
    return context.measurement(request, on)


def random_circuits(context: ClaimContext, on: str, draws: int, first: int = 0) -> Measurement:
    """``draws`` circuits of random heads, at each position exactly as many as the spec's groups have
    there: groups of one position share no head; ``first`` is the number of those that were drawn
    before."""
    shape = context.shapes[on]
    sizes: dict[str, set[Head]] = {}
    for name in context.groups:
        group = context.group(name, on)
        sizes.setdefault(group.at, set()).update(group.members())
    variants: dict[str, Alive] = {}
    for draw in range(first, first + draws):
        rng = random.Random(f"random circuits/{context.seed}/{draw}")
        variants[f"random_{draw}"] = [
            (layer, head, at)
            for at, members in sizes.items()
            for layer, head in sorted(rng.sample(shape.heads(), len(members)))
        ]
    rows = min(context.rows, RANDOM_ROWS)
    request = CircuitPerformance(
        rows=rows, stream="rows", ablation=context.ablation, alive=variants
    )
    return context.measurement(request, on)
