"""Two result files, score by score: what got worse with confidence.

Result files hold no rows, so two scores are compared by their intervals, as independent estimates: the interval of
their difference follows from both (MOVER, Zou and Donner 2008; Newcombe 1998 for proportions), so that a score at the
edge of its range, such as 20 of 20 rows, has an error too. One-sided at 2.5 %, corrected for the number of compared
scores (Holm). Where both were measured on the same rows, their errors are positively correlated as a rule, so this test
finds less than a paired test, and not more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pytest_mechanism.report.run_report import ClaimResult, RunReport
from pytest_mechanism.statistics.multiple import holm
from pytest_mechanism.statistics.power import NORMAL
from pytest_mechanism.types import Score

ALPHA = 0.025

ROUNDING = 1e-5
"""A difference of scores without any error that processors can cause by rounding."""

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
    if new.not_run or new.exit_code not in (0, 1):
        text = (
            f"{len(new.not_run)} selected claims never ran; pytest's exit code was {new.exit_code}"
        )
        compared.append(Compared("run B is not complete", "", "missing", text))
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
    pairs = [(goodness(old, old.better), goodness(new, old.better)) for _, old, new in tests]
    worse = holm([p_of_loss(old, new) for old, new in pairs])
    better = holm([p_of_loss(new, old) for old, new in pairs])
    listed = []
    for (result, old, new), down, up in zip(tests, worse, better, strict=True):
        change: Change = "worse" if down < ALPHA else "better" if up < ALPHA else "no clear change"
        listed.append(Compared(result.id, old.name, change, f"{shown(old)} -> {shown(new)}"))
    return listed


@dataclass(frozen=True)
class Goodness:
    """A score on a scale on which more is better, and its errors.

    Attributes:
        value: the score.
        below: standard error towards lower values.
        above: towards higher values.
    """

    value: float
    below: float
    above: float


def goodness(score: Score, better: str | float) -> Goodness:
    """A score on the scale on which more is better; the distance from a perfect number is worse, the larger it is."""
    z = NORMAL.inv_cdf((1 + score.confidence) / 2)
    below, above = ((score.value - score.interval[0]) / z, (score.interval[1] - score.value) / z)
    if better == "higher":
        return Goodness(score.value, below, above)
    if better == "lower":
        return Goodness(-score.value, above, below)
    wide = max(below, above)
    return Goodness(-abs(score.value - float(better)), wide, wide)


def p_of_loss(old: Goodness, new: Goodness) -> float:
    """One-sided p value of the hypothesis that the later score is no worse."""
    loss = old.value - new.value
    error = math.hypot(old.below, new.above)
    if error == 0:
        return 0.0 if loss > ROUNDING else 1.0
    return math.erfc(loss / error / math.sqrt(2)) / 2


def shown(score: Score) -> str:
    low, high = score.interval
    return f"{score.value:.3f} [{low:.3f}, {high:.3f}]"
