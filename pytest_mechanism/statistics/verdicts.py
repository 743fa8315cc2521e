"""From a score to a verdict: pass, fail or inconclusive.

A claim passes only if the whole confidence interval meets the threshold, and fails only if no part
of it does. Inconclusive, which is red too, says how many rows would decide, or that none would. The
rules about controls and chance are in `statistics.honesty`. A claim kind calls the function that
says what happened, so that every red verdict has its cause (`pytest_mechanism.causes`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pytest_mechanism.causes import Cause
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.statistics.honesty import joint
from pytest_mechanism.types import Judged, Score, Status, Verdict

MOST_ROWS = 1_000_000
"""An estimate above this counts as 'no number of rows would decide'."""


def at_least(score: Score, threshold: float, what: str = "") -> Verdict:
    """Pass if the whole interval is at or above the threshold; fail if it is below."""
    return within(score, threshold, math.inf, what)


def within(
    score: Score,
    low: float,
    high: float,
    what: str = "",
    claimed: str = "",
    difference: bool = False,
) -> Verdict:
    """Pass if the whole interval lies in [low, high]; fail if it lies outside.

    Args:
        score: judged.
        low: the lower threshold.
        high: the upper threshold.
        what: the score in words, if its name does not fit.
        claimed: the threshold as a verb, where the spec has other words for it than at least, at
            most and between: ``drops at least 0.2``.
        difference: whether the score is a difference that may be ``high`` at most in either direction.
    """
    threshold = claimed or spell(low, high)
    shown = f"{what or score.name} {show(score)}"
    lower, upper = score.interval
    status: Status
    cause: Cause | None = None
    if low <= lower and upper <= high:
        status, reason = "pass", f"{shown}; claimed: {threshold}"
    elif upper < low or lower > high:
        status, reason, cause = "fail", f"{shown}; claimed: {threshold}", Cause.REFUTED
    else:
        status, cause = "inconclusive", Cause.UNSETTLED
        verb = threshold if claimed else f"is {threshold}"
        open_ = f" does not show whether it {verb}"
        if difference:
            open_ = f": {either_way(lower, upper)}, and at most {high:g} is allowed"
        reason = f"{shown}{open_}; {settle(score, low, high)}"
    judged = Judged(
        score, low if math.isfinite(low) else None, high if math.isfinite(high) else None
    )
    return Verdict(status, reason, threshold, (score,), (judged,), cause)


def settle(
    score: Score, low: float, high: float, counted: str = "rows", where: str = "in the spec"
) -> str:
    """How many rows would decide: the width of an interval shrinks with the square root of rows.

    Args:
        score: undecided.
        low: the lower threshold.
        high: the upper threshold.
        counted: what the n of the score counts, which is also the key that sets it.
        where: that key is.
    """
    lower, upper = score.interval
    rows = 0.0
    for threshold in (low, high):
        if lower <= threshold <= upper:
            width = (score.value - lower) if threshold <= score.value else (upper - score.value)
            distance = abs(score.value - threshold)
            rows = max(rows, math.inf if distance < 1e-9 else score.n * (width / distance) ** 2)
    if not rows <= MOST_ROWS:
        return f"no number of {counted} would decide, because the score lies on the threshold"
    needed = round_up(max(rows, score.n + 1))
    return f"about {needed:,} {counted} in all would decide ({counted}: {where}, now {score.n:,})"


def either_way(low: float, high: float) -> str:
    """The interval of a difference without signs: ``between 0.013 and 0.025 lower``."""
    least, most = sorted((abs(low), abs(high)))
    if low < 0 < high:
        return f"between {-low:.3f} lower and {high:.3f} higher"
    return f"between {least:.3f} and {most:.3f} {'lower' if low < 0 else 'higher'}"


def round_up(rows: float) -> int:
    """The number rounded up to two digits, so that an estimate does not look exact."""
    step = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return int(math.ceil(rows / step) * step)


def bounds(at_least: float | None, at_most: float | None) -> tuple[float, float]:
    """The optional thresholds of a spec as an interval."""
    return (
        -math.inf if at_least is None else at_least,
        math.inf if at_most is None else at_most,
    )


def spell(low: float, high: float) -> str:
    """The thresholds in words."""
    if math.isinf(high):
        return f"at least {low:g}"
    if math.isinf(low):
        return f"at most {high:g}"
    return f"between {low:g} and {high:g}"


def show(score: Score) -> str:
    """The score with its interval: ``0.842 [0.807, 0.871]``."""
    return shown(score.value, score.interval)


def shown(value: float, interval: tuple[float, float]) -> str:
    """An estimate with its interval, in three decimals, or four where only these tell it from an end."""
    low, high = interval
    digits = decimals(3, 4, apart=(value, low, high))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def in_three_digits(number: Score | Estimate) -> str:
    """A number with its interval, where it may be far below .001."""
    low, high = number.interval
    return f"{number.value + 0.0:.3g} [{low + 0.0:.3g}, {high + 0.0:.3g}]"


def decimals(least: int, most: int, apart: tuple[float, float, float]) -> int:
    """The fewest decimals with which an estimate differs from both ends of its interval; ``least`` where ``most``
    do not tell them apart either, or an end is the estimate."""
    value, *ends = apart
    for digits in range(least, most + 1):
        if all(end == value or round(end, digits) != round(value, digits) for end in ends):
            return digits
    return least


ORDER: tuple[Status, ...] = ("error", "fail", "inconclusive", "pass", "skipped")


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim with several parts, all of which must pass.

    The worst part gives status, reason and cause; of two equally bad ones, the first. Scores keep their
    order, so that the first one, which is compared with the baseline, is the same quantity in every run.
    """
    worst = min(verdicts, key=lambda verdict: ORDER.index(verdict.status))
    scores = tuple(score for verdict in verdicts for score in verdict.scores)
    unique = {score.name: score for score in reversed(scores)}
    order = dict.fromkeys(score.name for score in scores)
    parts = tuple(part for verdict in verdicts for part in (verdict.parts or (verdict,)))
    judged = [verdict for verdict in verdicts if verdict.status != "skipped"]
    return Verdict(
        status=worst.status,
        reason=worst.reason,
        threshold=" and ".join(dict.fromkeys(verdict.threshold for verdict in verdicts)),
        scores=tuple(unique[name] for name in order),
        judged=tuple(entry for verdict in verdicts for entry in verdict.judged),
        cause=worst.cause,
        checks=tuple(check for verdict in verdicts for check in verdict.checks),
        parts=parts if len(verdicts) > 1 else (),
        comparable=verdicts[0].comparable,
        control=joint([verdict.control for verdict in judged]),
        chance=joint([verdict.chance for verdict in judged]),
    )


