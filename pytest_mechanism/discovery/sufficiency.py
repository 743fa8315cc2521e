"""Growing a circuit until it answers as the model does.

Heads selected for a large effect can be too few: if several heads can replace each other, each of them
has a small effect alone. So heads join in rounds, until the whole interval of the circuit's normalised
faithfulness is large enough, or until no more heads help significantly. In a round, each head that may join is
tried alone, which ranks them by what they add to the answer's log-probability; then the best of them are tried on
more rows, one by one and the first two, the first four and so on together. The smallest set that suffices joins, or
that does nearly as well as the best set. The rows that choose the heads serve no other purpose. MLPs and attention
outputs join in the same way, if their group may have some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_mechanism.claims.circuits import EMPTY, of_variants
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import Circuit, Member, placed
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.fields.groups import DiscoveredGroup
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.nodes import EVERYWHERE, in_order, is_part, kind_of, spelled
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Observations

ENOUGH = 0.9
"""A circuit stops growing if the interval of its faithfulness lies above this."""

MOST_TRIED = 32
"""Heads that are tried in each round, strongest effects first."""

SINGLE_ROWS = 64
"""Rows on which all heads are tried alone."""

SINGLES = 6
"""The most helpful of these heads, which are tried alone on all rows."""

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of heads that are tried together."""

NEARLY = 0.02
"""A smaller set is preferred if its accuracy is lower by no more than this."""

SELECT = "sufficiency_select"
"""Rows on which the head that joins is chosen."""


@dataclass(frozen=True)
class GrownCircuit:
    """A circuit after growing.

    Attributes:
        candidates: group -> heads, the heads that joined last.
        joined: (group, head) in the order in which they joined.
        faithfulness: of the circuit, on the rows it was grown on; None if it is undefined.
        untried: how many heads that may join were not tried in the last round, if no head joined there.
    """

    candidates: Circuit
    joined: tuple[Member, ...]
    faithfulness: Estimate | None
    untried: int = 0


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
    untried = 0
    while True:
        reached = faithfulness(context, on, circuit, measure, rows, stream)
        if reached is None or reached.interval[0] >= ENOUGH:
            break
        possible = joinable_heads(context, circuit, stages)
        joining = most_helpful(context, on, circuit, possible[:MOST_TRIED], measure, select_rows)
        if not joining:
            untried = len(possible[MOST_TRIED:])
            break
        circuit = with_members(circuit, joining)
        joined += joining
    return GrownCircuit(circuit, tuple(joined), reached, untried)


def with_member(circuit: Circuit, member: Member) -> Circuit:
    group, head = member
    return {**circuit, group: [*circuit[group], head]}


def with_members(circuit: Circuit, members: Sequence[Member]) -> Circuit:
    for member in members:
        circuit = with_member(circuit, member)
    return circuit


def joinable_heads(
    context: ClaimContext, circuit: Circuit, stages: Sequence[Stage]
) -> list[Member]:
    """Members that may join: patching their path lowers the answer's log-probability, measured or, where a
    screen left them out, estimated, and no group at their position has them or a part of them. Sorted by effect
    relative to the group's strongest, since stages differ in scale."""
    relative: dict[Member, float] = {}
    for stage in stages:
        group = context.groups[stage.group]
        if not isinstance(group, DiscoveredGroup) or group.find.candidates is not None:
            continue
        taken = [
            (layer, part)
            for name, parts in circuit.items()
            for layer, part, at in (placed(context, name, part) for part in parts)
            if at in (stage.at, EVERYWHERE)
        ]
        measured = {member: effect.value for member, effect in stage.effects.items()}
        strongest = min(measured.values(), default=0.0)
        for member, effect in {**stage.screening.estimates, **measured}.items():
            is_taken = any(member == other or is_part(member, other) for other in taken)
            offered = kind_of(member[1]) in group.searched
            if effect < 0 and strongest < 0 and offered and not is_taken:
                relative[stage.group, member] = effect / strongest
    return sorted(relative, key=lambda member: (-relative[member], member[0], in_order(member[1])))


def apart(context: ClaimContext, order: Sequence[Member]) -> list[Member]:
    """The members without those of which an earlier one, at the same position, is a part or the whole."""
    kept: list[Member] = []
    for name, part in order:
        at = context.groups[name].at
        if not any(context.groups[n].at == at and is_part(part, other) for n, other in kept):
            kept.append((name, part))
    return kept


def most_helpful(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    tried: Sequence[Member],
    measure: Measure,
    rows: int,
) -> list[Member]:
    """The heads of a round; none if no set of them raises the circuit's accuracy significantly."""
    order = apart(context, helpful(context, on, circuit, tried, measure, min(rows, SINGLE_ROWS)))
    if not order:
        return []
    sets = [[member] for member in order[:SINGLES]]
    sets += [order[:size] for size in sorted({*SIZES, len(order)}) if 1 < size <= len(order)]
    grown = {str(number): with_members(circuit, members) for number, members in enumerate(sets)}
    measured = measure_circuits(context, on, {"without": circuit, **grown}, measure, rows, SELECT)
    whole = measure(context.measurement(Performance(rows=rows, stream=SELECT), on))
    floor = float(np.mean(measured.values[f"{EMPTY}_correct"]))
    reached = [float(np.mean(measured.values[f"{name}_correct"])) for name in grown]
    promising = floor + ENOUGH * (float(np.mean(whole.values["correct"])) - floor)
    enough = min(promising, max(reached) - NEARLY)
    chosen = min(
        (number for number in range(len(sets)) if reached[number] >= enough),
        key=lambda number: (len(sets[number]), -reached[number]),
    )
    gain = estimates.difference(
        measured.values[f"{chosen}_correct"],
        measured.values["without_correct"],
        context.sampling(measured),
    )
    return sets[chosen] if gain.interval[0] > 0 else []


def helpful(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    tried: Sequence[Member],
    measure: Measure,
    rows: int,
) -> list[Member]:
    """The heads that raise the answer's mean log-probability in the circuit, most helpful first."""
    if not tried:
        return []
    names = {f"{group}:{spelled(part)}": (group, part) for group, part in tried}
    circuits = {name: with_member(circuit, member) for name, member in names.items()}
    measured = measure_circuits(
        context, on, {"without": circuit, **circuits}, measure, rows, SELECT
    )
    without = float(np.mean(measured.values["without_log_probability"]))
    gains = {
        name: float(np.mean(measured.values[f"{name}_log_probability"])) - without for name in names
    }
    return [names[name] for name in sorted(names, key=lambda n: (-gains[n], n)) if gains[name] > 0]


def measure_circuits(
    context: ClaimContext,
    on: str,
    circuits: Mapping[str, Circuit],
    measure: Measure,
    rows: int,
    stream: str,
) -> Observations:
    """``{name}_correct`` and ``{name}_log_probability`` of each circuit, and of ``empty``."""
    alive = {
        name: [placed(context, group, part) for group, parts in circuit.items() for part in parts]
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
