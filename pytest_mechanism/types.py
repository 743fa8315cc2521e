"""The nouns that all packages share, everything frozen. Imports no library but typing_extensions.

    spec -> claims -> measurements -> scores -> verdicts

A claim asks for `Measurement`s, the runner answers with `Observations`, statistics turn those
into `Score`s, and a claim judges its scores in a `Verdict`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import TypeVar

from pytest_mechanism.causes import Cause

Status = Literal["pass", "fail", "inconclusive", "skipped", "error"]
"""Only ``pass`` and ``skipped`` are not red."""

Head = tuple[int, int]
"""(layer, head), both counted from 0."""


def canonical(value: Any) -> str:
    """One spelling for equal data, so that it can be hashed and compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclass(frozen=True)
class Observations:
    """What a measurement saw, row by row: never a bare mean.

    Attributes:
        example_ids: one stable name a row; equal ids are the same prompt, so rows of two
            measurements can be paired.
        clusters: which rows share a context and are therefore not independent.
        values: name -> one number a row (a float64 array or a sequence).
        fallback: why the reference engine made them, where another one was asked for.
        left_out: which of the task's words some tokenizer splits, so that no row has them.
    """

    example_ids: Sequence[str]
    clusters: Sequence[str]
    values: Mapping[str, Any]
    fallback: str | None = field(default=None, kw_only=True)
    left_out: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        n = len(self.example_ids)
        if len(self.clusters) != n or any(len(v) != n for v in self.values.values()):
            raise ValueError("observations: ids, clusters and every value need one entry a row")


Result_co = TypeVar("Result_co", bound=Observations, default=Observations, covariant=True)
"""What a measurement gives: plain `Observations`, or a subclass with further fields."""


@dataclass(frozen=True)
class Setting:
    """Under what a score was taken; stored beside it.

    Attributes:
        seed: of the task.
        dtype: of the weights and the arithmetic.
        device: kind of device, ``cpu`` or ``cuda``.
        engine: which engine ran the model.
        ablation: the full ablation key where the score depends on one.
        fingerprints: role -> content hash of the checkpoint.
        versions: library -> version.
    """

    seed: int
    dtype: str
    device: str
    engine: str
    ablation: str | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Control:
    """What the score would be were the claim about nothing in particular.

    Attributes:
        name: what was done instead ("2 random heads of the same layers").
        value: the control's score.
        interval: its interval, or None where only the value is known.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Score:
    """A number that can be judged: never a bare float.

    Attributes:
        name: what it is called in reports, snapshots and JSON.
        value: the estimate.
        interval: at ``confidence``, two-sided.
        confidence: for example 0.95.
        n: rows behind it.
        clusters: independent groups of rows behind it.
        standard_error: of ``value``.
        metric: how it is defined, with its source.
        better: ``higher``, ``lower``, or the number that would be perfect.
        setting: under what it was taken.
        control: the same number for something that should not work.
        method: where the interval comes from: ``Wilson``, ``exact`` or ``cluster bootstrap``.
    """

    name: str
    value: float
    interval: tuple[float, float]
    confidence: float
    n: int
    clusters: int
    standard_error: float
    metric: str
    better: Literal["higher", "lower"] | float
    setting: Setting | None = None
    control: Control | None = None
    method: str = "cluster bootstrap"

    def __post_init__(self) -> None:
        for what in (self.value, *self.interval, self.standard_error):
            if not math.isfinite(what):
                raise ValueError(f"score {self.name}: {what} is not a finite number")


@dataclass(frozen=True)
class Judged:
    """A score and the bounds it was held against.

    Attributes:
        score: what was judged.
        low: least value claimed, or None.
        high: largest value claimed, or None.
    """

    score: Score
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Check:
    """By how much something is ahead of its control; the claim passes only if surely above 0.

    Attributes:
        name: what is compared.
        value: the difference, with the sign that makes ahead positive.
        standard_error: of ``value``.
        n: rows behind it.
        method: where its interval comes from, as of a `Score`.
    """

    name: str
    value: float
    standard_error: float
    n: int
    method: str = "cluster bootstrap"


@dataclass(frozen=True)
class Safeguard:
    """A comparison without which a passing verdict would mean nothing (`statistics.honesty`).

    Attributes:
        text: what was compared with, or why no comparison is needed.
        compared: whether a comparison was made.
    """

    text: str
    compared: bool = True


DEFAULT_CAUSE: Mapping[Status, Cause] = {
    "fail": Cause.REFUTED,
    "inconclusive": Cause.UNDECIDED,
    "error": Cause.NOT_JUDGED,
}
"""Of a red verdict whose author named none."""


@dataclass(frozen=True)
class Verdict:
    """What a claim came to.

    Attributes:
        status: see `Status`.
        reason: one line that a release engineer understands.
        threshold: the asserted bound, as text ("at least 0.8").
        scores: the compared score first, then what is reported beside it.
        judged: every score that took part, with its bounds.
        cause: why it is red; None where it is not.
        checks: comparisons with a control that must hold as well for the claim to pass.
        parts: the verdict on each threshold, where the claim has several.
        comparable: whether the first score is the quantity that is compared with the accepted one;
            False where it could not be had and other scores stand in its place.
        control: the comparison with something that should not work, or why none is needed. A verdict
            without it does not pass.
        chance: the comparison of the models with guessing, or why none is needed. A verdict without
            it does not pass.
    """

    status: Status
    reason: str
    threshold: str
    scores: tuple[Score, ...] = ()
    judged: tuple[Judged, ...] = ()
    cause: Cause | None = None
    checks: tuple[Check, ...] = ()
    parts: tuple[Verdict, ...] = ()
    comparable: bool = True
    control: Safeguard | None = None
    chance: Safeguard | None = None

    def __post_init__(self) -> None:
        """A red verdict has a cause, another has none, whoever made it."""
        cause = (self.cause or DEFAULT_CAUSE[self.status]) if self.red else None
        object.__setattr__(self, "cause", cause)

    @property
    def score(self) -> Score | None:
        """The score that is compared with the accepted one. What is judged, and against which
        bounds, is `judged`; for most claims it is the same score."""
        return self.scores[0] if self.scores else None

    @property
    def red(self) -> bool:
        return self.status not in ("pass", "skipped")


# -- what there is to see of a claim beside its score


@dataclass(frozen=True)
class Line:
    """A curve with its intervals.

    Attributes:
        model: role of the model that it is of.
        name: what distinguishes it from others of the model, or nothing.
        points: (x, value, interval), by x.
        panel: lines of one panel are drawn together.
        control: whether it shows what should make no difference.
    """

    model: str
    name: str
    points: tuple[tuple[float, float, tuple[float, float]], ...]
    panel: str = ""
    control: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves of one claim.

    Attributes:
        title: what is looked at.
        across: label of x.
        up: label of y, which goes from 0 to 1.
        lines: of one or several models.
        level: (y, what it is) of a threshold, or None.
        reading: how to read it, for somebody who sees it for the first time.
        ticks: x -> its name, where x is no number of something.
    """

    title: str
    across: str
    up: str
    lines: tuple[Line, ...]
    level: tuple[float, str] | None = None
    reading: str = ""
    ticks: Mapping[float, str] = field(default_factory=dict)
