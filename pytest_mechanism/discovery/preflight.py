"""What a search for heads will measure, before any head is known: for the look-ahead.

Each step of `discovery.discover` is stood for by one measurement with a head that every model has. It
draws the same rows at the same positions with the same ablation as the real one, so whatever is missing
there is missing here. None of these is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_mechanism.claims import needed_heads
from pytest_mechanism.claims.base import ClaimContext
from pytest_mechanism.claims.circuits import circuit
from pytest_mechanism.claims.path import path_effect
from pytest_mechanism.claims.scoring import performance
from pytest_mechanism.discovery import sufficiency
from pytest_mechanism.discovery.claims import elsewhere
from pytest_mechanism.discovery.discover import THRESHOLD, Effort
from pytest_mechanism.discovery.stages import sweep
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.path_patching import RANK_STREAM
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.types import Measurement

HEAD = (0, 0)
"""Every model has it."""


def stand_ins(groups: Mapping[str, AnyGroup]) -> dict[str, Group]:
    """The groups with some head where heads have to be found."""
    layer, head = HEAD
    return {
        name: group
        if isinstance(group, Group)
        else Group(heads={layer: [head]}, at=group.at, into=group.into)
        for name, group in groups.items()
    }


def with_stand_ins(context: ClaimContext) -> ClaimContext:
    """The case of a claim about heads that are not known yet."""
    return replace(context, groups=stand_ins(context.groups))


def of_search(context: ClaimContext, on: str, effort: Effort) -> tuple[Measurement, ...]:
    """One measurement for each set of rows that `discover` looks at on the model of role ``on``."""
    alive = [[*HEAD, group.at] for group in context.groups.values()]

    def ablated(rows: int, stream: str) -> Measurement:
        variants = {"circuit": alive, "empty": []}
        request = CircuitPerformance(
            rows=rows, stream=stream, ablation=context.ablation, alive=variants
        )
        return context.measurement(request, on)

    return (
        context.measurement(Performance(rows=effort.rank_rows, stream=RANK_STREAM), on),
        *of_stages(context, on, effort.rank_rows),
        context.measurement(Performance(rows=effort.threshold_rows, stream=THRESHOLD), on),
        ablated(effort.threshold_rows, THRESHOLD),
        ablated(effort.rank_rows, sufficiency.SELECT),
        ablated(effort.select_rows, needed_heads.SELECT),
    )


def of_claims(context: ClaimContext, on: str, effort: Effort) -> tuple[Measurement, ...]:
    """What `discovery.claims` will measure on the model of role ``on``."""
    context = replace(with_stand_ins(context), role=on)
    settings = context.task.settings.model_copy(update={"rows": effort.threshold_rows})
    threshold = replace(context, task=replace(context.task, settings=settings))
    return (
        performance(context, on),
        circuit(context, on),
        *(path_effect(context, name) for name in context.groups),
        elsewhere(performance(threshold, on)),
        *(elsewhere(path_effect(threshold, name)) for name in context.groups),
    )


def of_look(context: ClaimContext, on: str, rank_rows: int) -> tuple[Measurement, ...]:
    """What `discovery.look` will measure on the model of role ``on``."""
    known = replace(with_stand_ins(context), role=on)
    search = (
        ()
        if all(isinstance(group, Group) for group in context.groups.values())
        else (of_search(context, on, Effort(rank_rows=rank_rows)))
    )
    return (
        performance(context, on),
        *of_stages(context, on, rank_rows),
        *(path_effect(known, name) for name in context.groups),
        *search,
    )


def of_stages(context: ClaimContext, on: str, rows: int) -> tuple[Measurement, ...]:
    """Path patching at each group's position."""
    return tuple(sweep(context, on, group, [HEAD], None, rows) for group in context.groups.values())
