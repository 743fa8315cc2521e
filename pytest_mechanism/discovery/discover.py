"""Circuit discovery: path patching along the chain of groups, growing until the circuit suffices, then
minimality.

Where a group's ``find: {members: ...}`` offers MLPs and some have the required effect, the circuit is one of heads and
MLPs from then on: every other MLP is ablated too, and MLPs join and go as heads do. If none has, every MLP stays alive.

Ranking, thresholds and judgement use disjoint rows. Heads are ranked on `RANK_STREAM` and kept by minimality
on `THRESHOLD` (K chosen on `SELECT_STREAM`); claims are judged on the spec's own rows. Every step is a
measurement, so an interrupted search continues from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import Member, Minimality, Part
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
from pytest_mechanism.nodes import (
    KINDS,
    MLP,
    by_key,
    described,
    in_order,
    kind_of,
    listing,
    readers,
)
from pytest_mechanism.spec.write import flow

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
        groups: the groups whose members were found and whose readers were found too.
        stages: the path patching of each group, from the answer back.
        minimality: how much the circuit needs each candidate; None if there was none.
        reason: why groups were not found, and what to change; None if all were found.
        grown: the circuit before minimality, and its faithfulness.
        restored: members that are not needed one by one, and are needed together.
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

    @property
    def nouns(self) -> tuple[str, str]:
        """What the search chose among, singular and plural: heads, or members where it may find others too."""
        parts = {part for stage in self.stages for _, part in stage.effects}
        only_heads = {*map(kind_of, parts)} <= {"heads"}
        return KINDS["heads"] if only_heads else ("member", "members")


def largest_effect(stage: Stage, find: Find) -> tuple[str, str] | None:
    """The member of a stage with the largest effect, and this effect with its interval; None if none was measured,
    or if no effect is required."""
    if not stage.effects or find.candidates is not None:
        return None
    strongest = ranked(stage.effects)[0]
    effect = stage.effects[strongest]
    low, high = effect.interval
    return described(strongest), f"{effect.value:+.2g} nats [{low:+.2g}, {high:+.2g}]"


def none_passes(stage: Stage, group: AnyGroup, on: str) -> str:
    """How far the strongest member of a stage is from the threshold of its group."""
    find, no = group.find or Find(), f"no {listing(group.searched, 0, 'or')} of {on}"
    if not stage.effects and stage.into:
        return f"{no} can be in group {stage.group}, since none was found for its readers, {stage.into}"
    text = f"{no} passes the threshold of group {stage.group}"
    if (largest := largest_effect(stage, find)) is None:
        return text
    member, effect = largest
    required = -find.drops_at_least
    return f"{text}: the largest effect is {effect} ({member}), and the spec requires {required:+g}"


def no_heads_reason(
    groups: Mapping[str, AnyGroup], stages: Sequence[Stage], empty: Sequence[str]
) -> str:
    """Why groups have no members: how far the strongest is from the required effect."""
    kinds = {kind for name in empty for kind in groups[name].searched}
    no, one = listing(kinds, word="or"), listing(kinds, 0, "or")
    reason = f"no {no} found for group {', '.join(empty)}: no {one} has the required effect"
    first = next(stage for stage in stages if stage.group == empty[0])
    find = groups[empty[0]].find or Find()
    if (largest := largest_effect(first, find)) is None:
        return reason
    member, effect = largest
    together = len(first.screening.left_out)
    these = listing(kinds)
    if together:
        reason += f" ({together} {these} were patched only together; find: {{screen: {{keep: ...}}}} sets how many)"
    return (
        f"{reason}; for {empty[0]}, {member} has the largest effect, {effect}, but "
        f"{-find.drops_at_least:+.2g} is required; {these} that can replace "
        "each other have smaller effects: lower find: {drops_at_least: ...}, or check that source prompts "
        f"differ in what these {these} read"
    )


STEPS_BESIDE_STAGES = 3
"""Announcements of a search beside one for each group: the task, growing, minimality."""


def not_needed_reason(
    groups: Sequence[str], candidates: Mapping[str, Sequence[Part]], at: Mapping[str, str]
) -> str:
    """Why groups lost all their members to minimality, and which members those were.

    Args:
        groups: their names.
        candidates: group -> its members.
        at: group -> its position.
    """
    kinds = {kind_of(part[1]) for name in groups for part in candidates[name]}
    named = "; ".join(f"{name}: {flow(by_key(candidates[name], at[name]))}" for name in groups)
    return (
        f"no {listing(kinds, 0, 'or')} of group {', '.join(groups)} is needed: the circuit does as well without "
        f"any single one, which is so if its {listing(kinds)} can replace each other; to claim something about "
        f"them together, name them: {named}"
    )


def by_effect(parts: Sequence[Part], stages: Sequence[Stage], group: str) -> list[Part]:
    """The members of a group, strongest effects first; members without a measured effect come last."""
    (stage,) = [stage for stage in stages if stage.group == group]
    effects: dict[Part, float] = {part: effect.value for part, effect in stage.effects.items()}
    return sorted(parts, key=lambda part: (effects.get(part[:2], 0.0), in_order(part)))


def with_mlps_alive(groups: Mapping[str, AnyGroup]) -> dict[str, AnyGroup]:
    """The groups of a search that found no MLP: its circuit keeps every MLP, so none can join it."""

    def settled(group: AnyGroup) -> AnyGroup:
        if isinstance(group, Group) or "mlps" not in group.searched:
            return group
        others = [key for key in group.searched if key != "mlps"] or ["heads"]
        find = group.find.model_copy(update={"members": others})
        return group.model_copy(update={"find": find})

    return {name: settled(group) for name, group in groups.items()}


def discover(
    context: ClaimContext,
    on: str,
    measure: Measure,
    effort: Effort,
    announce: Announce = quietly,
) -> Discovery:
    """Find the members of every group with ``heads: discovered`` on the model of role ``on``.

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
    if empty := [name for name, parts in selected.items() if not parts]:
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
    asked = {name: context.groups[name] for name in candidates}
    has_mlps = any(part[1] == MLP for parts in candidates.values() for part in parts)
    context = replace(context, groups=asked if has_mlps else with_mlps_alive(asked))
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
        {name: by_effect(parts, stages, name) for name, parts in grown.candidates.items()},
        measure,
        effort.select_rows,
        effort.threshold_rows,
        THRESHOLD,
        effort.minimality,
    )
    needed = pruned.heads
    if lost := [name for name, parts in needed.items() if not parts]:
        at = {name: context.groups[name].at for name in lost}
        reasons.append(not_needed_reason(lost, grown.candidates, at))
        missing |= {
            name: f"the circuit of {on} does as well without any single member of group {name}"
            for name in lost
        }
    kept, unread = connected(context.groups, needed)
    reasons += unread.values()
    groups = {name: named_group(context.groups[name], parts) for name, parts in kept.items()}
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
    groups: Mapping[str, AnyGroup], members: Mapping[str, Sequence[Part]]
) -> tuple[dict[str, list[Part]], dict[str, str]]:
    """The groups that have members and whose readers, up to the answer, have members that read them; and a
    sentence about each group that has members but no readers."""
    kept: set[str] = set()
    unread: dict[str, str] = {}
    for name in chain(groups):
        if not members.get(name):
            continue
        into = groups[name].into
        if into is None or (into.group in kept and readers(members[into.group], into.via)):
            kept.add(name)
            continue
        kinds = [
            kind
            for kind in groups[into.group].searched
            if (kind == "mlps") == (into.via == "input")
        ]
        unread[name] = (
            f"group {name} is left out, since no {listing(kinds or ['heads'], word='or')} were found for its "
            f"readers, {into.group}"
        )
    return {name: list(members[name]) for name in groups if name in kept}, unread


def named_group(group: AnyGroup, parts: Sequence[Part]) -> Group:
    """The group with members as a spec names them; its own members if it names some."""
    if isinstance(group, Group):
        return group
    named = by_key(parts, group.at)
    return Group(at=group.at, into=group.into, **named)


def compare(
    reference: Mapping[str, Group], other: Mapping[str, Group]
) -> dict[str, tuple[float, float, float]]:
    """Group -> precision and recall of the other members against the reference, and their Jaccard
    index."""
    overlaps = {}
    for name in reference:
        expected = set(reference[name].placed())
        actual = set(other[name].placed()) if name in other else set()
        common, union = len(expected & actual), len(expected | actual)
        overlaps[name] = (
            common / len(actual) if actual else 0.0,
            common / len(expected) if expected else 0.0,
            common / union if union else 0.0,
        )
    return overlaps
