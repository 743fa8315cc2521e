"""What the page shows, as plain data for its template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.next_steps import pair_options
from pytest_mechanism.report.page.intervals import (
    Drawing,
    control_of,
    details_of,
    drawing,
    number,
)
from pytest_mechanism.report.page.prose import KindPage, kind_page
from pytest_mechanism.report.run_report import (
    CheckpointEntry,
    ClaimResult,
    Conclusion,
    Row,
    RunReport,
)
from pytest_mechanism.report.table import comparison, spec_suffixes
from pytest_mechanism.report.terminal import notes
from pytest_mechanism.types import Evidence, Score

ORDER = ("fail", "error", "inconclusive", "warn", "pass", "skipped")
"""Of the counts on the page."""

WORDS = {
    "fail": "failed",
    "error": "could not be judged (red)",
    "inconclusive": "inconclusive (red)",
    "warn": "do not hold, and only warn",
    "pass": "passed",
    "skipped": "skipped",
}
OPEN = 25
"""Red claims whose details are open at first."""


@dataclass(frozen=True)
class Count:
    """How many claims have a verdict."""

    verdict: str
    number: int
    words: str


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
    rows: tuple[RowView, ...]
    also: tuple[str, ...]
    notes: tuple[str, ...]
    line: int
    yaml: str
    seconds: str
    kind: str
    kind_number: int


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    verdict: str
    anchor: str
    claim: str
    score_name: str
    role: str
    score: str
    interval: str
    claimed: str
    baseline: str
    drawing: Drawing | None


@dataclass(frozen=True)
class PictureView:
    """A picture as the page embeds it."""

    title: str
    words: str
    alt: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class SpecView:
    """The pictures of a spec's circuit, and sentences about those that are missing."""

    circuit: str
    pictures: tuple[PictureView, ...] = ()
    missing: tuple[str, ...] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Page:
    """The whole page; the template says where each part is shown."""

    pair: str
    outcome: str
    green: bool
    conclusion: tuple[str, ...]
    next_steps: tuple[str, ...]
    reasons: tuple[str, ...]
    counts: tuple[Count, ...]
    contents: tuple[tuple[str, str], ...]
    red: tuple[ClaimView, ...]
    others: tuple[ClaimView, ...]
    lines: tuple[Line, ...]
    roles: tuple[str, ...]
    specs: tuple[SpecView, ...]
    kinds: tuple[KindPage, ...]
    notes: tuple[str, ...]
    checkpoints: tuple[tuple[str, CheckpointEntry], ...]
    facts: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...] = ()
    not_run: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    history: tuple[Any, ...] = field(default=())


def page_of(
    report: RunReport, versions: Mapping[str, str], specs: Sequence[SpecView], made: str
) -> Page:
    """The page of a run.

    Args:
        report: of the run.
        versions: library -> version.
        specs: the pictures of its specs.
        made: when the page was written.
    """
    judged = [result for result in report.claims if result.verdict != "skipped"]
    kinds = list(dict.fromkeys(result.kind for result in judged))
    anchors = {result.id: f"claim-{i}" for i, result in enumerate(judged, start=1)}
    report = concluded(report)
    conclusion = report.conclusion or Conclusion("not_judged", ())
    rank = {nodeid: i for i, nodeid in enumerate((*conclusion.reds, *conclusion.warnings))}
    red = sorted(
        (result for result in judged if result.red or result.verdict == "warn"),
        key=lambda result: rank.get(result.id, len(rank)),
    )
    holding = [result for result in judged if result not in red]
    again = pair_options(report)
    views: dict[str, ClaimView] = {}
    told: set[str] = set()  # lines that a claim above has shown
    for i, result in enumerate([*red, *holding]):
        number_of_kind = kinds.index(result.kind) + 1
        view = claim_view(result, anchors[result.id], number_of_kind, i < OPEN, told, again)
        views[result.id] = view
    green = (
        not any(result.red for result in judged)
        and not report.reasons
        and not report.errors
        and report.exit_code == 0
    )
    pictured = tuple(
        SpecView(spec.circuit, spec.pictures, spec.missing, f"circuit-{i}")
        for i, spec in enumerate(specs, start=1)
        if spec.pictures or spec.missing
    )
    return Page(
        pair=pair_text(report),
        outcome="Green" if green else "Red",
        green=green,
        conclusion=conclusion.sentences,
        next_steps=conclusion.next_steps,
        reasons=(*report.errors, *report.reasons),
        counts=counts(report.claims),
        contents=contents(red, pictured, others=len(red) < len(judged)),
        red=tuple(views[result.id] for result in red),
        others=tuple(views[result.id] for result in holding),
        lines=tuple(lines(report.claims, anchors)),
        roles=tuple(dict.fromkeys(result.role for result in judged)),
        specs=pictured,
        kinds=tuple(kind_page(kind) for kind in kinds),
        notes=tuple(notes([replace(claim, located=None) for claim in report.claims], skips=False)),
        checkpoints=tuple(report.checkpoints.items()),
        facts=facts(report, versions, made),
        skipped=skipped(report.claims),
        not_run=report.not_run,
        deselected=report.deselected,
    )


