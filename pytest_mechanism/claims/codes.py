"""Whether heads of two models can be compared by their index (`methods.circuits.codes`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_mechanism.measurements.cmap import LEAST_AGREEMENT, CodeResult, HeadCode


def other_codes(result: CodeResult, heads: Iterable[Sequence[Any]]) -> list[HeadCode]:
    """The heads ([layer, head, position]) whose z the other model does not read as their own does."""
    codes = {(code.layer, code.head, code.at): code for code in result.codes}
    wanted = dict.fromkeys((layer, head, at) for layer, head, at in heads)
    return [codes[head] for head in wanted if not codes[head].agrees]


def not_comparable(codes: Sequence[HeadCode], donor: str, recipient: str) -> str:
    """Why heads cannot be compared, by the head with the least agreement."""
    worst = min(codes, key=lambda code: code.agreement)
    head, done_by = f"{worst.layer}.{worst.head}", f"{worst.layer}.{worst.done_by}"
    if worst.done_by == worst.head:
        why = f"head {done_by} of {recipient} does the same work in another basis of z"
    elif worst.done_by is not None:
        why = f"head {done_by} of {recipient} does its work"
    else:
        why = f"no head of that layer of {recipient} does its work"
    more = "" if len(codes) == 1 else f"; the same holds for {len(codes) - 1} more heads"
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
