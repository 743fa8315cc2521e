"""A claim's result as plain data: what reports, JSON, JUnit and snapshots are made of.

Plain dicts, because they cross process boundaries under xdist and are read by other programs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pytest_mechanism.causes import Cause, meaning
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import visible
from pytest_mechanism.report.rows import DIGITS, row, rows
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Check, Score, Verdict, canonical


def definition(spec: Spec, claim: Claim) -> str:
    """Hash of everything in a spec that says what a claim's score *is*; what is asked of it
    (thresholds, tolerances) does not count, nor do fields that a later version added, as long as they
    say what was meant without them."""
    left_out = {"drift", "atol", *claim.thresholds}
    defaults = type(claim).model_fields
    left_out |= {n for n in claim.later if getattr(claim, n) == defaults[n].get_default()}
    fields = claim.model_dump(mode="json", exclude=left_out, by_alias=True)
    parts = {
        "claim": fields,
        **spec.definition(),
        **({"edition": spec.task.edition} if spec.task.edition else {}),
    }
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]


def asked(claim: Claim) -> dict[str, Any]:
    """What a claim asks of its score: its thresholds as the spec has them."""
    return claim.model_dump(mode="json", include={*claim.thresholds}, by_alias=True)


def score_data(score: Score) -> dict[str, Any]:
    """A score with everything beside it, numbers rounded."""
    data = asdict(score)
    data["interval"] = [round(x, DIGITS) for x in score.interval]
    for key in ("value", "standard_error"):
        data[key] = round(data[key], DIGITS)
    if score.control is not None:
        data["control"]["value"] = round(score.control.value, DIGITS)
        if score.control.interval is not None:
            data["control"]["interval"] = [round(x, DIGITS) for x in score.control.interval]
    return data


def accepted_data(spec: Spec, claim: Claim, verdict: Verdict) -> dict[str, Any] | None:
    """What a snapshot keeps of a verdict; None where there is no score to keep."""
    if verdict.score is None or not verdict.comparable:
        return None
    data = score_data(verdict.score)
    setting = data.pop("setting") or {}
    return {
        **data,
        "fingerprints": dict(setting.pop("fingerprints", {})),
        "setting": setting,
        "definition": definition(spec, claim),
        "asked": asked(claim),
        "judged": [
            {
                "name": j.score.name,
                "value": round(j.score.value, DIGITS),
                "standard_error": round(j.score.standard_error, DIGITS),
                "n": j.score.n,
                "method": j.score.method,
                "low": j.low,
                "high": j.high,
            }
            for j in verdict.judged
        ],
        **({"checks": [check_data(c) for c in verdict.checks]} if verdict.checks else {}),
    }


def check_data(check: Check) -> dict[str, Any]:
    """A comparison with a control, as an entry like those of ``judged``: `statistics.power` counts
    its chance of failing with theirs."""
    data = asdict(check) | {"low": 0.0, "high": None}
    for key in ("value", "standard_error"):
        data[key] = round(data[key], DIGITS)
    return data


def claim_result(
    nodeid: str,
    spec: Spec,
    name: str,
    claim: Claim,
    role: str,
    verdict: Verdict,
    drift: Drift | None,
    baseline: float | None,
    seconds: float,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """One entry of the result file's ``claims``; see docs/result-file.md for its fields."""
    score = verdict.score
    control = None if score is None or score.control is None else score_data(score)["control"]
    found = {
        "id": nodeid,
        "circuit": spec.circuit,
        "claim": name,
        "kind": claim.kind,
        "role": role,
        "models": list(claim.models(role)),
        "verdict": verdict.status,
        "cause": None if verdict.cause is None else str(verdict.cause),
        "meaning": meaning(verdict.cause, claim.if_red) or None,
        "reason": verdict.reason,
        "score": None if score is None else round(score.value, DIGITS),
        "interval": None if score is None else [round(x, DIGITS) for x in score.interval],
        "n": None if score is None else score.n,
        "threshold": verdict.threshold,
        "control": control,
        "baseline": baseline,
        "drift": None if drift is None or drift.amount is None else round(drift.amount, DIGITS),
        "drift_state": None if drift is None else drift.state,
        "accepted_now": drift is not None and drift.accepted_now,
        "seconds": round(seconds, 3),
        "rows": rows(verdict, drift),
        "scores": [score_data(s) for s in verdict.scores],
        "notes": list(notes),
    }
    return {key: shown(value) for key, value in found.items()}


def overruled(result: Mapping[str, Any], verdict: str, reason: str) -> dict[str, Any]:
    """The result after pytest decided otherwise: a mark, a fixture or a hook. A skip has no cause, and
    the rows of an error are not all green."""
    found = dict(result) | {"verdict": verdict, "reason": visible(reason)}
    cause = None if verdict == "skipped" else Cause.NOT_JUDGED
    found |= {"cause": None if cause is None else str(cause), "meaning": meaning(cause, "") or None}
    if verdict == "error":
        found["rows"] = [*result["rows"], row(Verdict("error", reason, "", cause=cause), None, "")]
    return found


def shown(value: Any) -> Any:
    """Plain data whose texts may stand in a terminal, a page or a file; see `visible`."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): shown(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    return value
