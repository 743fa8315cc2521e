"""From the grown circuit to the heads that it needs: minimality, and what minimality cannot see.

Minimality judges heads one by one, each where its absence matters most (`claims.needed_heads`). Three heads that can
replace each other completely are not needed one by one, and the circuit falls if all three go. So the circuit without
the heads that minimality drops is measured beside the one with them, and if it does worse, dropped heads come back,
those of the strongest effect first, as few as will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import (
    Circuit,
    Member,
    Minimality,
    Part,
    measure_minimality,
)
from pytest_mechanism.discovery.selection import minimal
from pytest_mechanism.discovery.sufficiency import NEARLY, SIZES, measure_circuits, with_members
from pytest_mechanism.fields.groups import Group

PARTNERS = 8
"""Heads of a group out of which K of minimality is chosen, strongest effects first."""


@dataclass(frozen=True)
class Pruned:
    """A circuit after minimality.

    Attributes:
        minimality: how much the grown circuit needs each head.
        heads: group -> heads that stay.
        restored: heads that minimality dropped one by one, and the circuit needs together.
    """

    minimality: Minimality
    heads: Circuit
    restored: tuple[Member, ...]


def prune(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    measure: Measure,
    select_rows: int,
    rows: int,
    stream: str,
    least: float,
) -> Pruned:
    """The heads of a circuit that it needs, alone or together.

    Args:
        context: of the search.
        on: role of the model.
        circuit: group -> heads, strongest effects first. Named heads stay, and so do those of a group that
            minimality cannot judge.
        measure: gives results.
        select_rows: rows on which K is chosen.
        rows: rows of ``stream``, on which circuits are compared.
        stream: of random numbers.
        least: least published minimality score of a head that stays.
    """
    minimality = measure_minimality(
        context, on, circuit, measure, select_rows, rows, stream, partners=PARTNERS
    )
    needed: dict[str, list[Part]] = {}
    for name, heads in circuit.items():
        scores = {cost.head: cost.score for cost in minimality.heads if cost.group == name}
        is_judged = not isinstance(context.groups[name], Group) and minimality.can_judge(name)
        needed[name] = minimal(scores, least) if is_judged else list(heads)
    dropped = [
        (name, head)
        for name, heads in circuit.items()
        for head in heads
        if head not in needed[name]
    ]
    restored = needed_together(context, on, circuit, needed, dropped, measure, rows, stream)
    return Pruned(minimality, with_members(needed, restored), tuple(restored))


def needed_together(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    needed: Circuit,
    dropped: list[Member],
    measure: Measure,
    rows: int,
    stream: str,
) -> list[Member]:
    """The fewest dropped heads, in their order, with which the circuit does nearly as well as with all."""
    if len(dropped) < 2:  # one alone has been judged
        return []
    sizes = [size for size in (0, *SIZES) if size <= len(dropped)]
    tried = {f"with {size}": with_members(needed, dropped[:size]) for size in sizes}
    measured = measure_circuits(context, on, {"all": circuit, **tried}, measure, rows, stream)
    enough = np.mean(measured.values["all_correct"]) - NEARLY
    reached = {size: np.mean(measured.values[f"with {size}_correct"]) for size in sizes}
    fewest = next((size for size in sizes if reached[size] >= enough), len(dropped))
    return dropped[:fewest]
