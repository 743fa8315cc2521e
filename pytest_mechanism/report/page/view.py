"""What the page shows, as plain data for its template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pytest_mechanism.causes import MEANING, Cause
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.next_steps import pair_options
from pytest_mechanism.report.page.claim_view import ClaimView, claim_view, interval_text
from pytest_mechanism.report.page.intervals import (
    Drawing,
    drawing,
    number,
)
from pytest_mechanism.report.page.prose import KindPage, kind_page
from pytest_mechanism.report.page.sparks import Sparks
from pytest_mechanism.report.rows import BASELINE_CAUSES, only_unaccepted
from pytest_mechanism.report.run_report import (
    RED,
    CheckpointEntry,
    ClaimResult,
    Conclusion,
    RunReport,
)
from pytest_mechanism.report.table import comparison, spec_suffixes
from pytest_mechanism.report.terminal import notes

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
OPEN = 3
"""Red claims whose details are open at first."""


@dataclass(frozen=True)
class Count:
    """How many claims have a verdict."""

    verdict: str
    number: int
    words: str


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
    spark: Any


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
    colour: str
    conclusion: tuple[str, ...]
    next_steps: tuple[str, ...]
    sure: tuple[str, ...]
    reasons: tuple[str, ...]
    counts: tuple[Count, ...]
    contents: tuple[tuple[str, str], ...]
    red: tuple[ClaimView, ...]
    others: tuple[ClaimView, ...]
    lines: tuple[Line, ...]
    has_history: bool
    roles: tuple[str, ...]
    specs: tuple[SpecView, ...]
    kinds: tuple[KindPage, ...]
    notes: tuple[str, ...]
    checkpoints: tuple[tuple[str, CheckpointEntry], ...]
    facts: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...] = ()
    not_run: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()


def page_of(
    report: RunReport,
    versions: Mapping[str, str],
    specs: Sequence[SpecView],
    made: str,
    sparks: Sparks = MappingProxyType({}),
    history_notes: Sequence[str] = (),
) -> Page:
    """The page of a run.

    Args:
        report: of the run.
        versions: library -> version.
        specs: the pictures of its specs.
        made: when the page was written.
        sparks: the last runs of each score.
        history_notes: sentences about files of the history that are left out.
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
    told: dict[str, tuple[str, str]] = {}  # what a claim above has shown
    for i, result in enumerate([*red, *holding]):
        number_of_kind = kinds.index(result.kind) + 1
        view = claim_view(result, anchors[result.id], number_of_kind, i < OPEN, told, again)
        views[result.id] = view
    outcome, colour = outcome_of(report, [result for result in judged if result.red])
    pictured = tuple(
        SpecView(spec.circuit, spec.pictures, spec.missing, f"circuit-{i}")
        for i, spec in enumerate(specs, start=1)
        if spec.pictures or spec.missing
    )
    return Page(
        pair=pair_text(report),
        outcome=outcome,
        colour=colour,
        conclusion=conclusion.sentences,
        next_steps=conclusion.next_steps,
        sure=how_sure(judged),
        reasons=(*report.errors, *report.reasons),
        counts=counts(report.claims),
        contents=contents(red, pictured, others=len(red) < len(judged)),
        red=tuple(views[result.id] for result in red),
        others=tuple(views[result.id] for result in holding),
        lines=tuple(lines(report.claims, anchors, sparks)),
        has_history=bool(sparks),
        roles=tuple(dict.fromkeys(result.role for result in judged)),
        specs=pictured,
        kinds=tuple(kind_page(kind) for kind in kinds),
        notes=(
            *history_notes,
            *notes([replace(claim, located=None) for claim in report.claims], skips=False),
        ),
        checkpoints=tuple(report.checkpoints.items()),
        facts=facts(report, versions, made),
        skipped=skipped(report.claims),
        not_run=report.not_run,
        deselected=report.deselected,
    )


def outcome_of(report: RunReport, reds: Sequence[ClaimResult]) -> tuple[str, str]:
    """What the page says first, and the verdict whose colour it has."""
    whole = not report.reasons and not report.errors and not report.not_run
    if not reds and whole and report.exit_code == 0:
        return "Green", "pass"
    if whole and only_unaccepted(reds):
        return "Not accepted yet", "warn"  # nothing broke, although the exit code is 1
    return "Red", "fail"


