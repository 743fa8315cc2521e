"""What a comparison says, in plain sentences: first who does the work now, then what is behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_mechanism.claims.moved_work import (
    OF_WHAT,
    called,
    gainer,
    largest_first,
    sentence,
    silent,
)
from pytest_mechanism.comparison.members import BASE, FT, ComparedMember, Comparison
from pytest_mechanism.errors import visible
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.nodes import spelled
from pytest_mechanism.types import MemberChange

SHOWN = 4
"""Changes that the conclusion spells out."""

Labels = Mapping[str, str]
"""Role -> label of its model."""


def named(member: str) -> str:
    """``head 2.1``, ``the MLP of layer 2``, ``layer 2``, or the name of a set."""
    return called(member)


def conclusion(
    result: Comparison, labels: Labels, circuits: Mapping[str, Mapping[str, Group]]
) -> list[str]:
    """The sentences, the most important first.

    Args:
        result: the comparison.
        labels: of both models.
        circuits: role -> its own circuit, where something changed.
    """
    a, b = labels[BASE], labels[FT]
    lines = [*moved_heads(result, a)]
    if not result.changed:
        return [*lines, *unchanged(result, a, b)]
    single = [member for member in result.changed if not member.is_layer]
    whole = [member for member in result.changed if member.is_layer]
    lines += taken_over(result, a, b)
    lines.append(
        f"{count(single, whole)} of {b} changed by more than {result.margin:g} of what exchanging the whole prompt "
        f"does to the answer's logit (false-discovery rate {result.alpha:.0%}, {len(result.members)} compared)"
    )
    lines += list(groups_now(a, b, circuits))
    changed = largest_first(result.changed_shares, result.changed_shares)
    lines += [
        sentence(change, result.shares, "" if i else f" {OF_WHAT}")
        for i, change in enumerate(changed[:SHOWN])
    ]
    if len(changed) > SHOWN:
        lines.append(f"{len(changed) - SHOWN} more changes are in the table")
    if not changed:
        lines += [
            f"no member's own work changed by more than the margin; what the exchange shows is {told(member, a, b)}"
            for member in result.changed[:1]
        ]
    return lines


def count(single: Sequence[ComparedMember], whole: Sequence[ComparedMember]) -> str:
    """``3 heads and MLPs (2.1, 2.2, 3.mlp) and 1 layer (2)``."""
    parts = []
    if single:
        noun = "head or MLP" if len(single) == 1 else "heads and MLPs"
        parts.append(f"{len(single)} {noun} ({shortened([member.name for member in single])})")
    if whole:
        noun = "layer" if len(whole) == 1 else "layers"
        names = [member.name.removeprefix("layer ") for member in whole]
        parts.append(f"{len(whole)} whole {noun} ({shortened(names)})")
    return " and ".join(parts)


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Names with commas, the first few of many."""
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def moved_heads(result: Comparison, a: str) -> Iterator[str]:
    """Heads that only changed places or basis."""
    for line in result.places.sentences(visible(a)):
        yield f"{line}: the same function"


def taken_over(result: Comparison, a: str, b: str) -> Iterator[str]:
    """``head 2.1 of B now does what head 2.2 did in A``, for each member that fell silent with a successor."""
    changed = result.changed_shares
    told_already: set[tuple[str, str]] = set()
    for change in largest_first(changed, changed):
        taker = gainer([change], changed) if silent(change) else None
        if taker is None or (taker.member, change.member) in told_already:
            continue
        told_already.add((taker.member, change.member))
        yield (
            f"{named(taker.member)} of {b} now does what {named(change.member)} did in {a}: towards "
            f"{change.readers}, {named(change.member)} went from {shown(change.before)} to {shown(change.now)} and "
            f"{named(taker.member)} from {shown(taker.before)} to {shown(taker.now)} {OF_WHAT}"
        )


def shown(share: float) -> str:
    """A share with two digits, never -0.00."""
    return f"{round(share, 2) + 0.0:.2f}"


