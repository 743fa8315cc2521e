"""The data behind the pictures of ``show`` and of the page, made from the measured circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.discovery.measured_circuit import CircuitView
from pytest_mechanism.discovery.selection import chain
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.nodes import ATTENTION, KINDS, MLP, Member, in_order, kind_of
from pytest_mechanism.report.pictures.circuit_graph import CircuitGraph, GroupNode
from pytest_mechanism.report.pictures.edges import Edge, Effect
from pytest_mechanism.report.pictures.head_map import HeadMap
from pytest_mechanism.report.pictures.heatmaps import HeadMaps, StageMaps
from pytest_mechanism.report.pictures.style import head_name, shorten
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Prompt, Span, parse_position
from pytest_mechanism.types import MemberChange, Score

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
        "share of the answer's logit",
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


def circuit_graph(spec: Spec, views: Sequence[CircuitView], example: Prompt) -> CircuitGraph:
    """The groups with their joint effects, model beside model."""
    groups = {}
    for name in chain(spec.groups):
        group = spec.groups[name]
        into = group.into
        groups[name] = GroupNode(
            group.at,
            into.group if into else None,
            {v.label: v.groups[name].named_heads() if name in v.groups else () for v in views},
            Edge(
                f"via {into.via} of {into.group}" if into else "directly into the logits",
                {v.label: effect(v.effects[name]) for v in views if name in v.effects},
            ),
            other_members(group, [v.groups[name] for v in views if name in v.groups]),
        )
    groups |= new_routes(spec, views)
    spans = positions(spec, example)
    words = {name: ", ".join(example.text[a:b].strip() for a, b in s) for name, s in spans.items()}
    return CircuitGraph(
        f"{spec.circuit}: the circuit, from the answer back to the input",
        groups,
        words,
        shorten(marked(example.text, spans), 800),
        example.answer,
        f"the {UNIT}, in nats,",
        graph_footnote(spec, views),
    )


def other_members(group: AnyGroup, found: Sequence[Group] = ()) -> tuple[str, ...]:
    """A line for each MLP and attention output of a group, with its position where that is another.

    Args:
        group: as the spec has it.
        found: the same group in each model, for members that were discovered.
    """
    of_models = [group] if isinstance(group, Group) else found
    placed = {member: None for each in of_models for member in each.placed()}
    return tuple(
        f"{KINDS[kind_of(part)][0]} of layer {layer}{'' if at == group.at else f' at {at}'}"
        for layer, part, at in sorted(placed, key=in_order)
        if not isinstance(part, int)
    )


ROUTE = 0.25
"""Part of a stage's largest effect from which a head of no group is drawn as a new route."""


MOST_ROUTES = 4


def new_routes(spec: Spec, views: Sequence[CircuitView]) -> dict[str, GroupNode]:
    """Heads of no group whose effect on a group's readers is large in one of two models and at most half as large in
    the other: work that moved. Their effects come from the rows of the heat maps."""
    if len(views) != 2 or not all(view.stages for view in views):
        return {}
    found: dict[str, GroupNode] = {}
    sizes: dict[str, float] = {}
    named = {
        view.label: {m[:2] for g in view.groups.values() for m in g.placed()} for view in views
    }
    for stages in zip(*(view.stages for view in views), strict=True):
        reader = stages[0].into
        most = max((abs(e.value) for s in stages for e in s.effects.values()), default=0.0)
        for here, there, view in (
            (stages[1], stages[0], views[1]),
            (stages[0], stages[1], views[0]),
        ):
            for member, estimate in here.effects.items():
                before = there.effects.get(member)
                if (
                    not isinstance(member[1], int)
                    or any(member in heads for heads in named.values())
                    or estimate.value > -ROUTE * most
                    or estimate.interval[1] >= 0
                    or before is None
                    or before.value < estimate.value / 2
                ):
                    continue
                via = (
                    "directly into the logits" if reader is None else f"via {here.via} of {reader}"
                )
                node = GroupNode(
                    here.at,
                    reader,
                    {view.label: [(member[0], member[1])]},
                    Edge(
                        f"{via}, on the rows of the heat maps",
                        {view.label: Effect(estimate.value, estimate.interval, None)},
                    ),
                    new=True,
                )
                name = f"{head_name((member[0], member[1]))}, in no group"
                if name not in found or estimate.value < sizes[name]:
                    found[name], sizes[name] = node, estimate.value
    kept = sorted(found, key=lambda name: sizes[name])[:MOST_ROUTES]
    return {name: node for name, node in found.items() if name in kept}


def effect(score: Score) -> Effect:
    """A score as the picture shows it."""
    return Effect(score.value, score.interval, score.control.value if score.control else None)


def graph_footnote(spec: Spec, views: Sequence[CircuitView]) -> str:
    """The method, rows, confidence level and controls of the graph."""
    scores = [score for view in views for score in view.effects.values()]
    if not scores:
        return "No effect could be measured."
    first = scores[0]
    has_all_controls = all(score.control is not None for score in scores)
    exception = "" if has_all_controls else " (none if too few are left)"
    random = "random heads"
    several = ""
    if any(group.kinds != ("heads",) for group in spec.groups.values()):
        random = "random heads, MLPs or attention outputs"
        several = " A group whose members work at several positions has no effect of its own."
    return (
        "Path patching of a group's heads together (Prakash et al. 2024, section 3.1); means over "
        f"{first.n:,} rows in {first.clusters:,} contexts; in brackets the {first.confidence:.0%} "
        f"confidence interval; control: the effect of as many {random} that can reach the reader, "
        f"of the same layers as far as possible{exception}. Claims of kind path have the same rows; the heat maps "
        f"have those of the search.{several}{shared_keys(spec, views)}{warnings(views)}"
    )


# -- the example


def positions(spec: Spec, example: Prompt) -> dict[str, tuple[Span, ...]]:
    """The positions of the groups, in the order of the text."""
    used = {
        group.at: tuple(
            whole_word(example.text, span)
            for span in example.spans.get(parse_position(group.at)[0], ())
        )
        for group in spec.groups.values()
    }
    return dict(sorted(used.items(), key=lambda item: (item[1] or ((len(example.text), 0),))[0]))


def whole_word(text: str, span: Span) -> Span:
    """The span, extended to the beginning of its word: ``last`` is a single character."""
    start, stop = span
    while start and text[start].isalnum() and text[start - 1].isalnum():
        start -= 1
    return start, stop


def marked(text: str, spans: Mapping[str, Sequence[Span]]) -> str:
    """The text with each position's words in brackets: ``Box [2: L] contains [3: the]``."""
    numbers: dict[Span, list[int]] = {}
    for number, several in enumerate(spans.values(), start=1):
        for span in several:
            numbers.setdefault(span, []).append(number)
    marked_text, end = "", 0
    for (start, stop), here in sorted(numbers.items()):
        if start < end:
            continue  # inside another position's words
        words = text[start:stop].lstrip()
        names = ", ".join(map(str, here))
        marked_text += f"{text[end : stop - len(words)]}[{names}: {words}]"
        end = stop
    return marked_text + text[end:]
