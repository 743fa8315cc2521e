"""The section of a run in the terminal: the conclusion, the table, notes below it, and what makes the run red."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.report.examples import example_lines
from pytest_mechanism.report.failure import message
from pytest_mechanism.report.paragraphs import fitted
from pytest_mechanism.report.run_report import ClaimResult, Note, RunReport
from pytest_mechanism.report.table import (
    HEADINGS,
    cells,
    judged,
    located_notes,
    narrow_cells,
    spec_suffixes,
    with_circuits,
)
from pytest_mechanism.report.wording import tally

RIGHT_ALIGNED = {"score"}
COLOURS = {"pass": "green", "warn": "yellow"}

WIDE = 120
"""Columns from which on the table has all its columns. Below, it has those that fit 80, and a run with red claims
counts the passing ones instead: their blocks and the conclusion are to stay on one screen."""


class TerminalSection:
    """Writes to pytest's terminal.

    Attributes:
        terminal: pytest's.
        header: lines about the checkpoints, if pytest's header did not show them.
        width: columns of the terminal.
        verbose: whether everything is shown (``-v``).
    """

    def __init__(
        self,
        terminal: pytest.TerminalReporter,
        header: Sequence[str] = (),
        width: int = 80,
        verbose: bool = False,
    ) -> None:
        self.terminal, self.header = terminal, header
        self.width, self.verbose = width, verbose

    def write(self, report: RunReport) -> None:
        for error in report.errors:
            self.write_lines([f"ERROR: {error}"], red=True)
        if report.checkpoints and report.claims:
            self.terminal.write_sep("=", f"mechanism: {report.pair}")
            self.write_lines(self.header)
            self.write_conclusion(report)
            self.write_examples(report)
            self.write_table(report.claims)
            # pytest itself lists the reasons of skipped tests with -rs
            lists_skips = self.terminal.hasopt("skipped")
            brief = self.brief(report.claims)
            self.write_lines(notes(report.claims, skips=not lists_skips, brief=brief))
        self.write_lines(report.warnings)
        self.write_lines(report.reasons, red=True)

    def write_conclusion(self, report: RunReport) -> None:
        """The conclusion, and the next step."""
        if report.conclusion is not None:
            self.write_lines([report.conclusion.text], indent="", bold=True)
            for step in report.conclusion.next_steps[:1]:
                self.terminal.write_line(f"Next: {step}")  # unbroken, to be copied

    def write_examples(self, report: RunReport) -> None:
        """The prompts behind the red claim that explains most."""
        for nodeid in () if report.conclusion is None else report.conclusion.reds:
            found = next(r for r in with_circuits(report.claims) if r.id == nodeid)
            if found.evidence is not None and found.evidence.examples:
                first, *examples = example_lines(found.evidence)
                self.write_lines([f"{found.claim} on {found.role}, {first}", *examples])
                return

    def write_table(self, results: Sequence[ClaimResult]) -> None:
        """The table, as far as it fits."""
        if self.width < WIDE:
            self.write_narrow_table(results)
            return
        (heading, headings), *lines = table(results)
        if lines:
            self.terminal.write_line(heading + headings, bold=True)
        for verdict, rest in lines:
            self.terminal.write(verdict, **{COLOURS.get(verdict.strip(), "red"): True})
            self.terminal.write_line(rest)

    def write_narrow_table(self, results: Sequence[ClaimResult]) -> None:
        """The table for 80 columns; with red claims, whose blocks follow, only how many hold."""
        if self.brief(results):
            holding = sum(result.verdict == "pass" for result in results)
            new = sum(
                result.drift_state == "new" and not result.accepted_now
                for result in results
                if result.verdict == "pass"
            )
            others = tally(result for result in judged(results) if result.verdict != "pass")
            baselines = f"; {new} {'have' if new > 1 else 'has'} no baseline" if new else ""
            self.write_lines(
                [f"{holding} of {len(judged(results))} claims hold, {others}{baselines}; -v: all"]
            )
            return
        for verdict, rest in narrow_cells(results, self.width):
            self.terminal.write(verdict, **{COLOURS.get(verdict.strip(), "red"): True})
            self.terminal.write_line(rest)

    def brief(self, results: Sequence[ClaimResult]) -> bool:
        """Whether passing claims are counted instead of listed."""
        return self.width < WIDE and not self.verbose and any(result.red for result in results)

    def write_lines(self, lines: Iterable[str], indent: str = "  ", **markup: bool) -> None:
        for line in fitted(lines, self.width, indent):
            self.terminal.write_line(line, **markup)


def write_last_lines(terminal: pytest.TerminalReporter, report: RunReport, width: int) -> None:
    """The conclusion of a run that is not fine, and the next step."""
    if report.conclusion is None or report.conclusion.state == "holds" or not report.checkpoints:
        return
    section = TerminalSection(terminal, width=width)
    section.write_lines([f"mechanism: {report.conclusion.text}"], indent="", bold=True)
    for step in report.conclusion.next_steps[:1]:
        terminal.write_line(f"Next: {step}")


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


def notes(results: Sequence[ClaimResult], skips: bool = True, brief: bool = False) -> list[str]:
    """Sentences below the table: what is missing, and what to do next.

    Args:
        results: of all claims.
        skips: whether to list skipped claims.
        brief: whether to leave out what the conclusion and the line about passing claims say.
    """
    suffixes = spec_suffixes(results)
    claims = judged(results)
    return [
        *warning_notes(with_circuits(claims)),
        *(() if brief else baseline_notes(claims)),
        *reference_notes(claims, suffixes),
        *(() if brief else located_notes(claims, suffixes)),
        *(skip_notes(results, suffixes) if skips else ()),
        *dict.fromkeys(
            note_text(note, result, suffixes) for result in results for note in result.notes
        ),
        *(() if brief else better_notes(claims)),
    ]


def warning_notes(results: Sequence[ClaimResult]) -> list[str]:
    """The claims of severity ``warn`` that do not hold."""
    return [
        f"warning: {message(result)} (severity: warn, so not red)"
        for result in results
        if result.verdict == "warn"
    ]


def baseline_notes(results: Sequence[ClaimResult]) -> list[str]:
    """How many scores are the accepted ones, and how many have no baseline that they could be compared with."""
    new = [
        result
        for result in results
        if result.drift_state == "new" and result.verdict == "pass" and not result.accepted_now
    ]
    lines = []
    if same := sum(result.drift_state == "same" for result in results):
        lines.append(f"{same} of {len(results)} scores are the same as their baselines")
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
    scores, baselines = (
        ("1 score is better than its", "baseline")
        if better == 1
        else (f"{better} scores are better than their", "baselines")
    )
    return [
        f"{scores} {baselines} by more than the tolerance; --snapshot-update raises the {baselines}"
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