def groups_now(a: str, b: str, circuits: Mapping[str, Mapping[str, Group]]) -> Iterator[str]:
    """Who the members of each group are in both models; a group reads and is read by the model's own members."""
    if not {BASE, FT} <= {*circuits}:
        return
    for name in dict.fromkeys([*circuits[BASE], *circuits[FT]]):
        here, there = (members_of(circuits[role].get(name)) for role in (BASE, FT))
        yield (
            f"{name}: {here} in both" if here == there else f"{name}: {here} in {a}, {there} in {b}"
        )


def members_of(group: Group | None) -> str:
    """``3.0 3.1``; ``nobody`` for a group without members."""
    if group is None:
        return "no single head or MLP"
    return " ".join(spelled(member[:2]) for member in group.placed())


def unchanged(result: Comparison, a: str, b: str) -> Iterator[str]:
    """That nothing changed, how far the largest change went, and what the weights say."""
    unsure = [member.name for member in result.members if may_have_changed(member, result.margin)]
    if unsure:
        yield (
            f"no change is shown, but {len(unsure)} of the {len(result.members)} heads, MLPs and layers of {b} may "
            f"have changed by more than {result.margin:g} of what exchanging the whole prompt does to the answer's "
            f"logit: {shortened(unsure)} (a {1 - result.alpha:.0%} interval of theirs reaches beyond it); "
            "more --rows decide"
        )
    else:
        yield (
            f"no change found: every head, MLP and layer of {b} works as in {a}, to within {result.margin:g} of what "
            f"exchanging the whole prompt does to the answer's logit ({len(result.members)} compared; all "
            f"{1 - result.alpha:.0%} intervals lie within it)"
        )
    largest = max(result.members, key=lambda member: member.size)
    yield f"the largest change is {told(largest, a, b)}"
    moved = {member.name: member.weights for member in result.members if member.weights is not None}
    if moved and (most := max(moved, key=lambda name: moved[name])) and moved[most] > 0:
        yield f"weights moved all the same: {named(most)} by {moved[most]:.1%} of its norm, the most of all"
    outside = {name: change for name, change in result.weights.items() if change > 0}
    if outside and not (moved and any(moved.values())):
        most = max(outside, key=lambda name: outside[name])
        yield f"outside heads and MLPs, {most} moved by {outside[most]:.1%} of its norm"
    elif moved and not any(moved.values()) and not outside and not result.weights_note:
        yield "all weights are equal"
    if result.weights_note:
        yield result.weights_note


def may_have_changed(member: ComparedMember, margin: float) -> bool:
    """Whether the rows do not rule out a change: an interval of its quantities reaches beyond the margin.

    The intervals are those of single quantities, without a correction for their number. That *all* lie within the
    margin needs none: if one member did change by more, its own interval would show it (intersection-union test).
    """
    intervals = [share.interval for share in member.shares]
    intervals += [exchange.interval for exchange in member.exchanges]
    return any(abs(bound) > margin for interval in intervals for bound in interval)


def told(member: ComparedMember, a: str, b: str) -> str:
    """The largest change of a member, with its interval."""
    labels = {BASE: a, FT: b}
    candidates: list[tuple[float, str]] = [
        (abs(change.change), spoken(change)) for change in member.shares
    ]
    for exchange in member.exchanges:
        giver = labels[FT if exchange.into == BASE else BASE]
        text = (
            f"{named(member.name)}: with that of {giver}, the answer of {labels[exchange.into]} changes by "
            f"{exchange.value:+.3f} [{exchange.interval[0]:+.3f}, {exchange.interval[1]:+.3f}]"
        )
        candidates.append((abs(exchange.value), text))
    return max(candidates, key=lambda candidate: candidate[0])[1]


def spoken(change: MemberChange) -> str:
    """A change of a share."""
    low, high = change.interval
    return (
        f"{named(change.member)} towards {change.readers}: {change.before:.3f} -> {change.now:.3f} "
        f"(change {change.change:+.3f} [{low:+.3f}, {high:+.3f}])"
    )
