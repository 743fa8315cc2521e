"""Which heads and MLPs are behind a red claim: the profile of every member, in the reference model and the candidate.

The same sweep as kind ``same_profile`` (`claims.profiles`), made only once a claim about a circuit is red, and once for
each spec and candidate. A group that broke is shown by its members' effects before and now; work that moved by the
members that do it now. Whatever a red claim is about, the weights of both models are compared: an edit of a head or a
layer stands out, and a model that only guesses has no work left to compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from pytest_mechanism.causes import Cause
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import REFERENCE, Claim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.moved_work import (
    OF_WHAT,
    called,
    gainer,
    largest_first,
    owner,
    sentences,
    shares,
    silent,
    verb,
)
from pytest_mechanism.claims.other_places import places_in_circuit
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.profile_stages import stages
from pytest_mechanism.claims.profiles import changes, known_measurements, measured
from pytest_mechanism.claims.same_profile import SameProfile
from pytest_mechanism.errors import visible
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.member_weights import (
    MemberWeightResult,
    MemberWeights,
    WeightDonation,
)
from pytest_mechanism.nodes import MLP
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import Located, MemberChange

MARGIN = 0.05
"""Changes of a share that are named."""

ROWS = 140
"""Pairs of prompts of the sweep, unless a claim of the spec makes it on all of them anyway."""

ABOUT_MEMBERS = frozenset(
    {
        Cause.REFUTED,
        Cause.UNSETTLED,
        Cause.FELL_BEHIND,
        Cause.NOT_COMPARABLE,
        Cause.CONTROL_AS_GOOD,
    }
)
"""Causes of a red claim that a change of heads may be behind."""

ABOUT_WEIGHTS = ABOUT_MEMBERS | {Cause.ACCURACY_LOSS, Cause.AT_CHANCE}
"""Causes of a red claim that changed weights may be behind."""

STANDS_OUT = 10.0
"""Times the median change of all heads and MLPs: a member whose weights changed more stands out."""

MOST_NAMED = 4
"""Heads and MLPs whose weights a sentence names; if more stand out, it names their layer, if they share one."""

MOST_WEIGHTS = 2**31
"""Bytes of a checkpoint whose weights are compared: they are held twice."""

CANDIDATE = "ft"


def candidate(claim: Claim, role: str) -> str:
    """The model whose members are looked at."""
    others = [model for model in claim.models(role) if model != REFERENCE]
    return others[0] if others else CANDIDATE


def can_weigh(shapes: Mapping[str, Shape], to: str, role: str, cause: Cause | None) -> bool:
    """Whether changed weights of a model with the reference model's shape may be behind a red claim."""
    if cause not in ABOUT_WEIGHTS or role == REFERENCE or not {REFERENCE, to} <= {*shapes}:
        return False
    before, now = shapes[REFERENCE], shapes[to]
    return (before.n_layers, before.n_heads) == (now.n_layers, now.n_heads)


def can_locate(context: ClaimContext, claim: Claim, role: str, cause: Cause | None) -> bool:
    """Whether a red claim is about heads of a circuit that both models have."""
    to = candidate(claim, role)
    if cause not in ABOUT_MEMBERS or not claim.needs_groups or not context.groups:
        return False
    if not (context.has(REFERENCE) and context.has(to)):
        return False
    return can_weigh(context.shapes, to, role, cause) and all(
        isinstance(group, Group) and elsewhere(group) is None for group in context.groups.values()
    )


def with_rows(context: ClaimContext, spec: Spec, to: str) -> ClaimContext:
    """The context of the sweep: on the rows of a claim that makes it anyway, else on fewer."""
    for claim in spec.claims.values():
        if isinstance(claim, SameProfile) and (claim.source, claim.to) == (REFERENCE, to):
            return context
    return replace(context, sweep_rows=min(context.rows, ROWS))


def needed(context: ClaimContext, to: str) -> tuple[Measurement, ...]:
    """What the sweep measures, as far as it is known in advance."""
    of = stages(context, REFERENCE)
    return tuple(m for role in (REFERENCE, to) for m in known_measurements(context, role, of))


