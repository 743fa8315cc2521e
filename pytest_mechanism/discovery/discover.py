"""Finding a circuit: path patching along the chain, growing until it suffices, then minimality.

Ranking, thresholds and judgement use disjoint rows: heads are ranked on `RANK_STREAM`, kept by
minimality on `THRESHOLD` (K chosen on `minimality.SELECT`), and the spec's own rows are left for
its claims. Every step is a measurement, so an interrupted search takes up where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_mechanism.claims.base import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import Minimality, measure_minimality
from pytest_mechanism.claims.scoring import above_chance
from pytest_mechanism.discovery.selection import MINIMALITY, chain, minimal, unshared
from pytest_mechanism.discovery.stages import Stage, search
from pytest_mechanism.discovery.sufficiency import Grown, grow
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.fields.groups import AnyGroup, Find, Group, SoughtGroup
from pytest_mechanism.measurements.path_patching import RANK_STREAM
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.spec.write import flow
from pytest_mechanism.types import Head

THRESHOLD = "discover_threshold"
"""Rows on which heads are kept or dropped."""


@dataclass(frozen=True)
class Effort:
    """How many rows each step takes, and when a head is kept.

    Attributes:
        rank_rows: of path patching (the paper: 300).
        select_rows: on which K is chosen.
        threshold_rows: on which minimality is measured.
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
        groups: the groups whose heads were found, each with its readers; empty where none was.
        stages: the path patching of each group, from the answer back.
        minimality: what each candidate was worth, where the search came so far.
        reason: why some groups, or all, were not found, and what to change; None where all were.
        grown: the circuit before minimality, and how faithful it was.
    """

    groups: Mapping[str, Group]
    stages: tuple[Stage, ...]
    minimality: Minimality | None
    reason: str | None = None
    grown: Grown | None = None


def nothing_found(
    groups: Mapping[str, AnyGroup], stages: Sequence[Stage], empty: Sequence[str]
) -> str:
    """What to say of groups without heads: how far the best one is from what was wanted."""
    found = f"nothing found for group {', '.join(empty)}: no head has the wanted effect"
    first = next(stage for stage in stages if stage.group == empty[0])
    find = groups[empty[0]].find
    if not first.effects or (find is not None and find.candidates is not None):
        return found
    (layer, head), effect = min(first.effects.items(), key=lambda each: each[1].value)
    low, high = effect.interval
    wanted = (find or Find()).drops_at_least
    return (
        f"{found}; of {empty[0]}, head {layer}.{head} has the largest, {effect.value:+.2g} nats "
        f"[{low:+.2g}, {high:+.2g}], and {-wanted:+.2g} are wanted; heads that share their work have "
        "less each: lower find: {drops_at_least: ...}, or see whether source prompts differ in what "
        "these heads read"
    )


def nothing_needed(lost: Sequence[str], candidates: Mapping[str, Sequence[Head]]) -> str:
    """What to say of groups that lost all their heads to minimality: which heads those were."""
    spelled = "; ".join(f"{name}: {{heads: {flow(by_layer(candidates[name]))}}}" for name in lost)
    return (
        f"no head of group {', '.join(lost)} is needed: the circuit does as well without each, as it "
        "does without any of several heads that stand in for each other; claims about them together "
        f"name them: {spelled}"
    )


def discover(context: ClaimContext, on: str, measure: Measure, effort: Effort) -> Discovery:
    """Find the heads of every sought group of ``case.groups`` on the model of role ``on``."""
    request = Performance(rows=effort.rank_rows, stream=RANK_STREAM)
    task = measure(context.measurement(request, on))
    if not above_chance(context, task):
        return Discovery(
            {}, (), None, f"{on} answers no better than chance, so there is no circuit to find"
        )
    stages = tuple(search(context, on, measure, effort.rank_rows))
    found = unshared({stage.group: list(stage.candidates) for stage in stages}, context.groups)
    reasons: list[str] = []
    if empty := [name for name, heads in found.items() if not heads]:
        reasons.append(nothing_found(context.groups, stages, empty))
    candidates, unread = connected(context.groups, found)
    reasons += unread
    if not candidates:
        return Discovery({}, stages, None, "; ".join(reasons))
    context = replace(context, groups={name: context.groups[name] for name in candidates})
    reached = [stage for stage in stages if stage.group in candidates]
    grown = grow(
        context,
        on,
        candidates,
        reached,
        measure,
        effort.rank_rows,
        effort.threshold_rows,
        THRESHOLD,
    )
    candidates = {name: list(heads) for name, heads in grown.candidates.items()}
    worth = measure_minimality(
        context, on, candidates, measure, effort.select_rows, effort.threshold_rows, THRESHOLD
    )
    needed: dict[str, list[Head]] = {}
    for name, heads in candidates.items():
        scores = {n.head: n.score for n in worth.heads if n.group == name}
        judged = isinstance(context.groups[name], SoughtGroup) and worth.can_judge(name)
        needed[name] = minimal(scores, effort.minimality) if judged else heads
    if lost := [name for name, heads in needed.items() if not heads]:
        reasons.append(nothing_needed(lost, candidates))
    kept, unread = connected(context.groups, needed)
    reasons += unread
    groups = {name: as_group(context.groups[name], heads) for name, heads in kept.items()}
    return Discovery(groups, stages, worth, "; ".join(reasons) or None, grown)


def connected(
    groups: Mapping[str, AnyGroup], found: Mapping[str, Sequence[Head]]
) -> tuple[dict[str, list[Head]], list[str]]:
    """Those groups with heads whose readers, up to the answer, have heads too, in the order of
    ``groups``; and a sentence about each that has heads and no readers."""
    kept: set[str] = set()
    unread: list[str] = []
    for name in chain(groups):
        if not found.get(name):
            continue
        into = groups[name].into
        if into is None or into.group in kept:
            kept.add(name)
        else:
            unread.append(
                f"group {name} is left out, since nothing was found for its readers, {into.group}"
            )
    return {name: list(found[name]) for name in groups if name in kept}, unread


def as_group(group: AnyGroup, heads: Sequence[Head]) -> Group:
    """A group with heads named."""
    if isinstance(group, Group):
        return group
    return Group(heads=by_layer(heads), at=group.at, into=group.into)


def by_layer(heads: Sequence[Head]) -> dict[int, list[int]]:
    """As a spec names heads."""
    layers: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        layers.setdefault(layer, []).append(head)
    return layers


def with_discovered(
    context: ClaimContext, on: str, measure: Measure, effort: Effort | None = None
) -> ClaimContext:
    """The case with every sought group's heads found on the model of role ``on``.

    Raises:
        MeasurementError: nothing was found.
    """
    if all(isinstance(group, Group) for group in context.groups.values()):
        return context
    found = discover(context, on, measure, effort or Effort())
    if found.reason is not None:
        raise MeasurementError(f"heads: discovered: {found.reason}")
    return replace(context, groups=found.groups)


def compare(
    a: Mapping[str, Group], b: Mapping[str, Group]
) -> dict[str, tuple[float, float, float]]:
    """Group -> precision and recall of b's heads against a's, and their Jaccard index."""
    found = {}
    for name in a:
        mine, theirs = set(a[name].members()), set(b[name].members()) if name in b else set()
        both = len(mine & theirs)
        found[name] = (
            both / len(theirs) if theirs else 0.0,
            both / len(mine) if mine else 0.0,
            both / len(mine | theirs) if mine | theirs else 0.0,
        )
    return found
