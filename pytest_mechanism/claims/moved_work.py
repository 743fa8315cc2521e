"""Sentences about members whose effect changed: who fell silent, who took over, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_mechanism.nodes import MLP
from pytest_mechanism.types import MemberChange

SILENT = 0.15
"""A member is silent if it does less than this share of what it did."""

SHOWN = 4
"""Members that a sentence names."""

OF_WHAT = "of the whole prompt's effect on the answer"
"""What a share is a share of, by whatever route (`claims.profiles`)."""

MOVED = 0.1
"""Part of a loss from which a gain at the same place counts as work that moved."""

SURE = 4.0
"""Standard errors by which a member gains work: of 1,000 members that gain nothing, less than one."""


def called(member: str) -> str:
    """``head 2.1`` or ``the MLP of layer 2``; a set of heads has a name of its own."""
    layer, dot, part = member.partition(".")
    if not dot:
        return member
    return f"the MLP of layer {layer}" if part == MLP else f"head {member}"


def owner(member: MemberChange) -> str:
    """The group that names a member, in words."""
    return f" of {member.group}" if member.group else outside(member.elsewhere, member.at)


def outside(elsewhere: str | None, at: str) -> str:
    """Of a member that no group names at a position: the group that names it at another, in words."""
    return f" of {elsewhere} (here at {at})" if elsewhere else " (in no group)"


def shares(member: MemberChange) -> str:
    """``0.25 -> 0.10``."""
    digits = places(member)
    before, now = (round(share, digits) + 0.0 for share in (member.before, member.now))  # not -0.00
    return f"{before:.{digits}f} -> {now:.{digits}f}"


def with_interval(member: MemberChange) -> str:
    (low, high), digits = member.interval, places(member)
    return f"change {member.change:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def places(member: MemberChange) -> int:
    """The fewest decimals, of 2 to 4, with which the change is the difference of the two shares and differs from
    the ends of its interval; 2 where none does."""
    numbers = (member.before, member.now, member.change, *member.interval)
    for digits in (2, 3, 4):
        before, now, change, low, high = (round(number, digits) for number in numbers)
        if abs(now - before - change) < 0.5 * 10**-digits and change not in (low, high):
            return digits
    return 2


def silent(member: MemberChange) -> bool:
    """Whether a member does next to nothing of what it did."""
    return abs(member.now) <= SILENT * abs(member.before)


def verb(member: MemberChange, others: Sequence[MemberChange]) -> str:
    """What happened to a member."""
    before, now = abs(member.before), abs(member.now)
    if silent(member):
        return "fell silent"
    if before <= SILENT * now:
        lost = any(
            other.readers == member.readers and abs(other.now) < abs(other.before)
            for other in others
        )
        return "took over" if lost else "is new"
    return "does less" if now < before else "does more"


def deaf_readers(member: MemberChange, others: Sequence[MemberChange]) -> list[str]:
    """The readers of a member that fell silent, which fell silent themselves."""
    readers = member.readers.partition(" of ")[2]
    if not silent(member) or not readers:
        return []
    return [
        f"{called(other.member)}" for other in others if other.group == readers and silent(other)
    ]


def sentence(
    member: MemberChange, others: Sequence[MemberChange], of_what: str = f" {OF_WHAT}"
) -> str:
    """A member: its effect before and now, and the change with its interval."""
    deaf = dict.fromkeys(deaf_readers(member, others))
    why = f"; its readers fell silent: {', '.join(deaf)}" if deaf else ""
    return (
        f"{called(member.member)}{owner(member)} {verb(member, others)} towards {member.readers}: "
        f"{shares(member)}{of_what} ({with_interval(member)}{why})"
    )


def largest_first(
    members: Sequence[MemberChange], others: Sequence[MemberChange]
) -> list[MemberChange]:
    """The members with the largest changes first, losses before gains of about the same size; those whose
    readers fell silent come last."""
    return sorted(
        members,
        key=lambda m: (bool(deaf_readers(m, others)), -round(abs(m.change), 1), m.change, m.name),
    )


def gainer(members: Sequence[MemberChange], found: Sequence[MemberChange]) -> MemberChange | None:
    """Who does most of the work that the first of the members lost: of its stage, the one that gained most,
    by `SURE` standard errors and at least `MOVED` of the loss. Its gain may be within the margin that the loss
    exceeds: work that moved half to a head and half to others.
    """
    first = members[0]
    if abs(first.now) >= abs(first.before):
        return None
    gains = [
        member
        for member in found
        if (member.readers, member.at) == (first.readers, first.at)
        and abs(member.now) > abs(member.before)
        and abs(member.change) > SURE * member.standard_error
        and abs(member.change) >= MOVED * abs(first.change)
    ]
    return max(gains, key=lambda member: abs(member.change), default=None)


def sentences(
    members: Sequence[MemberChange], found: Sequence[MemberChange] = (), shown: int = SHOWN
) -> list[str]:
    """A sentence for each of the members that changed most, how many more there are, and who may have gained what
    the first of them lost. What shares are of stands in the first sentence.

    Args:
        members: that changed by more than the margin.
        found: all members, of which one may have gained what another lost.
        shown: how many of the members have a sentence, and none but these.
    """
    if not members:
        return []
    ordered = largest_first(members, members)
    taker = gainer(ordered, found)
    named = ordered[:shown]
    if taker in ordered[shown:]:
        named = [*ordered[: shown - 1], *(member for member in ordered[shown:] if member == taker)]
    lines = [
        sentence(member, ordered, "" if i else f" {OF_WHAT}") for i, member in enumerate(named)
    ]
    if left := len(ordered) - len(named):
        lines.append(f"{left} more {'head or MLP' if left == 1 else 'heads or MLPs'} changed")
    if taker is not None and taker not in ordered:
        lines.append(
            f"some of the work of {called(ordered[0].member)} moved to {called(taker.member)}{owner(taker)}, "
            f"not surely more than the margin: {shares(taker)} ({with_interval(taker)})"
        )
    return lines
