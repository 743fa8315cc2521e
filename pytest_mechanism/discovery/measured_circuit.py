"""What there is to see of a spec's circuit on one model: path patching of every head, stage by
stage, and of each group as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import ClaimContext, Measure
from pytest_mechanism.claims.path import path_effect, path_scores
from pytest_mechanism.claims.scoring import above_chance, performance
from pytest_mechanism.discovery.discover import Effort, as_group, discover
from pytest_mechanism.discovery.stages import Stage, search
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.types import Score


@dataclass(frozen=True)
class Seen:
    """What was measured on one model.

    Attributes:
        label: of the model.
        shape: its sizes.
        stages: path patching of every head, from the answer back.
        groups: the spec's groups with heads; a sought one is absent where none was found.
        effects: group -> joint effect of its heads on their readers, with control.
    """

    label: str
    shape: Shape
    stages: tuple[Stage, ...]
    groups: Mapping[str, Group]
    effects: Mapping[str, Score]


def look(context: ClaimContext, on: str, label: str, measure: Measure, rank_rows: int) -> Seen:
    """Measure it.

    Args:
        case: its rows those of the effects.
        on: role of the model.
        label: how the model is called.
        measured: asks the runner.
        rank_rows: rows on which heads are compared; `RANK_STREAM`, so others than the effects'.

    Raises:
        MeasurementError: the model is at chance.
    """
    if not above_chance(context, measure(performance(context, on))):
        raise MeasurementError(
            f"{label} answers no better than chance, so there is no circuit to show"
        )
    stages = tuple(search(context, on, measure, rank_rows))
    groups = {
        stage.group: as_group(context.groups[stage.group], list(stage.candidates))
        for stage in stages
        if stage.candidates
    }
    if not all(isinstance(group, Group) for group in context.groups.values()):
        # what a gate judges: grown until it suffices, less what is not needed; where that comes to
        # nothing, what path patching picked is still to be seen
        found = discover(context, on, measure, Effort(rank_rows=rank_rows))
        groups |= found.groups
    named = replace(context, role=on, groups=groups)
    effects: dict[str, Score] = {}
    for name, group in groups.items():
        if group.into is not None and group.into.group not in groups:
            continue  # nobody was found who could read it
        effects[name], _ = path_scores(named, name, measure(path_effect(named, name)))
    return Seen(label, context.shapes[on], stages, groups, effects)
