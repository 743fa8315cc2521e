"""The summary page of a GitHub Actions job, as Markdown: conclusion, reasons of red claims, table."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pytest_mechanism.errors import visible
from pytest_mechanism.report.run_report import ClaimResult, Conclusion, RunReport
from pytest_mechanism.report.table import HEADINGS, cells, located_notes, spec_suffixes

SIGNS = {"pass": "✅", "warn": "⚠️"}

NUMBERS = re.compile(r"[-+0-9.,\[\] ]*")
"""A score or an interval, whose brackets are no link."""


class GithubSummary:
    """Appends the table to the file that GitHub Actions names in ``GITHUB_STEP_SUMMARY``."""

    destination = "GITHUB_STEP_SUMMARY"
    required = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, report: RunReport) -> None:
        if report.claims:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(markdown(report.claims, report.pair, report.conclusion))


def markdown(
    results: Sequence[ClaimResult], pair: str, conclusion: Conclusion | None = None
) -> str:
    """Heading, conclusion, reasons and table. Every text shows as it is: no markup, HTML or link comes of it."""
    lines = [f"### pytest-mechanism: {pair}", ""]
    if conclusion is not None:
        lines += [f"**{escaped(conclusion.text)}**", ""]
        lines += [
            line for step in conclusion.next_steps[:1] for line in ("Next:", "", *code(step), "")
        ]
    rank = {} if conclusion is None else {nodeid: i for i, nodeid in enumerate(conclusion.reds)}
    if reasons := list(reason_lines(sorted(results, key=lambda r: rank.get(r.id, len(rank))))):
        lines += [*reasons, ""]
    return "\n".join([*lines, *table(results)]) + "\n\n"


def reason_lines(results: Iterable[ClaimResult]) -> Iterator[str]:
    """A line for each claim that is red, or that warns."""
    for result in results:
        if result.red or (result.severity == "warn" and result.verdict not in ("pass", "skipped")):
            verdict = result.verdict if result.red else "warning"
            yield (
                f"- **{verdict}** {escaped(result.circuit)}.{escaped(result.claim)} on {escaped(result.role)}: "
                f"{escaped(result.reason)}"
            )


def table(results: Sequence[ClaimResult]) -> list[str]:
    """The lines of the table, and below it the heads and MLPs behind red claims."""
    lines = ["| " + " | ".join(HEADINGS) + " |"]
    lines.append("|" + "---|" * len(HEADINGS))
    for row in cells(results):
        verdict, *others = map(escaped, row)
        sign = SIGNS.get(row[0], "❌")
        lines.append("| " + " | ".join([f"{sign} {verdict}", *others]) + " |")
    if found := located_notes(results, spec_suffixes(results)):
        lines += ["", *(f"- {escaped(line)}" for line in found)]
    return lines


def code(command: str) -> list[str]:
    """A command as a block of code, which no backtick of it ends."""
    fence = "`" * (3 + command.count("`"))
    return [f"{fence}sh", visible(command), fence]


def escaped(text: str) -> str:
    """Text in a cell of GitHub's Markdown, without markup, HTML, links, mentions and emoji."""
    if NUMBERS.fullmatch(text):
        return text
    safe = html.escape(visible(text), quote=False)
    safe = re.sub(
        r"[\\`*{}\[\]|~$@#!:]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda m: f"\\{m[0]}", safe
    )
    return re.sub(r"(?i)\bwww\.", lambda m: f"{m[0][:-1]}\\.", safe)
