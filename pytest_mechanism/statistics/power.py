"""The chance that an unchanged model passes: rows are planned from this.

The next run's score is taken as normal around the accepted one with its standard error. A claim
with several bounds passes only if all hold; the sum of their chances of failing is an upper bound
of its own, so the chance stated is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

WANTED = 0.9
"""The least chance that a shipped claim may have."""

NORMAL = NormalDist()


@dataclass(frozen=True)
class Power:
    """What can be expected of a claim.

    Attributes:
        passes: least chance that a model like the accepted one passes.
        false_pass: largest chance that a model exactly at the threshold passes.
        rows: how many rows would give `WANTED`, or None where no number does.
        now: rows behind the accepted score.
    """

    passes: float
    false_pass: float
    rows: int | None
    now: int


def power(judged: Sequence[Mapping[str, Any]], confidence: float) -> Power:
    """From the ``judged`` entries of an accepted score.

    Args:
        judged: ``value``, ``standard_error``, ``n``, ``low``, ``high``, ``method`` each.
        confidence: of the intervals.
    """
    z = NORMAL.inv_cdf(0.5 + confidence / 2)
    misses, rows, now = 0.0, 0.0, 0
    for each in judged:
        value, error, n = float(each["value"]), float(each["standard_error"]), int(each["n"])
        now = max(now, n)
        for bound, sign in ((each["low"], 1), (each["high"], -1)):
            if bound is None:
                continue
            distance = sign * (value - float(bound))
            if error == 0:
                # all rows agree: the exact interval reaches 1 - (alpha / 2) ** (1 / n) further
                tail = math.log((1 - confidence) / 2)
                wanted = math.inf if distance <= 0 else 1.0
                if 0 < distance < 1:
                    wanted = tail / math.log1p(-distance)
                misses += wanted > n
                rows = max(rows, wanted)
                continue
            asked = z * error_at(float(bound), each)
            misses += 1 - NORMAL.cdf((distance - asked) / error)
            spread = asked + NORMAL.inv_cdf(WANTED) * error
            wanted = spread / distance if distance > 0 else math.inf
            rows = max(rows, n * wanted**2)
    needed = None if math.isinf(rows) or rows > 1e7 else max(1, math.ceil(rows))
    return Power(max(0.0, 1 - misses), (1 - confidence) / 2, needed, now)


def error_at(bound: float, each: Mapping[str, Any]) -> float:
    """The standard error that the interval holds against a bound: Wilson's takes a proportion's
    spread at the bound, the bootstrap the score's own."""
    value, error = float(each["value"]), float(each["standard_error"])
    if each.get("method") != "Wilson" or not 0 < bound < 1:
        return error
    return error * math.sqrt(bound * (1 - bound) / (value * (1 - value)))
