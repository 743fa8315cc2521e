"""The comment on a pull request, as GitHub's Markdown: one that a workflow replaces after each push."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_mechanism.report.conclusion import explaining_first
from pytest_mechanism.report.markdown import escaped, reason_lines, table
from pytest_mechanism.report.rows import only_unaccepted
from pytest_mechanism.report.run_report import Conclusion, ConclusionState, RunReport

MARKER = "<!-- pytest-mechanism"
"""How the first line of every comment begins."""

LONGEST = 65_000
"""Characters; GitHub refuses a comment of more than 65,536."""

SIGNS: dict[ConclusionState, str] = {
    "holds": "✅",
    "broken": "❌",
    "accuracy": "❌",
    "behaviour": "❌",
    "baseline": "❌",
    "undecided": "❓",
    "reference": "❓",
    "not_judged": "❓",
}


def marker(key: str = "") -> str:
    """The first line of a comment, by which a workflow finds the comment of an earlier push.

    Args:
        key: tells several gates of one pull request apart.
    """
    return f"{MARKER}: {key} -->" if key else f"{MARKER} -->"


def comment(report: RunReport, conclusion: Conclusion, key: str = "") -> str:
    """Marker, conclusion, red claims with their reasons, and the table of all claims, folded where nothing is red.

    Where it would be too long, the table is cut first, then the reasons; what is cut is named.
    """
    pair = f": {escaped(report.pair)}" if {"base", "ft"} <= set(report.checkpoints) else ""
    head = [
        marker(key),
        f"### {sign(report, conclusion)} pytest-mechanism{pair}",
        "",
        escaped(conclusion.text),
    ]
    head += [f"- {escaped(text)}" for text in incomplete(report)]
    reasons = list(reason_lines(explaining_first(report.claims)))
    summary = f"All {len(report.claims)} results" if len(report.claims) > 1 else "The result"
    folded = [f"<details><summary>{summary}</summary>", "", *table(report.claims), "", "</details>"]
    text = "\n".join([*head, "", *reasons, "", *(folded if report.claims else ())]).rstrip() + "\n"
    if len(text) <= LONGEST:
        return text
    cut = "The table of all claims is too long for a comment; the job's summary has it."
    text = "\n".join([*head, "", *reasons, "", cut]) + "\n"
    while len(text) > LONGEST and reasons:
        reasons = reasons[: len(reasons) * 3 // 4]
        kept = f"The comment shows the first {len(reasons)} red claims only. {cut}"
        text = "\n".join([*head, "", *reasons, "", kept]) + "\n"
    return text


def sign(report: RunReport, conclusion: Conclusion) -> str:
    """Green only for a run that ended well and whose claims hold; no cross where only acceptance is missing."""
    reds = [result for result in report.claims if result.id in conclusion.reds]
    if only_unaccepted(reds):
        return "❓"
    return (
        "❓" if conclusion.state == "holds" and report.exit_code != 0 else SIGNS[conclusion.state]
    )


def incomplete(report: RunReport) -> Iterator[str]:
    """Why the run is red although no claim is."""
    yield from report.reasons
    if report.not_run:
        yield f"{len(report.not_run)} selected claims never ran, the first one {report.not_run[0]}"
    if report.exit_code not in (0, 1):
        yield f"pytest ended with exit code {report.exit_code}: the run is not complete"
