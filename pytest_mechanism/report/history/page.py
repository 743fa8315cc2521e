"""The history as a page: one file, no network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_mechanism import __version__
from pytest_mechanism.errors import visible
from pytest_mechanism.report.history.folder import PastRun
from pytest_mechanism.report.history.timeline import Timeline, point_text, timelines
from pytest_mechanism.report.page.html_page import FOLDER, source_hash, template

STEP, TOP, BOTTOM = 16, 6, 54
"""Pixels between two runs of a picture, and where its scale begins and ends."""

STYLE = """
.spark { height: 60px; display: block; max-width: 100%; }
.spark .range { stroke: var(--faint); stroke-width: 1.5; }
.spark .value { fill: var(--link); }
.spark .value.bad { fill: var(--fail); }
.spark .baseline { stroke: var(--faint); stroke-dasharray: 3 3; }
"""


def rendered(name: str, runs: Sequence[PastRun], notes: Sequence[str]) -> str:
    """The page's HTML."""
    from markupsafe import Markup

    style = (FOLDER / "page.css").read_text("utf-8") + STYLE
    return template("history/page.html").render(
        name=visible(name),
        notes=[visible(note) for note in notes],
        runs=[run_line(run) for run in reversed(runs)],
        lines=[score_line(line, runs) for line in timelines(runs)],
        version=__version__,
        style=Markup(style),  # noqa: S704 - our own file
        style_hash=source_hash(style),
    )


def run_line(run: PastRun) -> dict[str, str]:
    """A run in the table."""
    conclusion = run.report.conclusion
    state = "not_judged" if conclusion is None else conclusion.state
    red = state in ("broken", "accuracy", "behaviour", "baseline")
    fine = state == "holds" and run.report.exit_code == 0
    checkpoint = run.report.checkpoints.get("ft")
    return {
        "when": run.finished.partition("+")[0].replace("T", " ") or run.path.name,
        "candidate": "" if checkpoint is None else checkpoint.label,
        "state": state.replace("_", " "),
        "mark": "pass" if fine else "fail" if red else "inconclusive",
        "text": "" if conclusion is None else conclusion.text,
    }


def score_line(line: Timeline, runs: Sequence[PastRun]) -> dict[str, Any]:
    """A score, its picture and its runs in words."""
    return {
        "id": line.id,
        "score": line.score,
        "missing": line.missing,
        "points": [point_text(point) for point in line.points],
        "spark": spark(line, runs),
    }


def spark(line: Timeline, runs: Sequence[PastRun]) -> dict[str, Any] | None:
    """The picture of a score over the runs; None without a number."""
    place = {id(run): i for i, run in enumerate(runs)}
    drawn = [
        (point, point.row.score, point.row.interval or (point.row.score, point.row.score))
        for point in line.points
        if point.row is not None and point.row.score is not None
    ]
    bounds = [bound for _, _, interval in drawn for bound in interval]
    if not bounds:
        return None
    low, high = min(bounds), max(bounds)
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(BOTTOM - (value - low) / span * (BOTTOM - TOP), 1)

    def x(run: PastRun) -> int:
        return STEP // 2 + STEP * place[id(run)]

    points = [
        {
            "x": x(point.run),
            "y": y(score),
            "low": y(interval[0]),
            "high": y(interval[1]),
            "red": point.red,
        }
        for point, score, interval in drawn
    ]
    return {
        "width": max(STEP * len(runs), 2 * STEP),
        "points": points,
        "breaks": [x(point.run) - STEP / 2 for point in line.points if point.redefined],
        "words": f"{len(points)} scores from {low:.3f} to {high:.3f}",
    }
