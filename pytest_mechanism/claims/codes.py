"""Whether heads of two models can be set against each other by their index (`methods.codes`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_mechanism.measurements.cmap import LEAST_AGREEMENT
from pytest_mechanism.types import Observations

CODE_ROWS = 32
"""Rows on which codes are compared."""

Strange = dict[str, dict[str, float | str]]


def strange(seen: Observations, heads: Iterable[Sequence[Any]]) -> Strange:
    """Of ``heads`` ([layer, head, position] each), those whose z the other model does not read as
    their own does."""
    found: Strange = json.loads(seen.facts["code"])
    names = dict.fromkeys(f"{layer}.{head} at {at}" for layer, head, at in heads)
    return {
        name: found[name] for name in names if float(found[name]["agreement"]) < LEAST_AGREEMENT
    }


def not_comparable(heads: Strange, donor: str, recipient: str) -> str:
    """Why, of the head with the least agreement."""
    name = min(heads, key=lambda each: float(heads[each]["agreement"]))
    head, _, at = name.partition(" at ")
    like, many = heads[name].get("like"), len(heads)
    if like == head:
        why = f"head {like} of {recipient} does its work in another basis of z"
    elif like:
        why = f"its work is done by head {like} of {recipient}"
    else:
        why = f"no head of that layer of {recipient} does its work"
    more = "" if many == 1 else f"; so are {many - 1} more"
    return (
        f"not comparable by index: z of head {head} of {donor} at {at}, read by head {head} of "
        f"{recipient}, agrees to {float(heads[name]['agreement']):.2f} with what it says in {donor} "
        f"({LEAST_AGREEMENT:g} needed), and {why}{more}"
    )


def elsewhere(heads: Strange) -> Strange:
    """Those whose work is done in the other model, by another head or in another basis: what changed
    is the code. A head whose work nobody does is another head, which may still be a control."""
    return {name: each for name, each in heads.items() if "like" in each}


def changed_places(heads: Strange) -> Strange:
    """Those whose work another head of the other model does."""
    return {n: e for n, e in elsewhere(heads).items() if e["like"] != n.partition(" ")[0]}
