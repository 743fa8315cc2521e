"""Power: the chance that an unchanged model passes on fresh rows.

The baseline is an estimate, and so is the next run's score. Both are modelled as normal around the
model's true score with the baseline's standard error, so that a baseline from lucky rows does not
promise too much. If all rows of the baseline agree, it has no spread, and the next run's rows are
assumed to agree too.

A claim passes only if all its thresholds hold, and a spec only if all its claims do. Most of them
are measured on the same rows, so their chances do not multiply. The chances of failing are added
instead, which makes the chance of passing a lower bound whatever the correlation. Comparisons with
a control on the same rows count (`Verdict.checks`); controls that another seed draws anew do not.

The standard error is an estimate as well. From k contexts its relative error is about 1 / sqrt(2 (k - 1)), in the
baseline and again in the next run, so with few contexts the width of an interval is a matter of luck too. Without
it, plans from 60 contexts promise 0.9 and keep 0.88 to 0.9 (docs/error-rates.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

WANTED = 0.9
"""The chance of passing that each claim and each whole spec should reach."""

OF_SHIPPED = 0.97
"""The chance of passing that each claim of the specs in ``circuits/`` reaches."""

NORMAL = NormalDist()

PAIRS = "bootstrap of pairs"
"""The method of an interval of a mean over pairs of rows (`statistics.dependence`)."""


@dataclass(frozen=True)
class Power:
    """How likely a claim is to pass.

    Attributes:
        passes: lower bound on the chance that an unchanged model passes.
        false_pass: upper bound on the chance that a model exactly at the threshold passes.
        rows: number of rows of baseline and run that would reach `WANTED`, or None if no number does.
        now: number of rows of the baseline.
    """

    passes: float
    false_pass: float
    rows: int | None
    now: int


def power(judged: Sequence[Mapping[str, Any]], confidence: float) -> Power:
    """The power of a claim, from its baseline.

    Args:
        judged: the baseline's entries of ``judged`` and ``checks``, with ``value``,
            ``standard_error``, ``n``, ``low``, ``high`` and ``method``; ``confidence`` too where an interval's
            confidence is not the spec's. ``interval`` and ``clusters`` make the plan more exact; earlier
            versions did not keep them.
        confidence: of the intervals.
    """
    now = max((int(entry["n"]) for entry in judged), default=0)
    false_pass = max(
        (1 - confidence) / 2,
        *((1 - float(entry.get("confidence", confidence))) / 2 for entry in judged),
        0.0,
    )
    passes = max(0.0, 1 - misses(judged, confidence))
    return Power(passes, false_pass, rows_wanted(judged, confidence), now)


MOST_ROWS = 10_000_000
"""Rows beyond which a plan counts as none."""


def rows_wanted(judged: Sequence[Mapping[str, Any]], confidence: float) -> int | None:
    """The least number of rows at which all bounds hold together with the chance `WANTED`; None if no number
    gives it."""

    def enough(rows: int) -> bool:
        return misses(judged, confidence, rows) <= 1 - WANTED + 1e-12

    if not enough(MOST_ROWS):
        return None
    low, high = 0, MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def misses(
    judged: Sequence[Mapping[str, Any]], confidence: float, rows: int | None = None
) -> float:
    """The sum of the chances that a bound does not hold, if every score has this many rows; None leaves each
    its own."""
    total = 0.0
    for entry in judged:
        value, error, n = float(entry["value"]), float(entry["standard_error"]), int(entry["n"])
        of_entry = float(entry.get("confidence", confidence))  # two one-sided tests have their own
        z = NORMAL.inv_cdf(0.5 + of_entry / 2)
        rows_of_entry = n if rows is None else rows
        scale = shrinks(entry, rows_of_entry)
        contexts = max(2.0, float(entry.get("clusters", n)) * rows_of_entry / n)
        for threshold, sign in ((entry["low"], 1), (entry["high"], -1)):
            if threshold is None:
                continue
            distance = sign * (value - float(threshold))
            if error == 0:
                # all rows agree: the exact interval extends by 1 - (alpha / 2) ** (1 / n)
                tail = math.log((1 - of_entry) / 2)
                needed = math.inf if distance <= 0 else 1.0
                if 0 < distance < 1:
                    needed = tail / math.log1p(-distance)
                total += needed > rows_of_entry
                continue
            reach = reaches(float(threshold), sign, z, entry)
            # two estimates of the score differ, and so do two estimates of the interval's half-width
            spread = apart(math.sqrt(2) * error, reach / math.sqrt(contexts - 1), entry)
            half_width = scale * reach + rounding(entry, scale * error)
            total += 1 - NORMAL.cdf((distance - half_width) / (scale * spread))
    return total


def shrinks(entry: Mapping[str, Any], rows: float) -> float:
    """The standard error with so many rows, as a multiple of the baseline's.

    The dependence of independent scores (`statistics.dependence`) has an error that falls with the number of rows,
    that of dependent scores with its square root. A plan takes the larger of the two.
    """
    ratio = int(entry["n"]) / rows
    return ratio if entry.get("method") == PAIRS and ratio > 1 else math.sqrt(ratio)


def rounding(entry: Mapping[str, Any], error: float) -> float:
    """How much farther an interval of a share reaches because it counts whole successes among whole
    effective rows (`estimates.proportion`): half a row on average."""
    value = float(entry["value"])
    return 0.5 * error**2 / (value * (1 - value)) if entry.get("method") == "Wilson" else 0.0


def of_spec(claims: Sequence[Power]) -> float:
    """A lower bound on the chance that every claim of a spec passes."""
    return max(0.0, 1 - sum(1 - claim.passes for claim in claims))


def apart(value: float, half_width: float, entry: Mapping[str, Any]) -> float:
    """The spread of an interval's end, from the spreads of its middle and of its half-width.

    The two are independent, except where a score is bounded by 0 on one side: a larger dependence has a wider
    interval.
    """
    return value + half_width if entry.get("method") == PAIRS else math.hypot(value, half_width)


def reaches(threshold: float, sign: int, z: float, entry: Mapping[str, Any]) -> float:
    """The half-width of the interval towards the threshold, with the baseline's rows.

    Wilson's interval has the spread of a proportion at the threshold, the bootstrap that of the score itself,
    which may differ between its two sides.
    """
    value, error = float(entry["value"]), float(entry["standard_error"])
    if entry.get("method") == "Wilson":
        if not 0 < threshold < 1:
            return z * error
        return z * error * math.sqrt(threshold * (1 - threshold) / (value * (1 - value)))
    if "interval" in entry:
        low, high = entry["interval"]
        return max(0.0, value - float(low) if sign > 0 else float(high) - value)
    return z * error
