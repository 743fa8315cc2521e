"""Each score over the runs of a history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_mechanism.report.history.folder import PastRun
from pytest_mechanism.report.run_report import RED, ClaimResult, Row


@dataclass(frozen=True)
class Point:
    """A score in one run.

    Attributes:
        run: the run.
        row: score, interval, threshold and verdict; None where the claim was not judged by a score.
        result: the claim's result.
        redefined: whether the definition differs from that of the point before, so that the two scores
            measure different things.
    """

    run: PastRun
    row: Row | None
    result: ClaimResult
    redefined: bool

    @property
    def verdict(self) -> str:
        """On this score, or on the claim where it has none."""
        return self.result.verdict if self.row is None else self.row.verdict

    @property
    def red(self) -> bool:
        return self.verdict in RED


@dataclass(frozen=True)
class Timeline:
    """A score over the runs, the oldest first.

    Attributes:
        id: of the claim on its role.
        score: name of the score, or empty.
        points: of each run that had the claim.
        missing: in how many later runs the claim has no result, although it had one before.
    """

    id: str
    score: str
    points: tuple[Point, ...]
    missing: int


def timelines(runs: Sequence[PastRun]) -> list[Timeline]:
    """A timeline for each score of each claim, in the order of the newest run that has it."""
    keys: dict[tuple[str, str], None] = {}
    for run in reversed(runs):
        for result in run.report.claims:
            for row in result.rows or (None,):
                keys.setdefault((result.id, score_name(row)))
    return [timeline(runs, *key) for key in keys]


def timeline(runs: Sequence[PastRun], claim: str, score: str) -> Timeline:
    """The timeline of one score."""
    points: list[Point] = []
    missing = 0
    for run in runs:
        result = next((r for r in run.report.claims if r.id == claim), None)
        if result is None:
            missing += bool(points)
            continue
        same = [r for r in result.rows if score_name(r) == score]
        row = next((r for r in same if r.verdict in RED), same[0] if same else None)
        before = next((p.result.definition for p in reversed(points) if p.result.definition), None)
        changed = None not in (before, result.definition) and before != result.definition
        points.append(Point(run, row, result, changed))
    return Timeline(claim, score, tuple(points), missing)


def score_name(row: Row | None) -> str:
    return "" if row is None or row.name is None else row.name


def lines(runs: Sequence[PastRun]) -> Iterator[str]:
    """The history as text, at most 80 columns but for long names."""
    for run in runs:
        conclusion = run.report.conclusion
        yield f"{run.title}: {conclusion.state if conclusion else 'no conclusion'}"
    for line in timelines(runs):
        yield ""
        yield f"{line.id}{f'  ({line.score})' if line.score else ''}"
        for point in line.points:
            yield f"  {point_text(point)}"
        if line.missing:
            yield f"  no result in {line.missing} later {'run' if line.missing == 1 else 'runs'}"


def point_text(point: Point) -> str:
    """A run, its score, interval, baseline and verdict."""
    row = point.row
    parts = [point.run.title]
    if row is not None and row.score is not None:
        parts.append(f"{row.score:.3f}")
        if row.interval is not None:
            parts.append(f"[{row.interval[0]:.3f}, {row.interval[1]:.3f}]")
        if row.compared and point.result.baseline is not None:
            parts.append(f"baseline {point.result.baseline:.3f}")
    parts.append(point.verdict)
    if point.result.verdict != point.verdict:
        parts.append(f"(the claim: {point.result.verdict})")
    if point.redefined:
        parts.append("(definition changed: not comparable with the runs before)")
    return "  ".join(parts)
