"""From what was seen of a circuit to the plain data that pictures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_mechanism.discovery.measured_circuit import Seen
from pytest_mechanism.discovery.selection import chain
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.report.pictures.circuit_graph import CircuitGraph, GroupNode
from pytest_mechanism.report.pictures.edges import Edge, Effect
from pytest_mechanism.report.pictures.head_map import HeadMap
from pytest_mechanism.report.pictures.heatmaps import HeadMaps, StageMaps
from pytest_mechanism.report.pictures.style import shorten
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Prompt, Span, parse_position
from pytest_mechanism.types import Head, Score

UNIT = "change of the answer's log-probability"


def head_maps(spec: Spec, seen: Sequence[Seen]) -> HeadMaps:
    """Scores of every head, stage by stage, model beside model."""
    stages = [
        StageMaps(
            several[0].group,
            way(several[0]),
            {
                one.label: HeadMap(
                    stage.table(one.shape), stage.candidates, neighbours(one, stage.group)
                )
                for one, stage in zip(seen, several, strict=True)
            },
        )
        for several in zip(*(one.stages for one in seen), strict=True)
    ]
    named = [isinstance(group, Group) for group in spec.groups.values()]
    origin = "named in the spec" if all(named) else "found by their effect"
    if any(named) and not all(named):
        origin = "named in the spec, or found by their effect where it says discovered"
    return HeadMaps(
        f"{spec.circuit}: which heads matter, from the answer back to the input",
        stages,
        f"{UNIT} (nats)",
        f"head of the group, {origin}",
        map_footnote(spec, seen),
    )


def map_footnote(spec: Spec, seen: Sequence[Seen]) -> str:
    """Method and rows behind the maps."""
    method = "Path patching, one head at a time (Prakash et al. 2024, section 3.1)"
    effects = [e for one in seen for stage in one.stages for e in stage.effects.values()]
    if not effects:
        return f"{method}; no head could reach a reader."
    return (
        f"{method}; means over {effects[0].n:,} rows in {effects[0].clusters:,} contexts, on which "
        f"heads are searched; the circuit's graph has rows of its own.{shared_keys(spec, seen)}"
    )


def shared_keys(spec: Spec, seen: Sequence[Seen]) -> str:
    """Under GQA, what a reader hears through k or v, its whole key-value group hears."""
    through = {group.into.via for group in spec.groups.values() if group.into} & {"k", "v"}
    if through and any(one.shape.n_kv_heads != one.shape.n_heads for one in seen):
        return f" Under GQA a reader shares its {' and '.join(sorted(through))} with its group."
    return ""


def neighbours(one: Seen, group: str) -> set[Head]:
    """Heads of a model's other groups that work at the same position."""
    at = {stage.group: stage.at for stage in one.stages}
    return {
        head
        for name, other in one.groups.items()
        if name != group and other.at == at[group]
        for head in other.members()
    }


def way(stage: Stage) -> str:
    """Where the senders of a stage are patched, and who hears it."""
    into = "directly into the logits" if stage.into is None else f"into {stage.via} of {stage.into}"
    return f"at {stage.at}, {into}"


def circuit_graph(spec: Spec, seen: Sequence[Seen], example: Prompt) -> CircuitGraph:
    """The groups with their joint effects, model beside model."""
    groups = {}
    for name in chain(spec.groups):
        group = spec.groups[name]
        into = group.into
        groups[name] = GroupNode(
            group.at,
            into.group if into else None,
            {one.label: one.groups[name].members() if name in one.groups else () for one in seen},
            Edge(
                f"via {into.via} of {into.group}" if into else "directly into the logits",
                {one.label: effect(one.effects[name]) for one in seen if name in one.effects},
            ),
        )
    spans = positions(spec, example)
    words = {name: ", ".join(example.text[a:b].strip() for a, b in s) for name, s in spans.items()}
    return CircuitGraph(
        f"{spec.circuit}: the circuit, from the answer back to the input",
        groups,
        words,
        shorten(marked(example.text, spans), 800),
        example.answer,
        f"the {UNIT}, in nats,",
        graph_footnote(spec, seen),
    )


def effect(score: Score) -> Effect:
    """A score as the picture wants it."""
    return Effect(score.value, score.interval, score.control.value if score.control else None)


def graph_footnote(spec: Spec, seen: Sequence[Seen]) -> str:
    """Method, rows, confidence and controls behind the graph."""
    scores = [score for one in seen for score in one.effects.values()]
    if not scores:
        return "No effect could be measured."
    one = scores[0]
    none = (
        " (none where too few are left)" if any(score.control is None for score in scores) else ""
    )
    return (
        "Path patching of a group's heads together (Prakash et al. 2024, section 3.1); means over "
        f"{one.n:,} rows in {one.clusters:,} contexts; in brackets the {one.confidence:.0%} "
        "interval; control: the same for as many random heads that the reader could hear, of the "
        f"same layers while they last{none}.{shared_keys(spec, seen)}"
    )


# -- the example


def positions(spec: Spec, example: Prompt) -> dict[str, tuple[Span, ...]]:
    """The positions at which groups work, in the order of the text."""
    used = {
        group.at: tuple(
            whole_word(example.text, span)
            for span in example.spans.get(parse_position(group.at)[0], ())
        )
        for group in spec.groups.values()
    }
    return dict(sorted(used.items(), key=lambda item: (item[1] or ((len(example.text), 0),))[0]))


def whole_word(text: str, span: Span) -> Span:
    """A span that begins inside a word, from the word's beginning: ``last`` is a character."""
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
    found, done = "", 0
    for (start, stop), which in sorted(numbers.items()):
        if start < done:
            continue  # inside another position's words
        words = text[start:stop].lstrip()
        names = ", ".join(map(str, which))
        found += f"{text[done : stop - len(words)]}[{names}: {words}]"
        done = stop
    return found + text[done:]