def sweep(
    context: ClaimContext, to: str, measure: Measure
) -> tuple[list[MemberChange], list[str], float]:
    """The change of every member, where heads are in another place or basis, and how long it took."""
    started = time.perf_counter()
    of = stages(context, REFERENCE)
    found = changes(context, measured(context, REFERENCE, to, measure, of), MARGIN)
    said: list[str] = []
    places = places_in_circuit(context, REFERENCE, to, measure, of)
    if places.moved or places.turned:
        said = places.sentences(REFERENCE)
    if places.moved:
        again = measured(context, REFERENCE, to, measure, of, places.moved)
        found = changes(context, again, MARGIN)
    return found, said, time.perf_counter() - started


# -- weights


def weight_changes(context: ClaimContext, to: str) -> Measurement[MemberWeightResult]:
    """How far the weights of each member of a model are from the reference model's."""
    return context.measurement(
        MemberWeights(), to, (context.measurement(WeightDonation(), REFERENCE),)
    )


def small_enough(folder: Path) -> bool:
    """Whether a second copy of a checkpoint's weights is no burden."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= MOST_WEIGHTS


@dataclass(frozen=True)
class ChangedWeights:
    """Where weights changed.

    Attributes:
        first: whether it is the first thing to know: a few parts stand out, or no weight changed.
        line: a sentence; empty where nothing was compared.
        edited: the heads and MLPs that stand out, if they are few.
    """

    first: bool
    line: str
    edited: tuple[str, ...] = ()


def about_weights(
    result: MemberWeightResult,
    found: Sequence[MemberChange] = (),
    settings: Callable[[], str] = lambda: "",
) -> ChangedWeights:
    """Where weights changed.

    Args:
        result: the changes of all parts.
        found: members whose work changed: of parts that stand out, those that lost work come first.
        settings: gives the settings that differ, in words; asked where no weight changed.
    """
    layers = {name: change for name, change in result.changes if name.startswith("layer ")}
    parts = {name: change for name, change in result.changes if name not in layers}
    members = {name: change for name, change in parts.items() if name[0].isdigit()}
    if not members:
        return ChangedWeights(first=False, line="")
    touched = {f"layer {name.partition('.')[0]}" for name, change in members.items() if change}
    parts |= {name: change for name, change in layers.items() if name not in touched}  # its norms
    if not any(parts.values()):
        if result.reason:
            return ChangedWeights(first=False, line="")
        differs = settings() or "a setting (config.json) or the tokenizer differs"
        return ChangedWeights(first=True, line=f"every weight is that of {REFERENCE}: {differs}")
    middle = median(members.values())
    losses = {m.member: abs(m.now) - abs(m.before) for m in reversed(largest_first(found, found))}
    out = sorted(
        (name for name, change in parts.items() if change > STANDS_OUT * middle),
        key=lambda name: (round(min(0.0, losses.get(name, 0.0)), 1), -parts[name]),
    )
    within = {f"layer {name.partition('.')[0]}" for name in out}
    if len(out) > MOST_NAMED and len(within) == 1 and {*out} <= {*members}:
        (layer,) = within
        mlp = " and the MLP" if any(name.endswith(MLP) for name in out) else ""
        named, sizes = [layer], layers
        words = {layer: f"the attention{mlp} of {layer}"}
    else:
        most = out or sorted(members, key=lambda name: -members[name])
        named, sizes = most[:MOST_NAMED], parts
        words = {name: called(name) for name in members} | changed_rows(result)
    few = bool(out) and (len(out) == len(named) or sizes is layers)
    text = ", ".join(
        f"{words.get(name, name)} ({sizes[name]:.1%}{'' if i else ' of its norm'})"
        for i, name in enumerate(named)
    )
    heads = f"the {len(members)} heads and MLPs"
    if not few:
        line = f"weights changed throughout, the median of {heads} by {middle:.1%}; most in {text}"
        return ChangedWeights(first=False, line=line)
    edited = tuple(name for name in out if name in members)
    alone = not any(change for name, change in parts.items() if name not in out)
    if len(out) == 1 and any(member.member in edited for member in found):
        rest = "nowhere else" if alone else f"the median of {heads} {middle:.1%}"
        line = work_of_edited(out[0], f"{parts[out[0]]:.1%} of its norm, {rest}", found)
    elif alone:
        line = f"weights changed in {text}, and nowhere else"
    else:
        line = f"weights changed most in {text}; the median of {heads} is {middle:.1%}"
    return ChangedWeights(first=True, line=line, edited=edited)


def work_of_edited(edited: str, size: str, found: Sequence[MemberChange]) -> str:
    """What became of the work of the one edited member, and how many others changed with it."""
    member, *_ = largest_first([m for m in found if m.member == edited], found)
    taker = gainer([member], found)
    gained = f", and {called(taker.member)}{owner(taker)} {verb(taker, found)}" if taker else ""
    rest = len({m.member for m in found} - {edited, taker.member if taker else ""})
    others = f"; the work of {rest} more changed with it" if rest else ""
    return (
        f"{called(edited)}{owner(member)} was changed ({size}) and {verb(member, found)} towards {member.readers}: "
        f"{shares(member)} {OF_WHAT}{gained}{others}"
    )


def changed_rows(result: MemberWeightResult) -> dict[str, str]:
    """Name of a matrix with a row for each word, of which a few changed -> these rows, in words."""
    said = {}
    for rows in result.rows:
        one = rows.count == 1
        more = f" and {rows.count - len(rows.words)} more" if rows.count > len(rows.words) else ""
        words = ", ".join(visible(word) for word in rows.words)
        said[rows.name] = (
            f"the {rows.side} row{'' if one else 's'} of the word{'' if one else 's'} {words}{more}"
        )
    return said


def with_weights(
    found: Located | None,
    result: MemberWeightResult | None,
    seconds: float,
    settings: Callable[[], str] = lambda: "",
) -> Located | None:
    """What a reader has to know, with the weights: first if a few parts stand out, else last; without them where
    heads are in another order, because weights are compared head by head."""
    if found is not None and any("in another order" in line for line in found.lines):
        return found
    if result is None:
        return found
    weights = about_weights(result, found.members if found else (), settings)
    if not weights.line:
        return found
    found = found or Located((), (), 0.0)
    lines = (weights.line, *found.lines) if weights.first else (*found.lines, weights.line)
    took = round(found.seconds + seconds, 3)
    return replace(found, lines=lines, seconds=took, edited=weights.edited)


# -- the report


def located(
    claim: Claim, found: Sequence[MemberChange], places: Sequence[str], seconds: float, alpha: float
) -> Located:
    """What a reader of a red claim has to know about its members.

    Args:
        claim: the red claim.
        found: every member.
        places: where heads are in another place or basis.
        seconds: how long the sweep took.
        alpha: members with a smaller p-value changed.
    """
    changed = [member for member in found if member.p < alpha]
    lines = [*places]
    groups = [reference.name for reference in claim.references() if reference.kind == "group"]
    for group in dict.fromkeys(groups):
        lines += of_group(group, found, changed)
    lines += sentences(changed, found)
    if not changed:
        lines.append(
            f"no head or MLP surely changed its share {OF_WHAT} by more than {MARGIN:g} "
            f"(corrected for {len(found)} comparisons)"
        )
    return Located(tuple(lines), tuple(changed), round(seconds, 3))


def of_group(
    group: str, found: Sequence[MemberChange], changed: Sequence[MemberChange]
) -> list[str]:
    """The effects of a group's members before and now, for members that `sentences` does not name."""
    named = {member.name for member in changed}
    own = [member for member in found if member.group == group and member.name not in named]
    shown = [member for member in own if not silent(member) and abs(member.before) >= MARGIN]
    if not shown:
        return []
    parts = [
        f"{called(member.member)} {member.before:.2f} -> {member.now:.2f} towards {member.readers}"
        for member in sorted(shown, key=lambda member: -abs(member.before))[:4]
    ]
    return [f"{group} shows no sure change of its share {OF_WHAT}: {', '.join(parts)}"]
