"""The measurements of a search for heads, before any head is known, for the preflight.

Each step of `discovery.discover` is represented by a measurement of a placeholder head. It needs the same rows,
positions and ablation as the real measurement, so the preflight finds what the real one would lack. The search
never makes these measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_mechanism.claims.circuits import CIRCUIT, EMPTY, ActiveHeads, of_variants
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.faithfulness import Faithfulness
from pytest_mechanism.claims.path import patched_path
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.scoring import performance
from pytest_mechanism.discovery import sufficiency
from pytest_mechanism.discovery.claims import EFFECT_ROWS, on_threshold_rows, with_rows
from pytest_mechanism.discovery.discover import THRESHOLD, Effort, named_group
from pytest_mechanism.discovery.senders import alone
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.measurements.circuit import SELECT_STREAM
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.paths import RANK_STREAM
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.nodes import MLP, Member

PLACEHOLDER = (0, 0)
"""A head that every model has."""


def placeholder_groups(groups: Mapping[str, AnyGroup]) -> dict[str, Group]:
    """The groups, with placeholders in place of members to be found."""
    return {name: named_group(group, placeholders(group)) for name, group in groups.items()}


def placeholders(group: AnyGroup) -> list[Member]:
    """A member of each kind of inputs that a group may have."""
    has_mlps = "mlps" in group.searched
    heads: list[Member] = [PLACEHOLDER] if group.searched != ("mlps",) else []
    return [*heads, *([(0, MLP)] if has_mlps else [])]


def with_placeholders(context: ClaimContext) -> ClaimContext:
    """The context of a claim about heads that are not known yet."""
    return replace(context, groups=placeholder_groups(context.groups))


def search_measurements(context: ClaimContext, on: str, effort: Effort) -> tuple[Measurement, ...]:
    """One measurement for each set of rows that `discover` uses on the model of role ``on``."""
    variants: dict[str, ActiveHeads] = {
        CIRCUIT: [(*PLACEHOLDER, group.at) for group in context.groups.values()],
        EMPTY: [],
    }

    def circuit(rows: int, stream: str) -> Measurement:
        return of_variants(context, on, variants, rows, stream)

    return (
        context.measurement(Performance(rows=effort.rank_rows, stream=RANK_STREAM), on),
        *stage_measurements(context, on, effort.rank_rows),
        context.measurement(Performance(rows=effort.threshold_rows, stream=THRESHOLD), on),
        circuit(effort.threshold_rows, THRESHOLD),
        context.measurement(Performance(rows=effort.rank_rows, stream=sufficiency.SELECT), on),
        circuit(effort.rank_rows, sufficiency.SELECT),
        circuit(effort.select_rows, SELECT_STREAM),
    )


def claim_measurements(context: ClaimContext, on: str, effort: Effort) -> tuple[Measurement, ...]:
    """What `discovery.claims` measures on the model of role ``on``."""
    context = replace(with_placeholders(context), role=on)
    fewer = with_rows(context, min(effort.threshold_rows, EFFECT_ROWS))
    suffices = Faithfulness(kind="faithfulness", on=on, between=(0.9, 1.1))
    return (
        *suffices.required_measurements(context),
        performance(context, on),
        *(patched_path(context, name) for name in context.groups),
        *(on_threshold_rows(patched_path(fewer, name)) for name in context.groups),
    )


def view_measurements(context: ClaimContext, on: str, rank_rows: int) -> tuple[Measurement, ...]:
    """What `measured_circuit.measure_circuit` measures on the model of role ``on``."""
    groups = placeholder_groups(context.groups)
    placed = replace(context, role=on, groups=groups)
    all_named = all(isinstance(group, Group) for group in context.groups.values())
    sending = [name for name, group in groups.items() if elsewhere(group) is None]
    return (
        performance(context, on),
        *stage_measurements(context, on, rank_rows),
        *(patched_path(placed, name) for name in sending),
        *(() if all_named else search_measurements(context, on, Effort(rank_rows=rank_rows))),
    )


def stage_measurements(context: ClaimContext, on: str, rows: int) -> tuple[Measurement, ...]:
    """Path patching at each group's position."""
    return tuple(stage_measurement(context, on, group, rows) for group in context.groups.values())


def stage_measurement(context: ClaimContext, on: str, group: AnyGroup, rows: int) -> Measurement:
    """Path patching of the placeholder on all rows that a stage may use."""
    via = group.into.via if group.into else None
    request = PathPatching(
        senders=alone([PLACEHOLDER]), at=group.at, via=via, rows=rows, stream=RANK_STREAM
    )
    return context.measurement(request, on)
