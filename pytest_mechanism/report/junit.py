"""The properties that pytest writes for a claim into its JUnit file (``--junitxml``).

pytest collects properties test by test and writes the file itself, so this is no `Reporter`.
"""

from __future__ import annotations

from pytest_mechanism.report.run_report import ClaimResult

PREFIX = "mechanism_"


def properties(result: ClaimResult) -> list[tuple[str, object]]:
    """``mechanism_verdict`` and further properties; absent values have none."""
    low, high = result.interval or (None, None)
    values = {
        "verdict": result.verdict,
        "severity": None if result.severity == "block" else result.severity,
        "cause": None if result.cause is None else str(result.cause),
        "score": result.score,
        "n": result.n,
        "threshold": result.threshold,
        "baseline": result.baseline,
        "drift": result.drift,
        "interval_low": low,
        "interval_high": high,
    }
    return [(f"{PREFIX}{key}", value) for key, value in values.items() if value is not None]