# -- nothing can be concluded: one function for each cause


def inconclusive(
    reason: str,
    threshold: str,
    scores: Sequence[Score] = (),
    cause: Cause = Cause.UNDECIDED,
) -> Verdict:
    """Nothing can be concluded, whatever the number of rows.

    Call one of the functions below if it says what happened.
    """
    return Verdict("inconclusive", reason, threshold, tuple(scores), cause=cause, comparable=False)


def at_chance(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The model under test guesses, so nothing can be said about how it does the task."""
    return inconclusive(reason, threshold, scores, Cause.AT_CHANCE)


def no_heads(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The search found no heads in the model under test for a group that the claim is about."""
    return inconclusive(reason, threshold, scores, Cause.NO_HEADS)


def reference_fails(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The reference model does not do what the claim compares with."""
    return inconclusive(reason, threshold, scores, Cause.REFERENCE_FAILS)


def no_difference(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The two models do not differ in what the claim is to explain."""
    return inconclusive(reason, threshold, scores, Cause.NO_DIFFERENCE)


def not_comparable(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The parts of the two models that the claim compares do not correspond."""
    return inconclusive(reason, threshold, scores, Cause.NOT_COMPARABLE)


def model_missing(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The run has no model for a role that the claim compares with."""
    return inconclusive(reason, threshold, scores, Cause.MODEL_MISSING)


def accuracy_loss(verdict: Verdict, why: str) -> Verdict:
    """The full model does not reach the threshold either."""
    return replace(verdict, reason=f"{verdict.reason}; {why}", cause=Cause.ACCURACY_LOSS)


# -- the reference model


def of_reference(verdict: Verdict) -> Verdict:
    """A verdict on the reference model: a red one says nothing about the candidate."""
    if verdict.red and verdict.cause not in ABOUT_THE_RUN:
        return replace(verdict, cause=Cause.REFERENCE_FAILS)
    return verdict


ABOUT_THE_RUN = frozenset({Cause.NOT_JUDGED, Cause.MODEL_MISSING})
"""Causes that are about the run and not about a model."""
