"""Circuit discovery: path patching along the chain of groups, growing until the circuit suffices, then
minimality.

Ranking, thresholds and judgement use disjoint rows. Heads are ranked on `RANK_STREAM` and kept by minimality
on `THRESHOLD` (K chosen on `SELECT_STREAM`); claims are judged on the spec's own rows. Every step is a
measurement, so an interrupted search continues from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import Member, Minimality
from pytest_mechanism.claims.scoring import above_chance
from pytest_mechanism.discovery.pruning import prune
from pytest_mechanism.discovery.selection import (
    MINIMALITY,
    chain,
    ranked,
    unshared,
)
from pytest_mechanism.discovery.stages import Announce, Stage, quietly, search
from pytest_mechanism.discovery.sufficiency import GrownCircuit, grow
from pytest_mechanism.fields.groups import AnyGroup, Find, Group
from pytest_mechanism.measurements.paths import RANK_STREAM
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.nodes import by_layer
from pytest_mechanism.spec.write import flow
from pytest_mechanism.types import Head

THRESHOLD = "discover_threshold"
"""Rows on which heads are kept or dropped."""


@dataclass(frozen=True)
class Effort:
    """The number of rows of each step, and the threshold of minimality.

    Attributes:
        rank_rows: rows of path patching (the paper: 300).
        select_rows: rows on which K is chosen.
        threshold_rows: rows on which minimality is measured.
        minimality: least published minimality score of a head that stays (the paper: 0.01).
    """

    rank_rows: int = 210
    select_rows: int = 105
    threshold_rows: int = 315
    minimality: float = MINIMALITY


@dataclass(frozen=True)
class Discovery:
    """A circuit and how it was found.

    Attributes:
        groups: the groups whose heads were found and whose readers were found too.
        stages: the path patching of each group, from the answer back.
        minimality: how much the circuit needs each candidate; None if there was none.
        reason: why groups were not found, and what to change; None if all were found.
        grown: the circuit before minimality, and its faithfulness.
        restored: heads that are not needed one by one, and are needed together.
        at_chance: whether the model guesses, so that nothing was searched.
        missing: group that was not found -> why, for a reader who did not write the spec.
    """

    groups: Mapping[str, Group]
    stages: tuple[Stage, ...]
    minimality: Minimality | None
    reason: str | None = None
    grown: GrownCircuit | None = None
    restored: tuple[Member, ...] = ()
    at_chance: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)


def none_passes(stage: Stage, group: AnyGroup, on: str) -> str:
    """How far the strongest head of a stage is from the threshold of its group."""
    find = group.find or Find()
    text = f"no head of {on} passes the threshold of group {stage.group}"
    if not stage.effects and stage.into:
        return f"no head of {on} can be in group {stage.group}, since none was found for its readers, {stage.into}"
    if not stage.effects or find.candidates is not None:
        return text
    head = ranked(stage.effects)[0]
    effect = stage.effects[head]
    low, high = effect.interval
    return (
        f"{text}: the largest effect is {effect.value:+.2g} nats [{low:+.2g}, {high:+.2g}] "
        f"(head {head[0]}.{head[1]}), and the spec requires {-find.drops_at_least:+g}"
    )


def no_heads_reason(
    groups: Mapping[str, AnyGroup], stages: Sequence[Stage], empty: Sequence[str]
) -> str:
    """Why groups have no heads: how far the strongest head is from the required effect."""
    reason = f"no heads found for group {', '.join(empty)}: no head has the required effect"
    first = next(stage for stage in stages if stage.group == empty[0])
    find = groups[empty[0]].find or Find()
    if not first.effects or find.candidates is not None:
        return reason
    head = ranked(first.effects)[0]
    effect = first.effects[head]
    low, high = effect.interval
    together = len(first.screening.left_out)
    if together:
        reason += f" ({together} heads were patched only together; find: {{screen: {{keep: ...}}}} sets how many)"
    return (
        f"{reason}; for {empty[0]}, head {head[0]}.{head[1]} has the largest effect, {effect.value:+.2g} "
        f"nats [{low:+.2g}, {high:+.2g}], but {-find.drops_at_least:+.2g} is required; heads that can replace "
        "each other have smaller effects: lower find: {drops_at_least: ...}, or check that source prompts "
        "differ in what these heads read"
    )


STEPS_BESIDE_STAGES = 3
"""Announcements of a search beside one for each group: the task, growing, minimality."""


def not_needed_reason(groups: Sequence[str], candidates: Mapping[str, Sequence[Head]]) -> str:
    """Why groups lost all their heads to minimality, and which heads those were."""
    named = "; ".join(f"{name}: {{heads: {flow(by_layer(candidates[name]))}}}" for name in groups)
    return (
        f"no head of group {', '.join(groups)} is needed: the circuit does as well without any single "
        "one, which is so if its heads can replace each other; to claim something about them together, "
        f"name them: {named}"
    )


def by_effect(heads: Sequence[Head], stages: Sequence[Stage], group: str) -> list[Head]:
    """The heads of a group, strongest effects first; heads without a measured effect come last."""
    (stage,) = [stage for stage in stages if stage.group == group]
    effects = {head: effect.value for head, effect in stage.effects.items()}
    return sorted(heads, key=lambda head: (effects.get(head, 0.0), head))


def discover(
    context: ClaimContext,
    on: str,
    measure: Measure,
    effort: Effort,
    announce: Announce = quietly,
) -> Discovery:
    """Find the heads of every group with ``heads: discovered`` on the model of role ``on``.

    Args:
        context: of the search.
        on: role of the model.
        measure: gives results.
        effort: rows of each step.
        announce: is told what begins.
    """
    announce("the model on the task")
    request = Performance(rows=effort.rank_rows, stream=RANK_STREAM)
    if not above_chance(context, measure(context.measurement(request, on))):
        reason = f"{on} answers no better than chance, so there is no circuit to find"
        return Discovery({}, (), None, reason, at_chance=True)
    stages = tuple(search(context, on, measure, effort.rank_rows, announce))
    selected = unshared({stage.group: list(stage.candidates) for stage in stages}, context.groups)
    reasons: list[str] = []
    missing: dict[str, str] = {}
    if empty := [name for name, heads in selected.items() if not heads]:
        reasons.append(no_heads_reason(context.groups, stages, empty))
        missing |= {
            stage.group: none_passes(stage, context.groups[stage.group], on)
            for stage in stages
            if stage.group in empty
        }
    candidates, unread = connected(context.groups, selected)
    reasons += unread.values()
    missing |= unread
    if not candidates:
        return Discovery({}, stages, None, "; ".join(reasons), missing=missing)
    context = replace(context, groups={name: context.groups[name] for name in candidates})
    announce("growing the circuit until it suffices")
    grown = grow(
        context,
        on,
        candidates,
        [stage for stage in stages if stage.group in candidates],
        measure,
        effort.rank_rows,
        effort.threshold_rows,
        THRESHOLD,
    )
    announce("minimality")
    pruned = prune(
        context,
        on,
        {name: by_effect(heads, stages, name) for name, heads in grown.candidates.items()},
        measure,
        effort.select_rows,
        effort.threshold_rows,
        THRESHOLD,
        effort.minimality,
    )
    needed = pruned.heads
    if lost := [name for name, heads in needed.items() if not heads]:
        reasons.append(not_needed_reason(lost, grown.candidates))
        missing |= {
            name: f"the circuit of {on} does as well without any single head of group {name}"
            for name in lost
        }
    kept, unread = connected(context.groups, needed)
    reasons += unread.values()
    groups = {name: named_group(context.groups[name], heads) for name, heads in kept.items()}
    return Discovery(
        groups,
        stages,
        pruned.minimality,
        "; ".join(reasons) or None,
        grown,
        pruned.restored,
        missing={**missing, **unread},
    )


def connected(
    groups: Mapping[str, AnyGroup], heads: Mapping[str, Sequence[Head]]
) -> tuple[dict[str, list[Head]], dict[str, str]]:
    """The groups that have heads and whose readers, up to the answer, have heads too; and a sentence
    about each group that has heads but no readers."""
    kept: set[str] = set()
    unread: dict[str, str] = {}
    for name in chain(groups):
        if not heads.get(name):
            continue
        into = groups[name].into
        if into is None or into.group in kept:
            kept.add(name)
        else:
            unread[name] = (
                f"group {name} is left out, since no heads were found for its readers, {into.group}"
            )
    return {name: list(heads[name]) for name in groups if name in kept}, unread


def named_group(group: AnyGroup, heads: Sequence[Head]) -> Group:
    """The group with heads as a spec names them; its own heads if it names some."""
    if isinstance(group, Group):
        return group
    return Group(heads=by_layer(heads), at=group.at, into=group.into)


def compare(
    reference: Mapping[str, Group], other: Mapping[str, Group]
) -> dict[str, tuple[float, float, float]]:
    """Group -> precision and recall of the other heads against the reference, and their Jaccard
    index."""
    overlaps = {}
    for name in reference:
        expected = set(reference[name].members())
        actual = set(other[name].members()) if name in other else set()
        common, union = len(expected & actual), len(expected | actual)
        overlaps[name] = (
            common / len(actual) if actual else 0.0,
            common / len(expected) if expected else 0.0,
            common / union if union else 0.0,
        )
    return overlaps
