"""Growing a circuit until it answers as the model does.

Heads that were taken for their effect alone may be too few: where several stand in for each other,
each of them has little. The head that helps the circuit most joins, one at a time, until the
circuit's normalised faithfulness is surely large enough, or until no head surely helps. Which head
helps most is seen on rows of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_mechanism.claims.base import ClaimContext, Measure
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.fields.groups import SoughtGroup
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head, Observations

ENOUGH = 0.9
"""Faithfulness at which a circuit stops growing; its interval must lie above."""

MOST = 32
"""Heads that are tried in each step, those with the strongest effects of their groups first."""

SELECT = "sufficiency_select"
"""Rows on which a head is chosen."""

Member = tuple[str, Head]

Circuit = Mapping[str, Sequence[Head]]
"""Group -> heads."""


@dataclass(frozen=True)
class Grown:
    """A circuit that was grown.

    Attributes:
        candidates: group -> heads, those that joined last.
        joined: (group, head) in the order in which they joined.
        faithfulness: of the circuit, on the rows it was grown on; None where it has no value.
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
) -> Grown:
    """Add heads to ``candidates`` until the circuit suffices on ``stream`` rows. Groups whose heads
    are named, or found by count, stay as they are."""
    found: Circuit = candidates
    joined: list[Member] = []
    while True:
        reached = faithfulness(context, on, found, measure, rows, stream)
        if reached is None or reached.interval[0] >= ENOUGH:
            return Grown(found, tuple(joined), reached)
        tried = in_line(context, found, stages)[:MOST]
        best = most_helpful(context, on, found, tried, measure, select_rows)
        if best is None:
            return Grown(found, tuple(joined), reached)
        found = joined_by(found, best)
        joined.append(best)


def joined_by(circuit: Circuit, member: Member) -> Circuit:
    group, head = member
    return {**circuit, group: [*circuit[group], head]}


def in_line(context: ClaimContext, found: Circuit, stages: Sequence[Stage]) -> list[Member]:
    """Heads that may join: the answer loses by their path, and no group at their position has them.
    By effect as a share of their group's strongest, since stages differ in scale."""
    shares: dict[Member, float] = {}
    for stage in stages:
        group = context.groups[stage.group]
        if not isinstance(group, SoughtGroup) or group.find.candidates is not None:
            continue
        taken = {h for name in found if context.groups[name].at == stage.at for h in found[name]}
        strongest = min((e.value for e in stage.effects.values()), default=0.0)
        for head, effect in stage.effects.items():
            if effect.value < 0 and head not in taken:
                shares[stage.group, head] = effect.value / strongest
    return sorted(shares, key=lambda member: (-shares[member], member))


def most_helpful(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    tried: Sequence[Member],
    measure: Measure,
    rows: int,
) -> Member | None:
    """The head whose joining makes the circuit right most often; None where none surely helps."""
    if not tried:
        return None
    names = {f"{group}:{head[0]}.{head[1]}": (group, head) for group, head in tried}
    circuits = {name: joined_by(circuit, member) for name, member in names.items()}
    seen = run(context, on, {"without": circuit, **circuits}, measure, rows, SELECT)
    best = max(names, key=lambda name: float(np.mean(seen.values[f"{name}_correct"])))
    gain = estimates.difference(
        seen.values[f"{best}_correct"], seen.values["without_correct"], context.sampling(seen)
    )
    return names[best] if gain.interval[0] > 0 else None


def run(
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
            [*head, context.groups[group].at] for group, heads in circuit.items() for head in heads
        ]
        for name, circuit in circuits.items()
    }
    request = CircuitPerformance(
        rows=rows, stream=stream, ablation=context.ablation, alive={**alive, "empty": []}
    )
    return measure(context.measurement(request, on))


def faithfulness(
    context: ClaimContext, on: str, circuit: Circuit, measure: Measure, rows: int, stream: str
) -> Estimate | None:
    """(m(C) - m(0)) / (m(M) - m(0)) of accuracy; None where model and silence are not told apart."""
    whole = measure(context.measurement(Performance(rows=rows, stream=stream), on))
    parts = run(context, on, {"circuit": circuit}, measure, rows, stream)
    try:
        return estimates.normalised(
            parts.values["circuit_correct"],
            parts.values["empty_correct"],
            whole.values["correct"],
            context.sampling(whole),
        )
    except estimates.UndefinedScoreError:
        return None
