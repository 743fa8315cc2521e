"""The data behind the heat maps of ``show`` and of the page, made from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.discovery.measured_circuit import CircuitView
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.nodes import ATTENTION, MLP, Member
from pytest_mechanism.report.pictures.head_map import HeadMap
from pytest_mechanism.report.pictures.heatmaps import HeadMaps, StageMaps
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import MemberChange

UNIT = "change of the answer's log-probability"

COLUMNS = {ATTENTION: "attn", MLP: "MLP"}
"""What a column of a map is called that has one member for each layer."""


def head_maps(spec: Spec, views: Sequence[CircuitView]) -> HeadMaps:
    """The effects of all heads, stage by stage, model beside model."""
    stages = [
        StageMaps(
            stages[0].group,
            path_label(stages[0]),
            {
                view.label: HeadMap(
                    stage.table(view.shape),
                    stage.cells(stage.candidates, view.shape),
                    stage.cells(neighbours(view, stage.group), view.shape),
                    stage.cells(stage.screening.left_out, view.shape),
                    tuple(COLUMNS[part] for part in stage.wholes),
                )
                for view, stage in zip(views, stages, strict=True)
            },
        )
        for stages in zip(*(view.stages for view in views), strict=True)
    ]
    named = [isinstance(group, Group) for group in spec.groups.values()]
    origin = "named in the spec" if all(named) else "discovered by its effect"
    if any(named) and not all(named):
        origin = "named in the spec, or discovered by its effect"
    return HeadMaps(
        f"{spec.circuit}: which {nouns_of(views)[1]} matter, from the answer back to the input",
        stages,
        f"{UNIT} (nats)",
        f"{nouns_of(views)[0]} of the group, {origin}",
        map_footnote(spec, views),
    )


def profile_maps(
    spec: Spec, changes: Sequence[MemberChange], before: str, now: str, shape: Shape
) -> HeadMaps:
    """The share of every head and MLP in the answer, stage by stage, in the reference model and the candidate.

    Args:
        spec: the spec.
        changes: every member of every stage, as a red claim has it measured.
        before: label of the reference model.
        now: label of the candidate.
        shape: of both models.
    """
    stages: dict[tuple[str, str], list[MemberChange]] = {}
    for change in changes:
        stages.setdefault((change.at, change.readers), []).append(change)
    cells = {change.member: member_cell(change.member, shape) for change in changes}
    together = any(cell is None for cell in cells.values())
    return HeadMaps(
        f"{spec.circuit}: what every head and MLP does in both models",
        [
            StageMaps(
                f"into {readers}",
                f"at {at}",
                {
                    before: share_map(members, cells, shape, now=False),
                    now: share_map(members, cells, shape, now=True),
                },
            )
            for (at, readers), members in stages.items()
        ],
        "share of the prompt's effect",
        "head or MLP of a group of the spec",
        "Path patching of one head or MLP at a time into the readers of a group, as a share of what the whole "
        "source prompt does to the answer's logit; the sweep that explains red claims (kind same_profile). Claims "
        "of kind path and the graph of the circuit have other rows and another unit.",
        "Each cell is one attention head, or the MLP of a layer. A number says how much of the answer the readers "
        "get through it: 0.70 means 70 %. Red: it does this work. White: it does none. Blue: it works against "
        "the answer. A cell that is red in one model and white in the other fell silent or took over.",
        "no path to the readers, or not patched alone" if together else "no path to the readers",
    )


def member_cell(member: str, shape: Shape) -> tuple[int, int] | None:
    """Layer and column of ``2.1`` or ``2.mlp``; None for several heads that were patched together."""
    layer, dot, part = member.partition(".")
    if not dot or not layer.isdigit():
        return None
    return int(layer), shape.n_heads if part == MLP else int(part)


def share_map(
    members: Sequence[MemberChange],
    cells: Mapping[str, tuple[int, int] | None],
    shape: Shape,
    *,
    now: bool,
) -> HeadMap:
    """The shares of one stage in one model."""
    has_mlps = any(cell is not None and cell[1] == shape.n_heads for cell in cells.values())
    scores = np.full((shape.n_layers, shape.n_heads + has_mlps), np.nan)
    chosen = []
    for member in members:
        if (cell := cells[member.member]) is not None:
            scores[cell] = member.now if now else member.before
            if member.group is not None:
                chosen.append(cell)
    return HeadMap(scores, chosen, wholes=(COLUMNS[MLP],) if has_mlps else (), sign=1)


def nouns_of(views: Sequence[CircuitView]) -> tuple[str, str]:
    """What the maps show, singular and plural."""
    others = any(stage.wholes for view in views for stage in view.stages)
    return ("member", "members") if others else ("head", "heads")


def map_footnote(spec: Spec, views: Sequence[CircuitView]) -> str:
    """The method and the rows of the maps."""
    one = nouns_of(views)[0]
    method = f"Path patching, one {one} at a time (Prakash et al. 2024, section 3.1)"
    effects = [e for view in views for stage in view.stages for e in stage.effects.values()]
    if not effects:
        return f"{method}; no {one} can reach a reader."
    rows = span_of([effect.n for effect in effects])
    contexts = span_of([effect.clusters for effect in effects])
    return (
        f"{method}; means over the {rows} rows of the search, in {contexts} contexts; the graph of "
        f"the circuit and claims of kind path have others.{estimates_note(views)}{shared_keys(spec, views)}"
        f"{warnings(views)}"
    )


def warnings(views: Sequence[CircuitView]) -> str:
    """What makes the numbers of a model mean little."""
    return "".join(f" Warning: {view.warning}." for view in views if view.warning)


def span_of(counts: Sequence[int]) -> str:
    """A number, or the least and the largest: a search takes more rows for heads near its threshold."""
    least, most = min(counts), max(counts)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def estimates_note(views: Sequence[CircuitView]) -> str:
    """What the dotted cells are, and how well such estimates agree with patching; empty without any."""
    screened = [s.screening for view in views for s in view.stages if s.screening.left_out]
    if not screened:
        return ""
    known = [s.agreement for s in screened if s.agreement is not None]
    note = " Dotted cells were not patched alone: they show an estimate by integrated gradients"
    if known:
        low, high = f"{min(known):.2f}", f"{max(known):.2f}"
        note += f", whose rank correlation with patching is {low if low == high else f'{low} to {high}'}"
    return f"{note}."


def shared_keys(spec: Spec, views: Sequence[CircuitView]) -> str:
    """A note for GQA: patching a reader's k or v patches those of its whole key-value group."""
    through = {group.into.via for group in spec.groups.values() if group.into} & {"k", "v"}
    if through and any(view.shape.n_kv_heads != view.shape.n_heads for view in views):
        return f" With GQA, a reader shares its {' and '.join(sorted(through))} with its key-value group."
    return ""


def neighbours(view: CircuitView, group: str) -> set[Member]:
    """Members of a model's other groups at the same position."""
    at = {stage.group: stage.at for stage in view.stages}
    return {
        (layer, part)
        for name, other in view.groups.items()
        if name != group
        for layer, part, place in other.placed()
        if place == at[group]
    }


def path_label(stage: Stage) -> str:
    """The position of the senders of a stage, and their receivers."""
    into = "directly into the logits" if stage.into is None else f"into {stage.via} of {stage.into}"
    return f"at {stage.at}, {into}"
