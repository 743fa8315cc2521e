"""The table of a comparison: a line for each head, MLP and layer, those that changed most first."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_mechanism.comparison.conclusion import Labels, shown
from pytest_mechanism.comparison.members import BASE, FT, ComparedMember, Comparison, Exchange
from pytest_mechanism.types import MemberChange

LINES = 16
"""Members without a star in the table, at most."""

PARTS = 6
"""Other weights that are listed."""


def table(result: Comparison, labels: Labels) -> Iterator[str]:
    """The lines of the table, with a legend."""
    a, b = labels[BASE], labels[FT]
    changed = result.changed
    rest = [member for member in result.members if member not in changed]
    rows = [cells(member, result.alpha) for member in (*changed, *rest[:LINES])]
    heading = ["", "member", "weights", f"work: {a} -> {b}", f"{a}'s in {b}", f"{b}'s in {a}", "q"]
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    for row in (heading, *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    if len(rest) > LINES:
        yield f"{len(rest) - LINES} more members without a star; --json writes all of them"
    yield from legend(result, a, b)
    yield from other_weights(result)


def cells(member: ComparedMember, alpha: float) -> list[str]:
    """The cells of a member."""
    weights = "" if member.weights is None else f"{member.weights:.1%}"
    work = max(member.shares, key=lambda change: abs(change.change), default=None)
    return [
        "*" if member.q < alpha else "",
        member.name,
        weights,
        "" if work is None else of_share(work),
        of_exchange(member.exchange(FT)),
        of_exchange(member.exchange(BASE)),
        f"{member.q:.3f}" if member.q >= 0.001 else "<.001",
    ]


def of_share(change: MemberChange) -> str:
    """The work of a member towards the readers where it changed most."""
    low, high = change.interval
    return f"{shown(change.before)} -> {shown(change.now)} [{low:+.2f}, {high:+.2f}] to {change.readers}"


def of_exchange(exchange: Exchange | None) -> str:
    """The change of the recipient's answer."""
    if exchange is None:
        return ""
    low, high = (round(bound, 2) + 0.0 for bound in exchange.interval)
    return f"{round(exchange.value, 2) + 0.0:+.2f} [{low:+.2f}, {high:+.2f}]"


def legend(result: Comparison, a: str, b: str) -> Iterator[str]:
    """What the columns are."""
    yield (
        f"* changed by more than the margin {result.margin:g}, at a false-discovery rate of {result.alpha:.0%} "
        f"(q: Benjamini-Hochberg over {len(result.members)} members); {result.rows} pairs of prompts; in brackets "
        f"{1 - result.alpha:.0%} intervals"
    )
    yield (
        "work: share of what exchanging the whole prompt does to the answer's logit that these readers hear from the "
        "member alone, where it changed most"
    )
    yield (
        f"{a}'s in {b}: change of {b}'s answer if the member's activation is that of {a}, in the same unit; "
        "negative: the answer becomes less likely"
    )


def other_weights(result: Comparison) -> Iterator[str]:
    """The parts outside heads, MLPs and layers whose weights moved, and why some parts have no number."""
    moved = {name: change for name, change in result.weights.items() if change > 0}
    if moved:
        most = sorted(moved, key=lambda name: -moved[name])[:PARTS]
        listed = ", ".join(f"{name} {moved[name]:.1%}" for name in most)
        yield f"other weights that moved: {listed}"
    if result.weights_note:
        yield result.weights_note
