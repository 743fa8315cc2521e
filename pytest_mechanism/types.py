"""Frozen values that all packages share; they import no other package but `causes`.

    spec -> claims -> measurements -> scores -> verdicts

A claim requests measurements, the runner returns `Observations`, statistics turn these into `Score`s, and
the claim judges its scores in a `Verdict`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import TypeVar

from pytest_mechanism.causes import Cause

Status = Literal["pass", "fail", "inconclusive", "skipped", "error", "warn"]
"""All but ``pass``, ``skipped`` and ``warn`` are red. Only results are ``warn``: a claim of severity ``warn``
that does not hold."""

Severity = Literal["block", "warn"]
"""Whether a claim that does not hold makes the run red."""

Head = tuple[int, int]
"""(layer, head), both counted from 0."""


def canonical(value: Any) -> str:
    """JSON with one spelling for equal data, for hashes and comparisons."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclass(frozen=True)
class Observations:
    """The result of a measurement: numbers for each row, never only a mean.

    Attributes:
        example_ids: a stable name for each row. Rows of two measurements with equal ids have the same
            prompt and can be paired.
        clusters: the context of each row. Rows of one context are not independent.
        values: column -> a number for each row (a float64 array or a sequence).
        fallback: why the reference engine measured instead of the chosen engine.
        left_out: which words no row has, because a tokenizer of the run splits them.
        texts: what the model said on each row, for readers of a red claim: ``answer`` is its likeliest next
            token, or the beginning of its reply. No number depends on them, and results of older
            versions lack them.
        rounding: in half precision, how much the batch size and the engine move a row's log-probability on this
            checkpoint, in nats (`methods.rounding_error`).
    """

    example_ids: Sequence[str]
    clusters: Sequence[str]
    values: Mapping[str, Any]
    fallback: str | None = field(default=None, kw_only=True)
    left_out: str | None = field(default=None, kw_only=True)
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict, kw_only=True)
    rounding: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        n = len(self.example_ids)
        columns = (*self.values.values(), *self.texts.values())
        if len(self.clusters) != n or any(len(column) != n for column in columns):
            raise ValueError(
                "observations: ids, clusters and every column need an entry for each row"
            )


Result_co = TypeVar("Result_co", bound=Observations, default=Observations, covariant=True)
"""The class of a result: `Observations`, or a subclass with further fields."""


@dataclass(frozen=True)
class Setting:
    """The conditions under which a score was measured, stored with it.

    Attributes:
        seed: of the task.
        dtype: of the weights and the arithmetic.
        device: kind of device, ``cpu`` or ``cuda``.
        engine: that ran the model.
        ablation: how heads were ablated, where the score depends on it.
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
    """The same score for something that should not work.

    Attributes:
        name: what it is ("2 random heads of the same layers").
        value: its score.
        interval: its confidence interval, or None where only the value is known.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Score:
    """An estimate with all that a verdict and a report need.

    Attributes:
        name: in reports, accepted scores and the result file.
        value: the estimate.
        interval: two-sided confidence interval.
        confidence: of the interval, such as 0.95.
        n: number of rows.
        clusters: number of independent groups of rows.
        standard_error: of ``value``.
        metric: definition, with its source.
        better: ``higher``, ``lower``, or the perfect number.
        setting: the conditions of the measurement.
        control: the same score for something that should not work.
        method: of the interval: ``Wilson``, ``exact``, ``cluster bootstrap`` or ``bootstrap of pairs``.
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
        for number in (self.value, *self.interval, self.standard_error):
            if not math.isfinite(number):
                raise ValueError(f"score {self.name}: {number} is not a finite number")
        if not 0 < self.confidence < 1:
            raise ValueError(f"score {self.name}: no interval has confidence {self.confidence}")


@dataclass(frozen=True)
class Judged:
    """A score with the bounds that it must meet.

    Attributes:
        score: the score.
        low: lower bound, or None.
        high: upper bound, or None.
    """

    score: Score
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Check:
    """A difference from a control. The claim passes only if its whole interval lies above 0.

    Attributes:
        name: what is compared.
        value: the difference, positive where the control is worse.
        standard_error: of ``value``.
        n: number of rows.
        method: of its interval, as in `Score`.
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


