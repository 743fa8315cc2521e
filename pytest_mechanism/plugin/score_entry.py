"""What a file of accepted scores keeps of a verdict."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.report.rounding import DIGITS, rounded
from pytest_mechanism.spec.definition import definition
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import Check, Judged, Verdict


def asked(claim: Claim) -> dict[str, Any]:
    """The thresholds of a claim as the spec has them."""
    return claim.model_dump(mode="json", include={*claim.thresholds}, by_alias=True)


def score_entry(spec: Spec, claim: Claim, verdict: Verdict) -> dict[str, Any] | None:
    """The entry of a verdict, or None if it has no score that later runs can be compared with."""
    if verdict.score is None or not verdict.comparable:
        return None
    score = asdict(rounded(verdict.score))
    setting = score.pop("setting") or {}
    entry = {
        **score,
        "interval": list(score["interval"]),
        "fingerprints": dict(setting.pop("fingerprints", {})),
        "setting": setting,
        "definition": definition(spec, claim),
        "asked": asked(claim),
        "judged": [judged_entry(judged, spec.confidence) for judged in verdict.judged],
    }
    if verdict.members:
        entry["members"] = {
            member.name: [round(member.change, DIGITS), round(member.standard_error, DIGITS)]
            for member in verdict.members
            if "." in member.member  # a band of layers holds other heads each time
        }
    if verdict.checks:
        entry["checks"] = [check_entry(check) for check in verdict.checks]
    return entry


def judged_entry(judged: Judged, confidence: float) -> dict[str, Any]:
    """A score with its bounds, from which `statistics.power` plans rows.

    Args:
        judged: score and bounds.
        confidence: the spec's.
    """
    score = judged.score
    # two one-sided tests use another confidence than the spec's
    differing = {} if score.confidence == confidence else {"confidence": score.confidence}
    return {
        "name": score.name,
        "value": round(score.value, DIGITS),
        "standard_error": round(score.standard_error, DIGITS),
        "n": score.n,
        "clusters": score.clusters,
        "interval": [round(bound, DIGITS) for bound in score.interval],
        "method": score.method,
        "low": judged.low,
        "high": judged.high,
        **differing,
    }


def check_entry(check: Check) -> dict[str, Any]:
    """A comparison with a control in the form of an entry of ``judged``: `statistics.power` counts the
    chance that it fails with theirs."""
    return asdict(check) | {
        "low": 0.0,
        "high": None,
        "value": round(check.value, DIGITS),
        "standard_error": round(check.standard_error, DIGITS),
    }
