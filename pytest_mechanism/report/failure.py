"""What pytest shows for a red claim: one line in its summary, a short block above it, and with ``-v`` everything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from _pytest._code.code import TerminalRepr

from pytest_mechanism.causes import Cause
from pytest_mechanism.errors import visible
from pytest_mechanism.report.examples import example_lines
from pytest_mechanism.report.paragraphs import first_sentence, fitted
from pytest_mechanism.report.rows import BASELINE_CAUSES, sample
from pytest_mechanism.report.run_report import ClaimResult
from pytest_mechanism.report.table import shortened
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Evidence, Located, Score, Verdict

STATUS = {
    "fail": "FAILED",
    "inconclusive": "INCONCLUSIVE (counts as red)",
    "error": "could not be judged",
    "warn": "does not hold (severity: warn, not red)",
}

BRIEF = (
    Cause.REFUTED,
    Cause.UNSETTLED,
    Cause.NOT_COMPARABLE,
    Cause.ACCURACY_LOSS,
    Cause.UNDECIDED,
)
"""Causes whose sentence has the essential before its colon."""

MINUS = re.compile(r"(\S+)(?: of (\w+))? minus that of (\w+)")
"""The name of a paired difference, whose own model is the claim's role where the name does not say it."""


@dataclass(frozen=True)
class Crash:
    """What pytest prints with ``--tb=line``."""

    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class Failure(TerminalRepr):
    """A red claim in pytest's terms: ``FAILURES`` shows the lines, the summary at the end the message.

    Attributes:
        message: one line.
        lines: of the block, not yet fitted to a terminal.
    """

    message: str
    lines: tuple[str, ...]

    @property
    def reprcrash(self) -> Any:
        """What pytest reads the line of its summary from, and the message in JUnit files."""
        return Crash(self.message)

    def toterminal(self, tw: Any) -> None:
        for line in fitted(self.lines, tw.fullwidth):
            tw.line(line)


def message(result: ClaimResult) -> str:
    """The claim and its reason, in one line. It says so where the claim is undecided."""
    verdict = " is inconclusive" if result.verdict == "inconclusive" else ""
    return f"{result.claim} on {result.role}{verdict}: {compared(result.reason, result.role)}"


def untitled(result: ClaimResult) -> str:
    """The message without the claim's name, which pytest writes above the block."""
    verdict = "inconclusive: " if result.verdict == "inconclusive" else ""
    return verdict + compared(result.reason, result.role)


def compared(text: str, role: str) -> str:
    """A text in which paired differences name both models: ``accuracy, ft minus base``."""
    return MINUS.sub(lambda found: f"{found[1]}, {found[2] or role} minus {found[3]}", text)


def block(result: ClaimResult) -> list[str]:
    """A red claim in a few lines: each judged score that is red, and what that means in plain words."""
    lines = [untitled(result) + beside_baseline(result)]
    for row in result.rows:
        judged = row.compared or (row.low, row.high) != (None, None)
        if row.verdict not in ("pass", "skipped") and row.score is not None and row.name and judged:
            low, high = row.interval or (row.score, row.score)
            shown = verdicts.shown(row.score, (low, high))
            if shown not in result.reason and row.threshold:
                name = compared(row.name, result.role)
                lines.append(f"  {name} {shown}; claimed: {shortened(row.threshold)}")
    place = f"{result.spec}:{result.line}" if result.line else result.spec
    plain = first_sentence(result.meaning or "")
    if result.cause in BRIEF:
        plain = plain.partition(": ")[0]  # -v has the rest
    return [*lines, f"  {place}: {plain}" if plain else f"  {place}"]


def beside_baseline(result: ClaimResult) -> str:
    """How far a score is from its baseline, to go on with the reason; empty where the reason says that, or the baseline
    is 0.000, from which the score itself is as far."""
    if result.drift_state not in ("worse", "moved") or result.cause in BASELINE_CAUSES:
        return ""
    drift, baseline = result.drift or 0.0, round(result.baseline or 0.0, 3)
    side = "below" if drift < 0 else "above"
    return f"; {abs(drift):.3f} {side} the baseline {baseline:.3f}" if baseline else ""


def failure_text(
    spec: Spec,
    claim: str,
    role: str,
    verdict: Verdict,
    drift: Drift | None,
    meaning: str = "",
    located: Located | None = None,
    evidence: Evidence | None = None,
) -> str:
    """Everything about a red claim, in several lines.

    Args:
        spec: the spec.
        claim: the claim's name.
        role: the role.
        verdict: on the claim.
        drift: the comparison with the baseline, if there is one.
        meaning: what follows from the verdict.
        located: the heads and MLPs behind it, if they were looked for.
        evidence: the prompts behind it, if there are any.
    """
    quoted = spec.document.quoted(("claims", claim))
    first = spec.document.line(("claims", claim))
    lines = [
        f"{claim} on {role}: {compared(verdict.reason, role)}",
        *located_lines(located, verdict.reason),
        "",
        f"{spec.document.path}:{first}: {STATUS.get(verdict.status, verdict.status)}",
    ]
    width = max(len(str(number)) for number, _ in quoted if number is not None)
    lines += [f"  {'' if number is None else number:>{width}} | {text}" for number, text in quoted]
    lines.append("")
    if verdict.threshold:
        lines.append(f"  claimed   {verdict.threshold}")
    for i, score in enumerate(verdict.scores):
        label = "measured" if i == 0 else "also"
        lines += score_lines(score, label, role, spec.claims[claim].kind)
    if meaning:
        lines.append(f"  meaning   {meaning}")
    if drift is not None:
        lines.append(f"  baseline  {drift.reason}")
    lines += [f"  {line}" for line in example_lines(evidence)]
    return "\n".join(visible(line) for line in lines)


def located_lines(located: Located | None, reason: str) -> list[str]:
    """The members behind a red claim, unless the reason names them, and what finding them took."""
    if located is None:
        return []
    took = f"a comparison of all heads and MLPs, {located.seconds:.0f} s; --mechanism-no-locate leaves it out"
    return [*(f"  {line}" for line in located.lines if line not in reason), f"  ({took})"]


def score_lines(score: Score, label: str, role: str, kind: str) -> list[str]:
    """A score with its interval, its rows, its definition and its control."""
    low, high = score.interval
    lines = [
        f"  {label:<9} {compared(score.name, role)} = {score.value:.4f}, {score.confidence:.0%} confidence interval "
        f"[{low:.4f}, {high:.4f}], {sample(score, kind)}",
        f"            {score.metric}",
    ]
    if score.control is not None:
        interval = score.control.interval
        bounds = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
        lines.append(f"  control   {score.control.name} = {score.control.value:.4f}{bounds}")
    return lines


def read_back(text: str, result: ClaimResult) -> Failure:
    """The failure of a claim that a worker of xdist sent as text."""
    lines = text.rstrip("\n").split("\n")
    return Failure(lines[0] if len(lines) == 1 else message(result), tuple(lines))
