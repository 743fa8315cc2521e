"""Two result files, score by score: what got worse with confidence.

Result files hold no rows, so two scores are compared by their standard errors: z = (B - A) / sqrt(se_A^2 + se_B^2),
one-sided at 2.5 %, corrected for the number of compared scores (Holm). Where both were measured on the same rows,
their errors are positively correlated as a rule, so this test finds less than a paired test, and not more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pytest_mechanism.report.run_report import ClaimResult, RunReport
from pytest_mechanism.statistics.multiple import holm
from pytest_mechanism.types import Score

ALPHA = 0.025

Change = Literal[
    "worse",
    "better",
    "no clear change",
    "now red",
    "no longer holds",
    "no longer red",
    "not compared",
    "missing",
]
ORDER: tuple[Change, ...] = (
    "now red", "no longer holds", "missing", "worse", "no longer red", "better", "not compared", "no clear change",
)  # fmt: skip
"""In which `history diff` lists changes."""

BAD: frozenset[Change] = frozenset({"worse", "now red", "no longer holds", "missing"})


@dataclass(frozen=True)
class Compared:
    """A score, or a claim, in two runs.

    Attributes:
        id: of the claim on its role.
        score: its name, or empty for the claim as a whole.
        change: from A to B.
        text: both values, or why they are not compared.
    """

    id: str
    score: str
    change: Change
    text: str


def compare_runs(old: RunReport, new: RunReport) -> list[Compared]:
    """Every claim of either run, those of A first."""
    after = {result.id: result for result in new.claims}
    before = {result.id: result for result in old.claims}
    compared: list[Compared] = []
    tests: list[tuple[ClaimResult, Score, Score]] = []
    for name, result in before.items():
        if (now := after.get(name)) is None:
            if result.verdict != "skipped":
                compared.append(Compared(name, "", "missing", "judged in A, not in B"))
            continue
        compared += verdicts(result, now)
        if None in (result.definition, now.definition) or result.definition != now.definition:
            reason = "the definition changed" if result.definition and now.definition else (
                "a result file of an earlier version does not say how the score is defined"
            )  # fmt: skip
            compared.append(Compared(name, "", "not compared", reason))
            continue
        later = {score.name: score for score in now.scores}
        for score in result.scores:
            if score.name in later:
                tests.append((result, score, later[score.name]))
            else:
                compared.append(Compared(name, score.name, "missing", "a score in A, none in B"))
    compared += tested(tests)
    compared += [
        Compared(name, "", "not compared", "judged in B only")
        for name, result in after.items()
        if name not in before and result.verdict != "skipped"
    ]
    return compared


def verdicts(old: ClaimResult, new: ClaimResult) -> Iterator[Compared]:
    """A claim whose verdict changed its colour."""
    if new.red and not old.red:
        yield Compared(
            new.id, "", "now red", f"{old.verdict} in A, {new.verdict} in B: {new.reason}"
        )
    elif new.verdict == "warn" and old.verdict != "warn":
        yield Compared(
            new.id, "", "no longer holds", f"{old.verdict} in A, a warning in B: {new.reason}"
        )
    elif old.red and new.verdict == "pass":
        yield Compared(new.id, "", "no longer red", f"{old.verdict} in A, pass in B")
    elif new.verdict == "skipped" and old.verdict != "skipped":
        yield Compared(new.id, "", "missing", f"{old.verdict} in A, skipped in B: {new.reason}")


def tested(tests: list[tuple[ClaimResult, Score, Score]]) -> list[Compared]:
    """The scores that both runs have, with one correction for all."""
    from scipy import stats

    statistics = [
        (loss(old, new), math.hypot(error_of(stats, old), error_of(stats, new)))
        for _, old, new in tests
    ]
    worse = holm([p_value(stats, amount, error) for amount, error in statistics])
    better = holm([p_value(stats, -amount, error) for amount, error in statistics])
    listed = []
    for (result, old, new), down, up in zip(tests, worse, better, strict=True):
        change: Change = "worse" if down < ALPHA else "better" if up < ALPHA else "no clear change"
        listed.append(Compared(result.id, old.name, change, f"{shown(old)} -> {shown(new)}"))
    return listed


def error_of(stats: Any, score: Score) -> float:
    """The standard error of a score; where it is 0, as for a share of 0 or 1, that of its interval."""
    half = max(score.value - score.interval[0], score.interval[1] - score.value)
    return score.standard_error or half / float(stats.norm.ppf((1 + score.confidence) / 2))


def p_value(stats: Any, amount: float, error: float) -> float:
    """One-sided; without an error, any loss is one."""
    if error == 0:
        return 0.0 if amount > 0 else 1.0
    return float(stats.norm.sf(amount / error))


def loss(old: Score, new: Score) -> float:
    """How much worse the later score is."""
    if old.better == "higher":
        return old.value - new.value
    if old.better == "lower":
        return new.value - old.value
    return abs(new.value - float(old.better)) - abs(old.value - float(old.better))


def shown(score: Score) -> str:
    low, high = score.interval
    return f"{score.value:.3f} [{low:.3f}, {high:.3f}]"
