"""The chance that an unchanged model passes on fresh rows: rows are planned from this.

The accepted score is an estimate, and so is the next run's: both are taken as normal around the
model's true score with the accepted standard error, so that a score accepted from lucky rows does
not promise too much. Where all rows agree there is no spread to tell from, and the next run's are
taken to agree too.

A claim with several bounds passes only if all hold, and so does a spec with several claims. Most of
them are measured on the same rows, so their chances do not multiply: the chances of failing are
added, which bounds the chance that something fails however the claims hang together. The chance
stated is a lower bound. Comparisons with a control on the same rows are counted
(`Verdict.checks`, from scores accepted since they are kept); controls that are drawn anew with
another seed are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

WANTED = 0.9
"""The least chance to pass that a claim should have, and a whole spec."""

OF_SHIPPED = 0.97
"""The least chance of each claim of the specs in ``circuits/``."""

NORMAL = NormalDist()


@dataclass(frozen=True)
class Power:
    """What can be expected of a claim.

    Attributes:
        passes: least chance that a model like the accepted one passes.
        false_pass: largest chance that a model exactly at the threshold passes.
        rows: how many rows would give `WANTED`, when accepted and judged on so many, or None where
            no number does.
        now: rows behind the accepted score.
    """

    passes: float
    false_pass: float
    rows: int | None
    now: int


def power(judged: Sequence[Mapping[str, Any]], confidence: float) -> Power:
    """From the ``judged`` entries of an accepted score.

    Args:
        judged: ``value``, ``standard_error``, ``n``, ``low``, ``high``, ``method`` each; those of
            ``checks`` are of the same form.
        confidence: of the intervals.
    """
    z = NORMAL.inv_cdf(0.5 + confidence / 2)
    # the difference of two estimates of one score has twice the variance of either
    both = math.sqrt(2)
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
            misses += 1 - NORMAL.cdf((distance - asked) / (both * error))
            spread = asked + NORMAL.inv_cdf(WANTED) * both * error
            wanted = spread / distance if distance > 0 else math.inf
            rows = max(rows, n * wanted**2)
    needed = None if math.isinf(rows) or rows > 1e7 else max(1, math.ceil(rows))
    return Power(max(0.0, 1 - misses), (1 - confidence) / 2, needed, now)


def of_spec(found: Sequence[Power]) -> float:
    """The least chance that every claim of a spec passes."""
    return max(0.0, 1 - sum(1 - each.passes for each in found))


def error_at(bound: float, each: Mapping[str, Any]) -> float:
    """The standard error that the interval holds against a bound: Wilson's takes a proportion's
    spread at the bound, the bootstrap the score's own."""
    value, error = float(each["value"]), float(each["standard_error"])
    if each.get("method") != "Wilson" or not 0 < bound < 1:
        return error
    return error * math.sqrt(bound * (1 - bound) / (value * (1 - value)))
