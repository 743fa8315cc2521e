"""A row for each threshold of a claim: the lines of the tables."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from pytest_mechanism.causes import Cause
from pytest_mechanism.report.rounding import rounded
from pytest_mechanism.report.run_report import ClaimResult, Row
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Score, Verdict

NO_WORSE = "no worse than baseline"
"""Shown in place of a threshold for a score that is only compared with its baseline."""

BASELINE_CAUSES = frozenset({Cause.FELL_BEHIND, Cause.MOVED, Cause.REDEFINED, Cause.NOT_ACCEPTED})
"""Every threshold holds; the comparison with the accepted score makes the claim red."""

UNACCEPTED = frozenset({Cause.NOT_ACCEPTED, Cause.REDEFINED})
"""Of these, the causes of red claims that only lack an accepted score."""

BETTER_THAN_CONTROL = "better than its control"


def sample(score: Score, kind: str) -> str:
    """How many rows a score of a kind of claim is of, and how many of them are independent."""
    if kind == "same_text":
        parts = f" in {score.clusters:,} paragraphs" if score.clusters < score.n else ""
        return f"{score.n:,} lines of text{parts}"
    return f"{score.n:,} rows in {score.clusters:,} contexts"


def only_unaccepted(reds: Collection[ClaimResult]) -> bool:
    """Whether there are red claims, and all of them only lack an accepted score: nothing broke."""
    return bool(reds) and all(result.cause in UNACCEPTED for result in reds)


def make_rows(verdict: Verdict, drift: Drift | None) -> tuple[Row, ...]:
    """The rows of a claim, each with the verdict on its threshold.

    A further row stands for the score that is compared with its baseline, if it has no threshold of its
    own, and for what makes a claim red although its thresholds hold: a red claim never has green rows
    only.
    """
    thresholds_hold = verdict.cause in BASELINE_CAUSES
    rows = []
    for part in verdict.parts or (verdict,):
        row = make_row(part, part.judged[0].score if part.judged else part.score, part.threshold)
        if part.judged:
            row = replace(row, low=finite(part.judged[0].low), high=finite(part.judged[0].high))
        holds = part is verdict and thresholds_hold
        rows.append(replace(row, verdict="pass", cause=None) if holds else row)
    compared = verdict.score if verdict.comparable else None
    names = [row.name for row in rows]
    index = 0
    if compared is not None and compared.name in names:
        index = names.index(compared.name)
        rows[index] = replace(rows[index], compared=True)
    elif compared is not None and drift is not None:
        index = len(rows)
        row = make_row(verdict, compared, "" if drift.amount is None else NO_WORSE)
        rows.append(replace(row, verdict="pass", cause=None, compared=True))
    if thresholds_hold:
        rows[index] = replace(rows[index], verdict=verdict.status, cause=verdict.cause)
    elif verdict.red and all(row.verdict in ("pass", "skipped") for row in rows):
        controlled = verdict.cause in (Cause.NO_CONTROL, Cause.CONTROL_AS_GOOD)
        rows.append(make_row(verdict, verdict.score, BETTER_THAN_CONTROL if controlled else ""))
    return tuple(rows)


def make_row(verdict: Verdict, score: Score | None, threshold: str) -> Row:
    score = None if score is None else rounded(score)
    return Row(
        verdict=verdict.status,
        cause=verdict.cause,
        name=None if score is None else score.name,
        score=None if score is None else score.value,
        interval=None if score is None else score.interval,
        n=None if score is None else score.n,
        threshold=threshold,
    )


def finite(bound: float | None) -> float | None:
    """A bound as JSON can have it: None where there is none."""
    return bound if bound is not None and math.isfinite(bound) else None
