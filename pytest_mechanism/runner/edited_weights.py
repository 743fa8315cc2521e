"""Where the weights of a candidate differ from those of the reference model, in words.

Compared whatever a red claim is about: an edit of a head, a layer or a word's row stands out, and a model that only
guesses has no work left to compare (`runner.locate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from pytest_mechanism.causes import Cause
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.checkpoints.trust import weight_bytes
from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.moved_work import (
    OF_WHAT,
    called,
    gainer,
    largest_first,
    owner,
    shares,
    verb,
)
from pytest_mechanism.errors import visible
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.member_weights import (
    MemberWeightResult,
    MemberWeights,
    WeightDonation,
)
from pytest_mechanism.nodes import MLP
from pytest_mechanism.runner.grafts import NO_GRAFTS, Grafted
from pytest_mechanism.runner.locate import ABOUT_MEMBERS, same_sizes
from pytest_mechanism.types import Located, MemberChange

ABOUT_WEIGHTS = ABOUT_MEMBERS | {Cause.ACCURACY_LOSS, Cause.AT_CHANCE}
"""Causes of a red claim that changed weights may be behind."""

STANDS_OUT = 10.0
"""Times the median change of all heads and MLPs: a member whose weights changed more stands out."""

OF_NEXT = 3.0
"""Times the change of any other head or MLP: one whose weights changed more stands out among weights that all changed,
such as a head that training went around."""

MOST_NAMED = 4
"""Heads and MLPs whose weights a sentence names; if more stand out, it names their layer, if they share one."""

MOST_WEIGHTS = 2**31
"""Bytes of a checkpoint whose weights are compared: they are held twice."""


def can_weigh(shapes: Mapping[str, Shape], to: str, role: str, cause: Cause | None) -> bool:
    """Whether changed weights of a model with the reference model's sizes may be behind a red claim."""
    return cause in ABOUT_WEIGHTS and role != REFERENCE and same_sizes(shapes, to)


def weight_changes(context: ClaimContext, to: str) -> Measurement[MemberWeightResult]:
    """How far the weights of each member of a model are from the reference model's."""
    return context.measurement(
        MemberWeights(), to, (context.measurement(WeightDonation(), REFERENCE),)
    )


def small_enough(folder: Path) -> bool:
    """Whether a second copy of a checkpoint's weights is no burden."""
    return weight_bytes(folder) <= MOST_WEIGHTS


@dataclass(frozen=True)
class ChangedWeights:
    """Where weights changed.

    Attributes:
        first: whether it is the first thing to know: a few parts stand out, or no weight changed.
        line: a sentence; empty where nothing was compared.
        edited: the heads and MLPs that stand out, if they are few.
        by_next: whether one stands out from the next alone (`OF_NEXT`), so that others may be behind a red claim.
    """

    first: bool
    line: str
    edited: tuple[str, ...] = ()
    by_next: bool = False


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
    out = [name for name, change in parts.items() if change > STANDS_OUT * middle]
    all_named = len(out) <= MOST_NAMED  # else the sentence names the largest changes
    out.sort(
        key=lambda name: (all_named and round(min(0.0, losses.get(name, 0.0)), 1), -parts[name])
    )
    one, next_one = sorted(members.values(), reverse=True)[:2] if len(members) > 1 else (0.0, 0.0)
    by_next = not out and one >= OF_NEXT * next_one
    if by_next:
        out = [max(members, key=lambda name: members[name])]
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
    size = f"{middle:.1%}" if middle >= 0.0005 else "less than 0.1%"
    if not few:
        edits = sum(change > 0 for change in members.values())
        where = f"in {edits} of {heads}"
        if edits == len(members):
            where = f"throughout, the median of {heads} by {size}"
        line = f"weights changed {where}; most in {text}"
        return ChangedWeights(first=False, line=line)
    edited = tuple(name for name in out if name in members)
    alone = not any(change for name, change in parts.items() if name not in out)
    if len(out) == 1 and any(member.member in edited for member in found):
        rest = "nowhere else" if alone else f"the median of {heads} {size}"
        line = work_of_edited(out[0], f"{parts[out[0]]:.1%} of its norm, {rest}", found)
    elif alone:
        line = f"weights changed in {text}, and nowhere else"
    else:
        line = f"weights changed most in {text}; the median of {heads} is {size}"
    return ChangedWeights(first=True, line=line, edited=edited, by_next=by_next)


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
    grafts: Callable[[], Grafted] = lambda: NO_GRAFTS,
) -> Located | None:
    """What a reader has to know, with the weights: first if a few parts stand out, else last; without them where
    heads are in another order, because weights are compared head by head. Where they do not name one part, what grafts
    say of the members comes before the sweep, and before a part that stands out from the next alone; where they name no
    member, it comes last.

    Args:
        found: the members that the sweep found.
        result: how far every part's weights are from the reference model's.
        seconds: that this took.
        settings: see `about_weights`.
        grafts: says which members of the reference model bring the answers back.
    """
    if found is not None and any("in another order" in line for line in found.lines):
        return found
    if result is None:
        return found
    weights = about_weights(result, found.members if found else (), settings)
    one_part = weights.first and not weights.by_next and len(weights.edited) <= 1
    grafted = NO_GRAFTS if one_part else grafts()
    sweep = found.lines if found else ()
    # grafts that name nobody come last: their best part is not sure
    told = [*grafted.lines, *sweep] if grafted.names else [*sweep, *grafted.lines]
    if weights.line:
        place = len(told) if grafted.names else len(sweep)
        if weights.first:
            place = len(grafted.lines) if weights.by_next and grafted.names else 0
        told.insert(place, weights.line)
    if not told:
        return found
    found = found or Located((), (), 0.0)
    took = round(found.seconds + seconds + grafted.seconds, 3)
    return replace(
        found,
        lines=tuple(told),
        seconds=took,
        edited=weights.edited,
        restored=grafted.names,
    )