def pair_text(report: RunReport) -> str:
    """The candidate and its reference model, by their labels."""
    labels = [
        report.checkpoints[role].label for role in ("ft", "base") if role in report.checkpoints
    ]
    return " against ".join(labels) or "no checkpoints"


def how_sure(judged: Sequence[ClaimResult]) -> tuple[str, ...]:
    """What the verdicts of a run are worth, a sentence for each kind of verdict."""
    levels = {score.confidence for result in judged for score in result.scores}
    level = f"{min(levels):.0%} confidence interval" if levels else "confidence interval"
    reds = [result for result in judged if result.red]
    refuted = sum(result.cause is Cause.REFUTED for result in reds)
    sentences = []
    if refuted:
        sentences.append(
            f"{claims_are(refuted)} refuted: the whole {level}, the numbers in brackets, lies outside what the "
            "claim allows, so other prompts of the same task would very likely say the same."
        )
    doubtful = [r for r in reds if r.verdict == "inconclusive" and r.cause is not Cause.REFUTED]
    if doubt := len(doubtful):
        sentences.append(
            f"{claims_are(doubt)} inconclusive: neither shown nor refuted, for the reason that each gives."
        )
    if compared := sum(result.cause in BASELINE_CAUSES for result in reds):
        sentences.append(
            f"{claims_are(compared)} red only because of the accepted scores: behind them, moved away from them, or "
            "without one."
        )
    told = {Cause.REFUTED, *BASELINE_CAUSES}
    others = Counter(r.cause for r in reds if r not in doubtful and r.cause not in told)
    for cause, number_of in others.items():
        means = MEANING.get(cause or Cause.NOT_JUDGED, "")
        sentences.append(f"{claims_are(number_of)} red because {means}.")
    if warned := sum(result.verdict == "warn" for result in judged):
        sentences.append(
            f"{claims_are(warned)} not shown to hold and only {'warns' if warned == 1 else 'warn'} (severity: warn)."
        )
    if not sentences and judged:
        sentences.append(f"Every {level} lies inside what its claim allows.")
    return tuple(sentences)


def claims_are(count: int) -> str:
    """``1 claim is``."""
    return "1 claim is" if count == 1 else f"{count} claims are"


def counts(claims: Sequence[ClaimResult]) -> tuple[Count, ...]:
    """How many claims have each verdict, without verdicts that none has."""
    found = {verdict: sum(c.verdict == verdict for c in claims) for verdict in ORDER}
    return tuple(Count(verdict, n, WORDS[verdict]) for verdict, n in found.items() if n)


def contents(
    red: Sequence[ClaimResult], specs: Sequence[SpecView], *, others: bool
) -> tuple[tuple[str, str], ...]:
    """(anchor, words) of each section."""
    broke = any(result.verdict == "fail" for result in red)
    entries = [("broken", "What broke" if broke else "What is not shown to hold")] if red else []
    entries.append(("claims", "All claims"))
    if specs:
        entries.append((specs[0].anchor, "Pictures"))
    if others:
        entries.append(("others", "Claims that hold"))
    return (*entries, ("methods", "How it is measured"), ("run", "The run"))


def lines(claims: Sequence[ClaimResult], anchors: Mapping[str, str], sparks: Sparks) -> list[Line]:
    """A line for each judged score, as the terminal's table has them."""
    suffixes = spec_suffixes(claims)
    return [
        Line(
            "warn" if result.verdict == "warn" and row.verdict in RED else row.verdict,
            anchors[result.id],
            f"{result.circuit}.{result.claim}{suffixes[result.spec]}",
            (row.name or "") if len(result.rows) > 1 else "",
            result.role,
            number(row.score),
            interval_text(row.interval),
            row.threshold,
            comparison(result) if row.compared else "",
            drawing(result, row),
            sparks.get((result.id, row.name or "")),
        )
        for result in claims
        if result.id in anchors
        for row in result.rows
    ]


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
