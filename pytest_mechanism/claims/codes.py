"""Whether heads of two models can be compared by their index (`methods.circuits.codes`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_mechanism.measurements.cmap import LEAST_AGREEMENT, CodeResult, HeadCode


def other_codes(result: CodeResult, heads: Iterable[Sequence[Any]]) -> list[HeadCode]:
    """The heads ([layer, head, position]) whose z, or q or k, the other model does not read as their own
    does."""
    codes: dict[tuple[Any, ...], list[HeadCode]] = {}
    for code in result.codes:
        codes.setdefault((code.layer, code.head, code.at), []).append(code)
    wanted = dict.fromkeys((layer, head, at) for layer, head, at in heads)
    return [code for head in wanted for code in codes[head] if not code.agrees]


def not_comparable(codes: Sequence[HeadCode], donor: str, recipient: str) -> str:
    """Why heads cannot be compared, by the head with the least agreement."""
    worst = min(codes, key=lambda code: code.agreement)
    head, done_by = f"{worst.layer}.{worst.head}", f"{worst.layer}.{worst.done_by}"
    more = "" if len(codes) == 1 else f"; the same holds for {len(codes) - 1} more heads"
    if worst.part == "stream":
        more = more.replace("heads", "members")
        return (
            f"not comparable: after layer {worst.layer}, the residual streams of {donor} and {recipient} at "
            f"{worst.at} do not point in the same directions (agreement {worst.agreement:.2f}, "
            f"{LEAST_AGREEMENT:g} needed), so what the MLP of one writes means something else in the other{more}"
        )
    if worst.part != "z":
        given, read_by = ("queries", "keys") if worst.part == "q" else ("keys", "queries")
        return (
            f"not comparable by index: the {given} of head {head} of {donor} at {worst.at} score other "
            f"tokens when they meet the {read_by} of head {head} of {recipient} (agreement "
            f"{worst.agreement:.2f}, {LEAST_AGREEMENT:g} needed){more}"
        )
    if worst.done_by == worst.head:
        why = f"head {done_by} of {recipient} does the same work in another basis of z"
    elif worst.done_by is not None:
        why = f"head {done_by} of {recipient} does its work"
    else:
        why = f"no head of that layer of {recipient} does its work"
    return (
        f"not comparable by index: the output of head {head} of {donor} at {worst.at} has another "
        f"effect when head {head} of {recipient} writes it (agreement {worst.agreement:.2f}, "
        f"{LEAST_AGREEMENT:g} needed), and {why}{more}"
    )


def moved_codes(codes: Iterable[HeadCode]) -> list[HeadCode]:
    """Heads whose work another head of the other model does, or the same head in another basis.

    Their code changed. A head whose work no head does is a different head and may be a control.
    """
    return [code for code in codes if code.done_by is not None]


def changed_places(codes: Iterable[HeadCode]) -> list[HeadCode]:
    """Heads whose work another head of the other model does."""
    return [code for code in moved_codes(codes) if code.done_by != code.head]