@dataclass(frozen=True)
class MemberChange:
    """The effect of a head or MLP on the readers of a group, in two models (`claims.profiles`).

    Attributes:
        member: ``2.1`` for a head, ``2.mlp`` for an MLP; or a set of heads.
        at: named position.
        readers: ``q of value_fetcher``, or ``the logits``.
        group: the group that names the member at this position; None for a member of no group.
        before: its share of what the source prompt does to the answer's logit, in the reference model.
        now: the same in the candidate.
        change: ``now - before``.
        interval: two-sided confidence interval of ``change``.
        standard_error: of ``change``.
        p: that the change is no larger than the margin, by Holm's correction for all members.
        elsewhere: of a member without ``group``, the group that names it at another position.
    """

    member: str
    at: str
    readers: str
    group: str | None
    before: float
    now: float
    change: float
    interval: tuple[float, float]
    standard_error: float
    p: float
    elsewhere: str | None = None

    @property
    def name(self) -> str:
        """Tells it from members of other stages."""
        return f"{self.member} at {self.at} -> {self.readers}"


@dataclass(frozen=True)
class Located:
    """The heads and MLPs behind a red claim (`runner.locate`).

    Attributes:
        lines: sentences for a reader, the most important one first.
        members: those that changed.
        seconds: how long the sweep took; of a sweep that another claim made, as long as that took.
        edited: the heads and MLPs whose weights stand out, if they are few.
        restored: the heads, MLPs and layers of the reference model that bring the candidate's answers back
            (`runner.grafts`), the best first.
    """

    lines: tuple[str, ...]
    members: tuple[MemberChange, ...]
    seconds: float
    edited: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """A prompt behind a red claim.

    Attributes:
        id: the row's name in its set.
        prompt: what the models read; of a long one, the end.
        expected: the right answer, or what a right reply does.
        answers: role -> what its model said: the likeliest next token, or the beginning of the reply.
        numbers: role -> what the claim measured on this row.
    """

    id: str
    prompt: str
    expected: str
    answers: Mapping[str, str]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Evidence:
    """The prompts that speak most against a red claim (`runner.evidence`).

    Attributes:
        what: which prompts these are, and of how many.
        measured: what `Example.numbers` count.
        examples: the worst first.
    """

    what: str
    measured: str
    examples: tuple[Example, ...]


DEFAULT_CAUSE: Mapping[Status, Cause] = {
    "fail": Cause.REFUTED,
    "inconclusive": Cause.UNDECIDED,
    "error": Cause.NOT_JUDGED,
}
"""The cause of a red verdict that names none."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Attributes:
        status: see `Status`.
        reason: one line for a release engineer.
        threshold: the claimed bound, as text ("at least 0.8").
        scores: first the score that is compared with the baseline, then further reported scores.
        judged: every score that decided the verdict, with its bounds.
        cause: why it is red; None where it is not.
        checks: comparisons with a control, which must hold too.
        parts: the verdict on each threshold, if the claim has several.
        comparable: whether the first score is the one to compare with the baseline; False where that
            score could not be computed.
        control: the comparison with something that should not work, or why none is needed. A verdict
            without it does not pass.
        chance: the comparison of the models with guessing, or why none is needed. A verdict without
            it does not pass.
        members: the change of every head and MLP, of a claim that compares them.
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
    members: tuple[MemberChange, ...] = ()

    def __post_init__(self) -> None:
        """Every red verdict has a cause, and no other verdict has one."""
        cause = (self.cause or DEFAULT_CAUSE[self.status]) if self.red else None
        object.__setattr__(self, "cause", cause)

    @property
    def score(self) -> Score | None:
        """The score that is compared with the baseline; for most claims also the judged one."""
        return self.scores[0] if self.scores else None

    @property
    def red(self) -> bool:
        return self.status not in ("pass", "skipped")


# -- charts


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        model: role of its model.
        name: tells it from other lines of the model; may be empty.
        points: (x, value, interval) in the order of x.
        panel: lines of one panel are drawn together.
        control: whether it shows a control.
    """

    model: str
    name: str
    points: tuple[tuple[float, float, tuple[float, float]], ...]
    panel: str = ""
    control: bool = False


@dataclass(frozen=True)
class Chart:
    """The chart of a claim.

    Attributes:
        title: of the chart.
        x_label: label of the x axis.
        y_label: label of the y axis, which goes from 0 to 1.
        lines: of one or several models.
        threshold: (y, label) of a horizontal line at the threshold, or None.
        explanation: how to read the chart, for a first-time reader.
        ticks: x -> its label, where x is not a number.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    threshold: tuple[float, str] | None = None
    explanation: str = ""
    ticks: Mapping[float, str] = field(default_factory=dict)
