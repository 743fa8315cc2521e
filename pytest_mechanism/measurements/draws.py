"""Which rows each method draws and what it needs of them, without torch and without a model.

The look-ahead (`runner.ahead`) draws the same rows and checks them before a checkpoint is loaded. A
method that is not listed here, such as one of another package, is not looked ahead for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_mechanism.measurements import catalogue
from pytest_mechanism.types import Measurement

Kind = Literal["rows", "pairs", "interchange", "backgrounds", "forbidden", "allowed", "capability"]

MASK_TRAIN, MASK_VALIDATION = 1000, 500
"""Rows that a DCM mask is learned on, and rows that it is chosen on."""

BESIDE = 200
"""Questions that must be answered, at most, that a training is watched on beside the others."""


@dataclass(frozen=True)
class Draw:
    """One set of rows of a measurement.

    Attributes:
        kind: which of a task's sets.
        count: how many rows.
        stream: of random numbers.
        places: named positions at which activations are read or changed.
        variable: of an interchange.
        words: whether answers and targets are compared as single tokens.
        replies: whether the rows' replies are trained or scored, so that they need tokens.
        judged: whether the rows stand behind an interval.
        single: whether each place may have one token only.
    """

    kind: Kind
    count: int
    stream: str
    places: tuple[str, ...] = ()
    variable: str = ""
    words: bool = False
    replies: bool = False
    judged: bool = True
    single: bool = False

    @property
    def sourced(self) -> bool:
        """Whether each row has a source prompt to patch from."""
        return self.kind in ("pairs", "interchange")


def draws(measurement: Measurement) -> tuple[Draw, ...]:
    """All sets of rows that a measurement draws, backgrounds of an ablation left out."""
    given = json.loads(measurement.arguments)
    method = measurement.method.function
    found = DRAWN.get(method)
    return () if found is None else found(given)


def ablation(measurement: Measurement) -> dict[str, Any] | None:
    """How the measurement silences heads, or None where it does not."""
    found = json.loads(measurement.arguments).get("ablation")
    return found if isinstance(found, dict) else None


def recipe(measurement: Measurement) -> dict[str, Any] | None:
    """How the measurement trains a copy, or None where it does not."""
    found = json.loads(measurement.arguments).get("recipe")
    return found if isinstance(found, dict) else None


def whole(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    """Plain questions."""
    return (Draw(given.get("asked", "rows"), given["rows"], given["stream"], words=True),)


def circuits(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    places = {at for heads in given["alive"].values() for _, _, at in heads}
    at = tuple(sorted(places))
    # random circuits are a control without an interval of their own, and K is chosen by means
    judged = given["stream"] != "minimality_select" and not all(
        name.startswith("random_") for name in given["alive"]
    )
    return (Draw("rows", given["rows"], given["stream"], at, words=True, judged=judged),)


def pairs(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    judged = (
        given["stream"] != "discover_rank"
    )  # heads are ranked there, and claims judged elsewhere
    return (
        Draw("pairs", given["rows"], given["stream"], (given["at"],), words=True, judged=judged),
    )


def interchange(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    at, variable = (given["at"],), given["variable"]
    return (Draw("interchange", given["rows"], "test", at, variable, words=True),)


def masked(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    at, variable = (given["at"],), given["variable"]
    return tuple(
        Draw("interchange", count, stream, at, variable, words=True, judged=False)
        for stream, count in (("dcm_train", MASK_TRAIN), ("dcm_validation", MASK_VALIDATION))
    )


def exchanged(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    heads = [*given["heads"], *given.get("control", ())]
    places = {at for _, _, at in heads}
    return (Draw("rows", given["rows"], given["stream"], tuple(sorted(places)), words=True),)


def probed(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    asked, at = given["asked"], (given["position"],)
    return (
        Draw(asked, given["rows"], given["stream"], at, words=True, single=True),
        Draw(asked, given["chosen"], "validation", at, words=True, judged=False, single=True),
        Draw(asked, given["train"], "probing", at, words=True, judged=False, single=True),
    )


def pruned(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    return (
        Draw("capability", given["rows"], given["stream"], replies=True),
        Draw("capability", given["chosen"], "validation", replies=True, judged=False),
        Draw("capability", given["scored"], "pruning", replies=True, judged=False),
    )


def scored(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    return tuple(
        Draw(kind, given["scored"], "snip", replies=True, judged=False)
        for kind in ("forbidden", "allowed")
    )


def watched(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    """Of a training: what it is evaluated on. What it reads is its recipe's."""
    rows, stream = given["rows"], given["stream"]
    return (
        Draw(given["watch"], rows, stream),
        Draw("allowed", min(rows, BESIDE), stream, judged=False),
    )


def refused(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    return (Draw(given["asked"], given["rows"], given["stream"]),)


def directed(given: Mapping[str, Any]) -> tuple[Draw, ...]:
    """Of a direction's search, and of what it is judged on."""
    found = []
    for stream, count in (("direction", "learn"), ("validation", "validate")):
        if count in given:
            found += [
                Draw(kind, given[count], stream, judged=False) for kind in ("forbidden", "allowed")
            ]
    if "rows" in given:
        found.append(Draw("forbidden", given["rows"], given["stream"]))
    return tuple(found)


DRAWN = {
    method.function: found
    for method, found in (
        (catalogue.PERFORMANCE, whole),
        (catalogue.CIRCUIT, circuits),
        (catalogue.PATH_PATCHING, pairs),
        (catalogue.SCREEN, pairs),
        (catalogue.HEAD_EFFECTS, pairs),
        (catalogue.INTERCHANGE, interchange),
        (catalogue.MASK, masked),
        (catalogue.CODE, whole),
        (catalogue.DONATION, exchanged),
        (catalogue.CMAP, exchanged),
        (catalogue.PROBING, probed),
        (catalogue.PRUNING, pruned),
        (catalogue.SAFETY_ENTRIES, scored),
        (catalogue.CURVE, watched),
        (catalogue.REFUSAL, refused),
        (catalogue.FIND_DIRECTION, directed),
        (catalogue.DIRECTION, directed),
        (catalogue.SAME_DIRECTION, directed),
    )
}
"""Dotted name of a method -> what it draws."""
