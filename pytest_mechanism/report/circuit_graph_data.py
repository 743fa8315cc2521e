"""The data behind the graph of a circuit, which ``show`` and the page draw, made from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_mechanism.discovery.measured_circuit import CircuitView
from pytest_mechanism.discovery.selection import chain
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.nodes import KINDS, in_order, kind_of
from pytest_mechanism.report.head_map_data import UNIT, shared_keys, warnings
from pytest_mechanism.report.pictures.circuit_graph import CircuitGraph, GroupNode
from pytest_mechanism.report.pictures.edges import Edge, Effect
from pytest_mechanism.report.pictures.style import head_name, shorten
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Prompt, Span, parse_position
from pytest_mechanism.types import Score


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
