"""The report of a run: frozen, typed data that every reporter reads.

Texts in a report are printable (see `errors.visible`), whatever a model, a spec or a library says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pytest_mechanism.causes import Cause, meaning
from pytest_mechanism.errors import visible
from pytest_mechanism.statistics.drift import State
from pytest_mechanism.types import Control, Evidence, Located, Score, Severity, Status

RED: tuple[Status, ...] = ("fail", "inconclusive", "error")
JUDGED: tuple[Status, ...] = ("pass", "fail", "inconclusive", "warn")


@dataclass(frozen=True)
class Row:
    """One threshold of a claim; docs/result-file.md describes the fields."""

    verdict: Status
    cause: Cause | None
    name: str | None
    score: float | None
    interval: tuple[float, float] | None
    n: int | None
    threshold: str
    compared: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Note:
    """What a reader of the scores has to know, such as another engine than the requested one.

    Attributes:
        text: one sentence.
        circuit: the circuit that it is about; None for a note about a checkpoint.
    """

    text: str
    circuit: str | None = None

    def __str__(self) -> str:
        return self.text if self.circuit is None else f"{self.circuit}: {self.text}"


@dataclass(frozen=True)
class ClaimResult:
    """A claim on one role; docs/result-file.md describes the fields."""

    id: str
    circuit: str
    claim: str
    kind: str
    role: str
    models: tuple[str, ...]
    verdict: Status
    cause: Cause | None
    meaning: str | None
    reason: str
    score: float | None
    interval: tuple[float, float] | None
    n: int | None
    threshold: str
    control: Control | None
    baseline: float | None
    drift: float | None
    drift_state: State | None
    accepted_now: bool
    seconds: float
    rows: tuple[Row, ...]
    scores: tuple[Score, ...]
    notes: tuple[Note, ...]
    located: Located | None = None
    line: int = 0
    yaml: tuple[str, ...] = ()
    severity: Severity = "block"
    evidence: Evidence | None = None
    groups: tuple[str, ...] = ()
    order: int = 0
    definition: str | None = None

    @property
    def red(self) -> bool:
        return self.verdict in RED

    def overruled(self, verdict: Status, reason: str) -> ClaimResult:
        """The result after a mark, a fixture or a hook of the project decided otherwise.

        A skipped claim has no cause. An error adds a row, so that the rows are not all green.
        """
        cause = None if verdict == "skipped" else Cause.NOT_JUDGED
        error = (Row("error", cause, None, None, None, None, ""),) if verdict == "error" else ()
        return replace(
            self,
            verdict=verdict,
            reason=visible(reason),
            cause=cause,
            meaning=meaning(cause, "") or None,
            rows=(*self.rows, *error),
        )

    @property
    def spec(self) -> str:
        """The path of the spec, as in the node id."""
        return self.id.partition("::")[0]


@dataclass(frozen=True)
class CheckpointEntry:
    """A checkpoint of the run; docs/result-file.md describes the fields."""

    label: str
    reference: str
    folder: str
    adapter: str | None
    fingerprint: str


ConclusionState = Literal[
    "holds", "broken", "accuracy", "behaviour", "reference", "undecided", "baseline", "not_judged"
]


@dataclass(frozen=True)
class Conclusion:
    """What a run says, for a reader who reads nothing else; `report.conclusion` makes it by rule.

    Attributes:
        state: ``holds`` (nothing is red), ``broken`` (claims about the mechanism are refuted), ``accuracy`` (the
            candidate solves the task less well), ``behaviour`` (claims about what it refuses or reveals are
            refuted), ``reference`` (the base model itself does not meet the spec), ``undecided``,
            ``baseline`` (thresholds hold, accepted scores do not), ``not_judged``.
        sentences: one to three.
        next_steps: commands or actions, the first one first.
        reds: ids of the red claims, those first that explain others.
        warnings: ids of the claims of ``severity: warn`` that do not hold.
    """

    state: ConclusionState
    sentences: tuple[str, ...]
    next_steps: tuple[str, ...] = ()
    reds: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All sentences."""
        return " ".join(self.sentences)


@dataclass(frozen=True)
class RunReport:
    """A whole run.

    Attributes:
        checkpoints: role -> checkpoint; empty without a pair, and if nothing was judged or written.
        claims: the last result of each claim.
        not_run: node ids of selected claims without a result.
        deselected: node ids of claims that options or hooks left out.
        left_out_by: these options and hooks; empty where a result file does not say.
        reasons: sentences that make the run red although no claim is.
        errors: sentences about misuse and about output that is lost; they set the exit code to 4.
        warnings: sentences about reports that could not be written and were not required.
        checkpoints_loaded: how many times a checkpoint was loaded.
        measurements: ``done`` in this run and taken ``from_store``.
        ran_on: where each measurement ran, on a cluster.
        exit_code: pytest's.
        conclusion: what the run says; None before the run has ended.
        finished: when the run ended, in UTC, as ISO 8601; empty before, and in result files of earlier versions.
    """

    checkpoints: Mapping[str, CheckpointEntry]
    claims: tuple[ClaimResult, ...] = ()
    not_run: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    left_out_by: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    checkpoints_loaded: int = 0
    measurements: Mapping[str, int] = field(default_factory=dict)
    ran_on: tuple[Mapping[str, Any], ...] = ()
    exit_code: int = 0
    conclusion: Conclusion | None = None
    finished: str = ""

    @property
    def pair(self) -> str:
        """``<label>+<label>`` of base and candidate."""
        return f"{self.checkpoints['base'].label}+{self.checkpoints['ft'].label}"
