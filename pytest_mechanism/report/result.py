"""From a verdict to a `ClaimResult`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pytest_mechanism.causes import meaning
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import visible
from pytest_mechanism.report.rounding import DIGITS, rounded
from pytest_mechanism.report.rows import make_rows
from pytest_mechanism.report.run_report import ClaimResult, Note
from pytest_mechanism.spec.definition import definition
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Verdict


def claim_result(
    nodeid: str,
    spec: Spec,
    name: str,
    claim: Claim,
    role: str,
    verdict: Verdict,
    drift: Drift | None = None,
    baseline: float | None = None,
    seconds: float = 0.0,
    notes: Sequence[Note] = (),
) -> ClaimResult:
    """The result of a claim on one role."""
    scores = tuple(rounded(score) for score in verdict.scores)
    score = scores[0] if scores else None
    quoted = spec.document.quoted(("claims", name))
    result = ClaimResult(
        id=nodeid,
        circuit=spec.circuit,
        claim=name,
        kind=claim.kind,
        role=role,
        models=tuple(claim.models(role)),
        verdict=verdict.status,
        cause=verdict.cause,
        meaning=meaning(verdict.cause, claim.refuted(verdict)) or None,
        reason=verdict.reason,
        score=None if score is None else score.value,
        interval=None if score is None else score.interval,
        n=None if score is None else score.n,
        threshold=verdict.threshold,
        control=None if score is None else score.control,
        baseline=baseline,
        drift=None if drift is None or drift.amount is None else round(drift.amount, DIGITS),
        drift_state=None if drift is None else drift.state,
        accepted_now=drift is not None and drift.accepted_now,
        seconds=round(seconds, 3),
        rows=make_rows(verdict, drift),
        scores=scores,
        notes=tuple(notes),
        line=spec.document.line(("claims", name)),
        yaml=tuple(text for _, text in quoted),
        severity=claim.severity,
        groups=tuple(groups_of(claim)),
        order=order_of(claim, spec),
        definition=definition(spec, claim),
    )
    made: ClaimResult = printable(result)
    return made


def groups_of(claim: Claim) -> list[str]:
    """The groups that a claim is about."""
    names = [reference.name for reference in claim.references() if reference.kind == "group"]
    return [*dict.fromkeys(names)]


LAST_KINDS = {"accuracy": 0, "equivalent": 11, "transfer": 40, "cmap": 50}


def order_of(claim: Claim, spec: Spec) -> int:
    """Where a claim stands among those that can explain each other, the smaller the earlier: accuracy, what the
    model refuses and reveals, equivalence, groups from the input to the answer, the whole circuit, transfer, cmap."""
    groups = groups_of(claim)
    if claim.kind in LAST_KINDS or not claim.needs_groups or not groups:
        return order_of_kind(claim.kind, claim.needs_groups)
    return 29 - min(9, max(steps_to_answer(name, spec) for name in groups))


def order_of_kind(kind: str, needs_groups: bool) -> int:
    """The `order_of` a claim that is about no single group."""
    return LAST_KINDS.get(kind, 30 if needs_groups else 10)


def steps_to_answer(name: str, spec: Spec) -> int:
    """How many groups lie between a group and the answer."""
    seen: list[str] = []
    while name in spec.groups and name not in seen:
        seen.append(name)
        into = spec.groups[name].into
        if into is None:
            break
        name = into.group
    return len(seen) - 1


def printable(value: Any) -> Any:
    """The same data with every text printable (see `visible`)."""
    if isinstance(value, str):
        return visible(value)
    if is_dataclass(value) and not isinstance(value, type):
        texts = {f.name: printable(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **texts)
    if isinstance(value, Mapping):
        return {visible(str(key)): printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(printable(item) for item in value)
    return value
