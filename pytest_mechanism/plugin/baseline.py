"""The comparison of an item's score with its baseline, the accepted score."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.plugin.score_entry import score_entry
from pytest_mechanism.plugin.score_file import read_scores, score_file
from pytest_mechanism.plugin.snapshot import (
    ScoreExtension,
    is_accepted_now,
    snapshot_assertion,
    update_thresholds,
)
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.drift import Drift, Tolerance, compare
from pytest_mechanism.types import Verdict

UNUSABLE = (MechanismError, ValueError, KeyError, TypeError)
"""What reading or comparing a damaged baseline raises."""


@dataclass(frozen=True)
class Comparison:
    """A score and its baseline.

    Attributes:
        drift: how they differ, or None without a score.
        value: of the baseline, or None without one.
        problem: why they cannot be compared, or None.
    """

    drift: Drift | None = None
    value: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Baseline:
    """The baseline of one item.

    Attributes:
        item: the item.
        spec: the item's spec.
        claim: the item's claim.
        name: ``claim.role``.
    """

    item: pytest.Function
    spec: Spec
    claim: Claim
    name: str

    def read(self) -> dict[str, Any] | None:
        """The accepted score, or None.

        Raises:
            MechanismError: the file is damaged.
        """
        return read_scores(score_file(self.item.path, ScoreExtension.pair)).get(self.name)

    def keep(self) -> None:
        """Keep the accepted score in an update, although this run has no score: the claim still exists."""
        with contextlib.suppress(*UNUSABLE):
            if (accepted := self.read()) is not None:
                snapshot_assertion(self.item).assert_match(accepted)

    def compare(self, verdict: Verdict) -> Comparison:
        """Compare a verdict's score with the baseline, and accept it if this run does so."""
        try:
            accepted = self.read()
            received = score_entry(self.spec, self.claim, verdict)
            assertion = snapshot_assertion(self.item)
            value = None if accepted is None else float(accepted["value"])
            if received is None:
                if accepted is not None:
                    assertion.assert_match(accepted)  # as in `keep`
                return Comparison(value=value)
            tolerance = Tolerance(self.claim.atol, self.claim.drift)
            drift = compare(received, accepted, tolerance)
        except UNUSABLE as problem:
            return Comparison(problem=str(problem))
        if value is None and not ScoreExtension.accepting:
            return Comparison(drift)
        matches = assertion == received | {"tolerance": vars(tolerance)}
        drift = replace(drift, accepted_now=is_accepted_now(assertion))
        if value is not None and ScoreExtension.updating and not drift.accepted_now:
            path = score_file(self.item.path, ScoreExtension.pair)
            update_thresholds(path, self.name, received)
        if value is not None and drift.red and matches:  # the update replaces the baseline
            finding = f"this score replaces the baseline {value:.3f} (--snapshot-update)"
            drift = replace(drift, state="changed", finding=finding)
        return Comparison(drift, value)


def with_comparison(
    verdict: Verdict, comparison: Comparison, *, requires_accepted: bool
) -> Verdict:
    """The verdict, red if the comparison with the baseline makes it so.

    Args:
        verdict: on the thresholds.
        comparison: with the baseline.
        requires_accepted: whether a claim without a baseline is red (``--mechanism-require-accepted``).
    """
    if comparison.problem is not None:
        return replace(verdict, status="error", reason=comparison.problem, cause=Cause.NOT_JUDGED)
    drift = comparison.drift
    if drift is None or verdict.red:
        return verdict
    if drift.red:
        return replace(verdict, status="fail", reason=drift.reason, cause=drift.cause)
    if requires_accepted and drift.state == "new" and not drift.accepted_now:
        reason = f"{drift.reason} (--mechanism-require-accepted)"
        return replace(verdict, status="fail", reason=reason, cause=drift.cause)
    return verdict