def pair_text(report: RunReport) -> str:
    """The candidate and its reference model, by their labels."""
    labels = [
        report.checkpoints[role].label for role in ("ft", "base") if role in report.checkpoints
    ]
    return " against ".join(labels) or "no checkpoints"


def counts(claims: Sequence[ClaimResult]) -> tuple[Count, ...]:
    """How many claims have each verdict, without verdicts that none has."""
    found = {verdict: sum(c.verdict == verdict for c in claims) for verdict in ORDER}
    return tuple(Count(verdict, n, WORDS[verdict]) for verdict, n in found.items() if n)


def contents(
    red: Sequence[ClaimResult], specs: Sequence[SpecView], *, others: bool
) -> tuple[tuple[str, str], ...]:
    """(anchor, words) of each section."""
    entries = [("broken", "What broke")] if red else []
    entries.append(("claims", "All claims"))
    if specs:
        entries.append((specs[0].anchor, "Circuit"))
    if others:
        entries.append(("others", "Claims that hold"))
    return (*entries, ("methods", "How it is measured"), ("run", "The run"))


def lines(claims: Sequence[ClaimResult], anchors: Mapping[str, str]) -> list[Line]:
    """A line for each judged score, as the terminal's table has them."""
    suffixes = spec_suffixes(claims)
    return [
        Line(
            row.verdict,
            anchors[result.id],
            f"{result.circuit}.{result.claim}{suffixes[result.spec]}",
            (row.name or "") if len(result.rows) > 1 else "",
            result.role,
            number(row.score),
            interval_text(row.interval),
            row.threshold,
            comparison(result) if row.compared else "",
            drawing(result, row),
        )
        for result in claims
        if result.id in anchors
        for row in result.rows
    ]


def claim_view(
    result: ClaimResult,
    anchor: str,
    kind_number: int,
    is_open: bool,
    told: set[str],
    pair: str,
) -> ClaimView:
    """Everything about a claim. Lines about members that a claim above has shown are not repeated; ``told``
    takes in the new ones."""
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
    told |= {*keys.values()}
    return ClaimView(
        anchor=anchor,
        id=result.id,
        name=f"{result.circuit}.{result.claim}",
        role=result.role,
        verdict=result.verdict,
        open=is_open and result.verdict not in ("pass", "skipped"),
        short=result.reason,
        reason=result.reason,
        meaning=result.meaning or "",
        next=(f"pytest {shlex.quote(result.id)} {pair}",) if result.red else (),
        located=tuple(located),
        evidence=result.evidence,
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
        "" if score is None else details(score),
        drawing(result, row),
    )


def details(score: Score) -> str:
    """How a score was measured, in a line."""
    return (
        f"{score.metric}; {score.confidence:.0%} confidence interval ({score.method}), {score.n:,} rows in "
        f"{score.clusters:,} contexts"
    )


def interval_text(interval: tuple[float, float] | None) -> str:
    """An interval as the tables show it."""
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def skipped(claims: Sequence[ClaimResult]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Reason -> the claims that were skipped for it."""
    found: dict[str, list[str]] = {}
    for claim in claims:
        if claim.verdict == "skipped":
            found.setdefault(claim.reason, []).append(
                f"{claim.circuit}.{claim.claim} on {claim.role}"
            )
    return tuple((reason, tuple(names)) for reason, names in found.items())


def facts(report: RunReport, versions: Mapping[str, str], made: str) -> tuple[tuple[str, str], ...]:
    """Names and values about the run as a whole."""
    settings = [score.setting for claim in report.claims for score in claim.scores if score.setting]
    of = {
        "device": dict.fromkeys(setting.device for setting in settings),
        "numbers": dict.fromkeys(setting.dtype for setting in settings),
        "engine": dict.fromkeys(setting.engine for setting in settings),
    }
    done, stored = (report.measurements.get(name, 0) for name in ("done", "from_store"))
    return (
        ("page written", made),
        ("exit code", str(report.exit_code)),
        ("time of the claims", f"{sum(claim.seconds for claim in report.claims):.0f} s"),
        ("checkpoints loaded", str(report.checkpoints_loaded)),
        ("measurements", f"{done} made, {stored} from the store"),
        *((name, ", ".join(values)) for name, values in of.items() if values),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    )
