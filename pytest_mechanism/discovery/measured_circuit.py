"""What the pictures of a spec's circuit show on one model: path patching of every head, stage by stage,
and of each group as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.path import patched_path, path_scores
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.scoring import above_chance, performance
from pytest_mechanism.discovery.discover import Effort, discover, named_group
from pytest_mechanism.discovery.stages import Stage, search
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.types import Score


@dataclass(frozen=True)
class CircuitView:
    """A circuit as measured on one model.

    Attributes:
        label: of the model.
        shape: sizes of the model.
        stages: path patching of every head, from the answer back.
        groups: the spec's groups with heads, without the groups whose heads were not found.
        effects: group -> joint effect of its members on their readers, with control; without groups whose
            members work at several positions.
        warning: why the numbers mean little; empty if they do not.
    """

    label: str
    shape: Shape
    stages: tuple[Stage, ...]
    groups: Mapping[str, Group]
    effects: Mapping[str, Score]
    warning: str = ""


def measure_circuit(
    context: ClaimContext, on: str, label: str, measure: Measure, rank_rows: int
) -> CircuitView:
    """Measure a circuit for its pictures; a model at chance gets them too, with a warning.

    Args:
        context: of the model; effects of groups are measured on its rows.
        on: role of the model.
        label: of the model.
        measure: asks the runner.
        rank_rows: number of `RANK_STREAM` rows, on which heads are compared.
    """
    warning = ""
    if not above_chance(context, measure(performance(context, on))):
        warning = f"{label} answers no better than chance, so it does not do the task and these effects show no circuit"
    stages = tuple(search(context, on, measure, rank_rows))
    groups = {
        stage.group: named_group(context.groups[stage.group], stage.candidates)
        for stage in stages
        if stage.candidates
    }
    if not all(isinstance(group, Group) for group in context.groups.values()):
        # the heads that claims are judged on; a group that discovery drops keeps its candidates
        try:
            groups |= discover(context, on, measure, Effort(rank_rows=rank_rows)).groups
        except MeasurementError:
            if not warning:
                raise
    context = replace(context, role=on, groups=groups)
    effects: dict[str, Score] = {}
    for name, group in groups.items():
        has_reader = group.into is None or group.into.group in groups
        if has_reader and elsewhere(group) is None:
            effects[name], _ = path_scores(context, name, measure(patched_path(context, name)))
    return CircuitView(label, context.shapes[on], stages, groups, effects, warning)
