"""From a score to a verdict, on the interval's bound: pass, fail, or inconclusive.

Inconclusive is red. It says how many rows would settle it, or that none would. Every verdict is
made here, so that every red one has its cause (`pytest_mechanism.causes`): a claim kind calls the
function that says what happened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pytest_mechanism.causes import Cause
from pytest_mechanism.statistics.honesty import joint
from pytest_mechanism.types import Judged, Score, Status, Verdict

MOST_ROWS = 1_000_000
"""More rows than this is 'none would'."""


def at_least(score: Score, threshold: float, what: str = "") -> Verdict:
    """Pass if the lower bound reaches the threshold, fail if the upper bound does not."""
    return within(score, threshold, math.inf, what)


def within(score: Score, low: float, high: float, what: str = "", claimed: str = "") -> Verdict:
    """Pass if the whole interval lies in [low, high], fail if none of it does.

    Args:
        score: judged.
        low: the least that is claimed.
        high: the most.
        what: names the score, if not by its own name.
        claimed: says the bound as a verb, where the spec has other words for it than at least, at
            most and between: ``drops at least 0.2``.
    """
    bound = claimed or spell(low, high)
    name = what or score.name
    lo, hi = score.interval
    shown = f"{name} {show(score)}"
    status: Status
    cause: Cause | None = None
    if low <= lo and hi <= high:
        status, reason = "pass", f"{shown}, {bound} claimed"
    elif hi < low or lo > high:
        status, reason, cause = "fail", f"{shown}, {bound} claimed", Cause.REFUTED
    else:
        cause = Cause.UNSETTLED
        status, reason = (
            "inconclusive",
            f"{shown} does not settle {'whether it ' if claimed else ''}{bound}; {settle(score, low, high)}",
        )
    judged = Judged(
        score, low if math.isfinite(low) else None, high if math.isfinite(high) else None
    )
    return Verdict(status, reason, bound, (score,), (judged,), cause)


def settle(score: Score, low: float, high: float) -> str:
    """How many rows would settle an inconclusive score: intervals shrink with their root."""
    lo, hi = score.interval
    needed = 0.0
    for bound in (low, high):
        if lo <= bound <= hi:
            width = (score.value - lo) if bound <= score.value else (hi - score.value)
            distance = abs(score.value - bound)
            needed = max(needed, math.inf if distance < 1e-9 else score.n * (width / distance) ** 2)
    if not needed <= MOST_ROWS:
        return "no number of rows would settle it, the score lies on the threshold"
    return f"about {round_up(max(needed, score.n + 1)):,} rows would settle it (now {score.n:,})"


def round_up(rows: float) -> int:
    """To two figures, so that an estimate does not look exact."""
    step = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return int(math.ceil(rows / step) * step)


def bounds(at_least: float | None, at_most: float | None) -> tuple[float, float]:
    """YAML's optional thresholds as an interval."""
    return (
        -math.inf if at_least is None else at_least,
        math.inf if at_most is None else at_most,
    )


def spell(low: float, high: float) -> str:
    """The bound in words."""
    if math.isinf(high):
        return f"at least {low:g}"
    if math.isinf(low):
        return f"at most {high:g}"
    return f"between {low:g} and {high:g}"


def show(score: Score) -> str:
    """``0.842 [0.807, 0.871]``."""
    return f"{score.value:.3f} [{score.interval[0]:.3f}, {score.interval[1]:.3f}]"


ORDER: tuple[Status, ...] = ("error", "fail", "inconclusive", "pass", "skipped")


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """All must pass: the worst verdict gives status, reason and cause; of two that are as bad, the
    first one. Scores keep their order, so that the first one, which is compared with the accepted
    one, is the same quantity in a green and a red run."""
    first = min(verdicts, key=lambda v: ORDER.index(v.status))
    scores = tuple(s for v in verdicts for s in v.scores)
    unique = {s.name: s for s in reversed(scores)}
    ordered = tuple(dict.fromkeys(s.name for s in scores))
    return Verdict(
        first.status,
        first.reason,
        " and ".join(dict.fromkeys(v.threshold for v in verdicts)),
        tuple(unique[name] for name in ordered),
        tuple(j for v in verdicts for j in v.judged),
        first.cause,
        tuple(c for v in verdicts for c in v.checks),
        tuple(part for v in verdicts for part in (v.parts or (v,))) if len(verdicts) > 1 else (),
        verdicts[0].comparable,
        joint([v.control for v in verdicts if v.status != "skipped"]),
        joint([v.chance for v in verdicts if v.status != "skipped"]),
    )


# -- why nothing can be concluded: one function a cause


def inconclusive(
    reason: str,
    threshold: str,
    scores: Sequence[Score] = (),
    cause: Cause = Cause.UNDECIDED,
) -> Verdict:
    """Nothing can be said, whatever the number of rows. Where one of the functions below says what
    happened, call that one."""
    return Verdict("inconclusive", reason, threshold, tuple(scores), cause=cause, comparable=False)


def at_chance(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The model under test does not do the task, so nothing can be said about how it does it."""
    return inconclusive(reason, threshold, scores, Cause.AT_CHANCE)


def reference_fails(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The model that another one is held against does not do what it is the reference for."""
    return inconclusive(reason, threshold, scores, Cause.REFERENCE_FAILS)


def no_difference(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """Two models do not differ in what the claim is to explain."""
    return inconclusive(reason, threshold, scores, Cause.NO_DIFFERENCE)


def not_comparable(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The parts of two models that are set against each other do not correspond."""
    return inconclusive(reason, threshold, scores, Cause.NOT_COMPARABLE)


def model_missing(reason: str, threshold: str, scores: Sequence[Score] = ()) -> Verdict:
    """The run has no model for a role that the claim compares with."""
    return inconclusive(reason, threshold, scores, Cause.MODEL_MISSING)


def accuracy_loss(verdict: Verdict, why: str) -> Verdict:
    """What the claim asks of a circuit, the full model does not reach either."""
    return replace(verdict, reason=f"{verdict.reason}; {why}", cause=Cause.ACCURACY_LOSS)


def of_reference(verdict: Verdict) -> Verdict:
    """A verdict on the reference model: what is red there says nothing about the candidate, which
    is the first thing to know about it."""
    if verdict.red and verdict.cause not in KEPT:
        return replace(verdict, cause=Cause.REFERENCE_FAILS)
    return verdict


KEPT = frozenset({Cause.NOT_JUDGED, Cause.MODEL_MISSING})
"""Causes that say nothing about a model, the reference or another one."""
