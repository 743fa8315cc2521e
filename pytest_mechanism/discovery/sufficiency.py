"""Growing a circuit until it answers as the model does.

Heads selected for a large effect can be too few: if several heads can replace each other, each of them
has a small effect alone. The head that helps the circuit most joins, one at a time, until the whole
interval of the circuit's normalised faithfulness is large enough, or until no head helps significantly.
The rows that choose the head serve no other purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_mechanism.claims.circuits import EMPTY, of_variants
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import Circuit, Member
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.fields.groups import DiscoveredGroup
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Observations

ENOUGH = 0.9
"""A circuit stops growing if the interval of its faithfulness lies above this."""

MOST_TRIED = 32
"""Heads that are tried in each step, strongest effects first."""

SELECT = "sufficiency_select"
"""Rows on which the head that joins is chosen."""


@dataclass(frozen=True)
class GrownCircuit:
    """A circuit after growing.

    Attributes:
        candidates: group -> heads, the heads that joined last.
        joined: (group, head) in the order in which they joined.
        faithfulness: of the circuit, on the rows it was grown on; None if it is undefined.
    """

    candidates: Circuit
    joined: tuple[Member, ...]
    faithfulness: Estimate | None


def grow(
    context: ClaimContext,
    on: str,
    candidates: Circuit,
    stages: Sequence[Stage],
    measure: Measure,
    select_rows: int,
    rows: int,
    stream: str,
) -> GrownCircuit:
    """Add heads to ``candidates`` until the circuit suffices on ``stream`` rows. Groups whose heads are
    named, or selected by count, do not grow."""
    circuit: Circuit = candidates
    joined: list[Member] = []
    while True:
        reached = faithfulness(context, on, circuit, measure, rows, stream)
        if reached is None or reached.interval[0] >= ENOUGH:
            return GrownCircuit(circuit, tuple(joined), reached)
        tried = joinable_heads(context, circuit, stages)[:MOST_TRIED]
        best = most_helpful(context, on, circuit, tried, measure, select_rows)
        if best is None:
            return GrownCircuit(circuit, tuple(joined), reached)
        circuit = with_member(circuit, best)
        joined.append(best)


def with_member(circuit: Circuit, member: Member) -> Circuit:
    group, head = member
    return {**circuit, group: [*circuit[group], head]}


def joinable_heads(
    context: ClaimContext, circuit: Circuit, stages: Sequence[Stage]
) -> list[Member]:
    """Heads that may join: patching their path lowers the answer's log-probability, and no group at
    their position has them. Sorted by effect relative to the group's strongest, since stages differ in
    scale."""
    relative: dict[Member, float] = {}
    for stage in stages:
        group = context.groups[stage.group]
        if not isinstance(group, DiscoveredGroup) or group.find.candidates is not None:
            continue
        taken = {h for g in circuit if context.groups[g].at == stage.at for h in circuit[g]}
        strongest = min((e.value for e in stage.effects.values()), default=0.0)
        for head, effect in stage.effects.items():
            if effect.value < 0 and head not in taken:
                relative[stage.group, head] = effect.value / strongest
    return sorted(relative, key=lambda member: (-relative[member], member))


def most_helpful(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    tried: Sequence[Member],
    measure: Measure,
    rows: int,
) -> Member | None:
    """The head that raises the circuit's accuracy most; None if none raises it significantly."""
    if not tried:
        return None
    names = {f"{group}:{head[0]}.{head[1]}": (group, head) for group, head in tried}
    circuits = {name: with_member(circuit, member) for name, member in names.items()}
    measured = measure_circuits(
        context, on, {"without": circuit, **circuits}, measure, rows, SELECT
    )
    best = max(names, key=lambda name: float(np.mean(measured.values[f"{name}_correct"])))
    gain = estimates.difference(
        measured.values[f"{best}_correct"],
        measured.values["without_correct"],
        context.sampling(measured),
    )
    return names[best] if gain.interval[0] > 0 else None


def measure_circuits(
    context: ClaimContext,
    on: str,
    circuits: Mapping[str, Circuit],
    measure: Measure,
    rows: int,
    stream: str,
) -> Observations:
    """``{name}_correct`` of each circuit, and of ``empty``."""
    alive = {
        name: [
            (*head, context.groups[group].at) for group, heads in circuit.items() for head in heads
        ]
        for name, circuit in circuits.items()
    }
    return measure(of_variants(context, on, {**alive, EMPTY: []}, rows, stream))


def faithfulness(
    context: ClaimContext, on: str, circuit: Circuit, measure: Measure, rows: int, stream: str
) -> Estimate | None:
    """(m(C) - m(0)) / (m(M) - m(0)) of accuracy; None if m(M) and m(0) do not differ significantly."""
    whole = measure(context.measurement(Performance(rows=rows, stream=stream), on))
    measured = measure_circuits(context, on, {"circuit": circuit}, measure, rows, stream)
    try:
        return estimates.normalised(
            measured.values["circuit_correct"],
            measured.values["empty_correct"],
            whole.values["correct"],
            context.sampling(whole),
        )
    except estimates.UndefinedScoreError:
        return None
