"""A badge of a run: an SVG with the number of claims that hold, or why there is no such number."""

from __future__ import annotations

import html

from pytest_mechanism.report.rows import only_unaccepted
from pytest_mechanism.report.run_report import JUDGED, Conclusion, RunReport

GREEN, RED, AMBER, GREY = "#2e7d32", "#c62828", "#a15c00", "#616161"
"""White text on these has a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""

WIDTH = 6.6
"""Pixels of a character of 11 px Verdana, on average; ``textLength`` fits the text to the badge."""

PADDING = 10

MARK = "<!-- pytest-mechanism -->"
"""Tells a badge from another SVG, in its first bytes."""


def badge(report: RunReport, conclusion: Conclusion, label: str = "mechanism") -> str:
    """The SVG."""
    message, colour = judgement(report, conclusion)
    left, right = (round(len(text) * WIDTH + 2 * PADDING) for text in (label, message))
    label, message = html.escape(label), html.escape(message)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{label}: {message}">
<title>{label}: {message}</title>{MARK}
<clipPath id="r"><rect width="{left + right}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#444"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>
<g fill="#fff" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" font-size="11">
<text x="{PADDING}" y="14" textLength="{left - 2 * PADDING}">{label}</text>
<text x="{left + PADDING}" y="14" textLength="{right - 2 * PADDING}">{message}</text>
</g>
</svg>
"""


def judgement(report: RunReport, conclusion: Conclusion) -> tuple[str, str]:
    """Words and colour: green only if the run ended well, every claim that blocks holds, and options left out none that
    may judge the candidate."""
    judged = [result for result in report.claims if result.verdict in JUDGED]
    holding = sum(result.verdict == "pass" for result in judged)
    states = {
        "undecided": ("undecided", AMBER),
        "reference": ("no conclusion", GREY),
        "not_judged": ("not judged", GREY),
    }
    if conclusion.state in states:
        return states[conclusion.state]
    reds = [result for result in report.claims if result.id in conclusion.reds]
    if only_unaccepted(reds):
        return "not accepted yet", AMBER
    if conclusion.state != "holds":
        total = len(judged) + sum(result.verdict == "error" for result in report.claims)
        return f"{len(conclusion.reds)} of {total} claims red", RED
    if report.exit_code != 0 or not holding:
        return "not judged", GREY
    if len(conclusion.warnings) > 0:
        return f"{holding} of {holding + len(conclusion.warnings)} claims hold", AMBER
    words = "1 claim holds" if holding == 1 else f"{holding} claims hold"
    left_out = report.deselected
    more = f", {len(left_out)} left out" if left_out else ""
    about_base = all(nodeid.endswith("::base") for nodeid in left_out)
    return f"{words}{more}", GREEN if about_base else AMBER
