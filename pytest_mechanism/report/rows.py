"""A row for each threshold of a claim, as plain data: what tables show and the result file keeps."""

from __future__ import annotations

from typing import Any

from pytest_mechanism.causes import Cause
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Score, Verdict

DIGITS = 6
"""Scores are stored rounded, so that files do not differ in noise."""

AS_ACCEPTED = "as accepted"
"""What is asked of a score that no threshold bounds."""

OF_ACCEPTED = frozenset({Cause.FELL_BEHIND, Cause.MOVED, Cause.REDEFINED, Cause.NOT_ACCEPTED})
"""Causes under which every threshold holds, and the accepted score is what is in the way."""

CONTROLLED = "better than its control"


def rows(verdict: Verdict, drift: Drift | None) -> list[dict[str, Any]]:
    """One row a threshold, with the verdict on it; one in all where the claim has a single one.

    There is a row more where the score that is compared with the accepted one has no threshold of
    its own, and where the claim is red although each of its thresholds holds: no table is green
    about a claim that is red.
    """
    held = verdict.cause in OF_ACCEPTED
    compared = verdict.score if verdict.comparable else None
    found: list[dict[str, Any]] = []
    for part in verdict.parts or (verdict,):
        score = part.judged[0].score if part.judged else part.score
        found.append(row(part, score, part.threshold))
        if part is verdict and held:
            found[-1] |= {"verdict": "pass", "cause": None}
    names = [each["name"] for each in found]
    if compared is not None and compared.name in names:
        own = found[names.index(compared.name)]
        own["compared"] = True
    elif compared is not None and drift is not None:
        own = row(verdict, compared, "" if drift.amount is None else AS_ACCEPTED)
        own |= {"verdict": "pass", "cause": None, "compared": True}
        found.append(own)
    else:
        own = found[0]
    if held:
        own |= {"verdict": verdict.status, "cause": str(verdict.cause)}
    elif verdict.red and all(each["verdict"] in ("pass", "skipped") for each in found):
        controlled = verdict.cause in (Cause.NO_CONTROL, Cause.CONTROL_AS_GOOD)
        found.append(row(verdict, verdict.score, CONTROLLED if controlled else ""))
    return found


def row(verdict: Verdict, score: Score | None, threshold: str) -> dict[str, Any]:
    """One threshold; docs/result-file.md describes its fields."""
    return {
        "verdict": verdict.status,
        "cause": None if verdict.cause is None else str(verdict.cause),
        "name": None if score is None else score.name,
        "score": None if score is None else round(score.value, DIGITS),
        "interval": None if score is None else [round(x, DIGITS) for x in score.interval],
        "n": None if score is None else score.n,
        "threshold": threshold,
        "compared": False,
    }
