"""Circuits as data: what stays alive, and random circuits of the same sizes."""

from __future__ import annotations

import random

from pytest_mechanism.claims.base import Case
from pytest_mechanism.claims.scoring import RANDOM_ROWS
from pytest_mechanism.methods.catalogue import CIRCUIT
from pytest_mechanism.spec.parts import plain
from pytest_mechanism.types import Head, Measurement

Alive = list[tuple[int, int, str]]
"""(layer, head, named position) of each head that is not ablated."""


def alive(case: Case, on: str, hint: bool = True) -> Alive:
    """The heads of all groups; ``hint=False`` widens oracle positions.

    A circuit kept alive only where the answer stands is told the answer by its author, so it is
    also measured without that hint (`Task.oracles`).
    """
    found: Alive = []
    for name in case.groups:
        group = case.group(name, on)
        at = group.at if hint else case.task.without_hint(group.at)
        found += [(layer, head, at) for layer, head in group.members()]
    return found


def circuit(case: Case, on: str) -> Measurement:
    """The spec's circuit, with and without oracle hints, and the model with every head silent."""
    variants = {"circuit": alive(case, on), "empty": []}
    if any(case.task.without_hint(group.at) != group.at for group in case.groups.values()):
        variants["circuit_without_hint"] = alive(case, on, hint=False)
    return case.ask(
        CIRCUIT, on, rows=case.rows, stream="rows", ablation=plain(case.ablation), alive=variants
    )


def random_circuits(case: Case, on: str, draws: int, first: int = 0) -> Measurement:
    """``draws`` circuits of random heads, at each position exactly as many as the spec's groups have
    there: groups of one position share no head; ``first`` is the number of those that were drawn
    before."""
    shape = case.shapes[on]
    sizes: dict[str, set[Head]] = {}
    for name in case.groups:
        group = case.group(name, on)
        sizes.setdefault(group.at, set()).update(group.members())
    variants: dict[str, Alive] = {}
    for draw in range(first, first + draws):
        rng = random.Random(f"random circuits/{case.seed}/{draw}")
        variants[f"random_{draw}"] = [
            (layer, head, at)
            for at, members in sizes.items()
            for layer, head in sorted(rng.sample(shape.heads(), len(members)))
        ]
    return case.ask(
        CIRCUIT,
        on,
        rows=min(case.rows, RANDOM_ROWS),
        stream="rows",
        ablation=plain(case.ablation),
        alive=variants,
    )
