"""What the page says about one claim, as plain data for its template."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pytest_mechanism.report.page.intervals import (
    Drawing,
    control_of,
    details_of,
    drawing,
    number,
)
from pytest_mechanism.report.rows import sample
from pytest_mechanism.report.run_report import ClaimResult, Row
from pytest_mechanism.report.table import comparison
from pytest_mechanism.types import Evidence, Score

NAMES = {"base": "base, the reference model", "ft": "ft, the candidate", "pair": "both models"}
"""Of roles, for readers who meet them today."""


@dataclass(frozen=True)
class RowView:
    """A judged score of a claim."""

    verdict: str
    name: str
    score: str
    interval: str
    claimed: str
    control: str
    baseline: str
    details: str
    drawing: Drawing | None


@dataclass(frozen=True)
class ClaimView:
    """A claim with everything that the run knows about it."""

    anchor: str
    id: str
    name: str
    role: str
    verdict: str
    open: bool
    short: str
    reason: str
    meaning: str
    next: tuple[str, ...]
    located: tuple[str, ...]
    evidence: Evidence | None
    evidence_above: tuple[str, str] | None
    evidence_roles: tuple[str, ...]
    rows: tuple[RowView, ...]
    also: tuple[str, ...]
    notes: tuple[str, ...]
    line: int
    yaml: str
    seconds: str
    kind: str
    kind_number: int


def claim_view(
    result: ClaimResult,
    anchor: str,
    kind_number: int,
    is_open: bool,
    told: dict[str, tuple[str, str]],
    pair: str,
) -> ClaimView:
    """Everything about a claim. Lines about members, and prompts, that a claim above has shown are not repeated:
    ``told`` has them, with that claim's anchor and name, and takes in the new ones."""
    name = f"{result.circuit}.{result.claim}"
    prompts = "" if result.evidence is None else repr(result.evidence.examples)
    above = told.get(prompts) if result.evidence and result.evidence.examples else None
    judged = {row.name for row in result.rows}
    others = [score for score in result.scores if score.name not in judged]
    lines = (
        []
        if result.located is None
        else [x for x in result.located.lines if x not in result.reason]
    )
    keys = {line: f"{result.circuit}: {line}" for line in lines}
    located = [line for line in lines if keys[line] not in told]
    if len(located) < len(lines):
        located.append(f"{'also ' if located else ''}those named in a claim above")
    for key in (*keys.values(), *([prompts] if prompts else ())):
        told.setdefault(key, (anchor, f"{name} on {result.role}"))
    return ClaimView(
        anchor=anchor,
        id=result.id,
        name=name,
        role=NAMES.get(result.role, result.role),
        verdict=result.verdict,
        open=is_open and result.verdict not in ("pass", "skipped"),
        short=result.reason,
        reason=result.reason,
        meaning=result.meaning or "",
        next=(f"pytest {shlex.quote(result.id)} {pair}",) if result.red else (),
        located=tuple(located),
        evidence=result.evidence,
        evidence_above=above,
        evidence_roles=evidence_roles(result.evidence),
        rows=tuple(row_view(result, row) for row in result.rows),
        also=tuple(
            f"{s.name}: {s.value:.3f} {interval_text(s.interval)}; {s.metric}" for s in others
        ),
        notes=tuple(str(note) for note in result.notes),
        line=result.line,
        yaml="\n".join(result.yaml),
        seconds=f"{result.seconds:.1f}",
        kind=result.kind,
        kind_number=kind_number,
    )


def evidence_roles(evidence: Evidence | None) -> tuple[str, ...]:
    """The roles whose models said or did something on the prompts."""
    examples = () if evidence is None else evidence.examples
    return tuple(dict.fromkeys(role for one in examples for role in (*one.answers, *one.numbers)))


def row_view(result: ClaimResult, row: Row) -> RowView:
    """A judged score."""
    control, score = control_of(result, row), details_of(result, row)
    baseline = ""
    if row.compared and result.baseline is not None:
        baseline = f"{number(result.baseline)} ({comparison(result)})"
    return RowView(
        row.verdict,
        row.name or "",
        number(row.score),
        interval_text(row.interval),
        row.threshold,
        ""
        if control is None
        else f"{control.name} {number(control.value)} {interval_text(control.interval)}".rstrip(),
        baseline,
        "" if score is None else details(score, result.kind),
        drawing(result, row),
    )


def details(score: Score, kind: str) -> str:
    """How a score of a kind of claim was measured, in a line."""
    return f"{score.metric}; {score.confidence:.0%} confidence interval ({score.method}), {sample(score, kind)}"


def interval_text(interval: tuple[float, float] | None) -> str:
    """An interval as the tables show it."""
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
