"""The section of a run in the terminal: the table, notes below it, and what makes the run red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.report.run_report import ClaimResult, Note, RunReport
from pytest_mechanism.report.table import HEADINGS, cells, judged, located_notes, spec_suffixes

RIGHT_ALIGNED = {"score"}
COLOURS = {"pass": "green"}


class TerminalSection:
    """Writes to pytest's terminal.

    Attributes:
        terminal: pytest's.
        header: lines about the checkpoints, if pytest's header did not show them.
    """

    def __init__(self, terminal: pytest.TerminalReporter, header: Sequence[str] = ()) -> None:
        self.terminal, self.header = terminal, header

    def write(self, report: RunReport) -> None:
        for error in report.errors:
            self.terminal.write_line(f"ERROR: {error}", red=True)
        if report.checkpoints and report.claims:
            self.terminal.section(f"mechanism: {report.pair}")
            for line in self.header:
                self.terminal.write_line(line)
            self.write_table(report.claims)
            # pytest itself lists the reasons of skipped tests with -rs
            lists_skips = self.terminal.hasopt("skipped")
            for note in notes(report.claims, skips=not lists_skips):
                self.terminal.write_line(note)
        for warning in report.warnings:
            self.terminal.write_line(warning)
        for reason in report.reasons:
            self.terminal.write_line(reason, red=True)

    def write_table(self, results: Sequence[ClaimResult]) -> None:
        (heading, headings), *lines = table(results)
        if lines:
            self.terminal.write_line(heading + headings, bold=True)
        for verdict, rest in lines:
            self.terminal.write(verdict, **{COLOURS.get(verdict.strip(), "red"): True})
            self.terminal.write_line(rest)


def table(results: Sequence[ClaimResult]) -> list[tuple[str, str]]:
    """The headings and the lines of the table, aligned, each as (verdict, other columns). The verdict
    comes first, since a narrow terminal breaks lines at their end."""
    rows = [HEADINGS, *cells(results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    lines = []
    for row in rows:
        padded = [
            f"{cell:>{width}}" if name in RIGHT_ALIGNED else f"{cell:<{width}}"
            for name, cell, width in zip(HEADINGS, row, widths, strict=True)
        ]
        lines.append((padded[0], "  " + "  ".join(padded[1:]).rstrip()))
    return lines


def notes(results: Sequence[ClaimResult], skips: bool = True) -> list[str]:
    """Sentences below the table: what is missing, and what to do next.

    Args:
        results: of all claims.
        skips: whether to list skipped claims.
    """
    suffixes = spec_suffixes(results)
    claims = judged(results)
    return [
        *baseline_notes(claims),
        *reference_notes(claims, suffixes),
        *located_notes(claims, suffixes),
        *(skip_notes(results, suffixes) if skips else ()),
        *dict.fromkeys(
            note_text(note, result, suffixes) for result in results for note in result.notes
        ),
        *better_notes(claims),
    ]


def baseline_notes(results: Sequence[ClaimResult]) -> list[str]:
    """How many passing scores have no baseline that they could be compared with."""
    new = [
        result
        for result in results
        if result.drift_state == "new" and result.verdict == "pass" and not result.accepted_now
    ]
    lines = []
    if none := sum(result.baseline is None for result in new):
        lines.append(
            f"{none} of {len(results)} scores pass and have no baseline yet: --snapshot-update accepts "
            "them, and later runs are compared with them"
        )
    if redefined := len(new) - none:
        lines.append(
            f"{redefined} of {len(results)} scores pass, and their baselines have another definition: "
            "no comparison until --snapshot-update accepts the new scores"
        )
    return lines


def better_notes(results: Sequence[ClaimResult]) -> list[str]:
    """How many scores have become better."""
    better = sum(result.drift_state == "better" and not result.accepted_now for result in results)
    if not better:
        return []
    return [
        f"{better} scores are better than their baselines by more than the tolerance; "
        "--snapshot-update raises the baselines"
    ]


def reference_notes(results: Sequence[ClaimResult], suffixes: Mapping[str, str]) -> list[str]:
    """Which claims are red on the reference model: on the candidate they show nothing."""
    claims: dict[str, list[str]] = {}
    for result in results:
        if result.cause is Cause.REFERENCE_FAILS and result.role == REFERENCE:
            claims.setdefault(f"{result.circuit}{suffixes[result.spec]}", []).append(result.claim)
    return [
        f"{circuit}: {', '.join(names)} {'do' if len(names) > 1 else 'does'} not hold on your base "
        "model, so the same claims on other models allow no conclusion about the candidate"
        for circuit, names in claims.items()
    ]


def skip_notes(results: Sequence[ClaimResult], suffixes: Mapping[str, str]) -> list[str]:
    """How many claims were skipped, for each reason."""
    skipped: dict[str, list[ClaimResult]] = {}
    for result in results:
        if result.verdict == "skipped":
            skipped.setdefault(result.reason, []).append(result)
    lines = []
    for reason, claims in skipped.items():
        circuits = dict.fromkeys(f"{claim.circuit}{suffixes[claim.spec]}" for claim in claims)
        lines.append(f"{len(claims)} skipped ({', '.join(circuits)}): {reason}")
    return lines


def note_text(note: Note, result: ClaimResult, suffixes: Mapping[str, str]) -> str:
    """A note; one about a circuit also names the spec if another spec has a circuit of that name."""
    if note.circuit is None:
        return note.text
    return f"{note.circuit}{suffixes[result.spec]}: {note.text}"
