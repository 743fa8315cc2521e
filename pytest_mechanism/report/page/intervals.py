"""A score as a small picture: its interval against the allowed range, the control and the baseline.

Coordinates are those of an SVG whose view box is `WIDTH` by `HEIGHT`; the template draws them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_mechanism.report.run_report import ClaimResult, Row
from pytest_mechanism.types import Control, Score

WIDTH, HEIGHT, MARGIN = 240.0, 34.0, 8.0


@dataclass(frozen=True)
class Drawing:
    """What the picture of one score shows; x in units of the view box, None where there is nothing.

    Attributes:
        verdict: of the row, which gives the colour.
        value: x of the score.
        interval: x of both ends of its interval.
        allowed: x of both ends of the allowed range.
        control: x of the control.
        control_interval: x of both ends of its interval.
        baseline: x of the baseline.
        zero: x of 0, if the picture contains it.
        low: the number at the left edge.
        high: the number at the right edge.
        words: the picture in words, for readers who cannot see it.
    """

    verdict: str
    value: float
    interval: tuple[float, float]
    allowed: tuple[float, float] | None
    control: float | None
    control_interval: tuple[float, float] | None
    baseline: float | None
    zero: float | None
    low: str
    high: str
    words: str


def control_of(result: ClaimResult, row: Row) -> Control | None:
    """The control of a row's score."""
    return next((score.control for score in result.scores if score.name == row.name), None)


def details_of(result: ClaimResult, row: Row) -> Score | None:
    """The score of a row with its details."""
    return next((score for score in result.scores if score.name == row.name), None)


def drawing(result: ClaimResult, row: Row) -> Drawing | None:
    """The picture of a row; None without a score."""
    if row.score is None or row.interval is None:
        return None
    control = control_of(result, row)
    baseline = result.baseline if row.compared else None
    bounds = [bound for bound in (row.low, row.high) if bound is not None]
    numbers = [row.score, *row.interval, *bounds]
    if control is not None:
        numbers += [control.value, *(control.interval or ())]
    if baseline is not None:
        numbers.append(baseline)
    numbers = [number for number in numbers if math.isfinite(number)]
    least, most = min(numbers), max(numbers)
    room = 0.08 * (most - least) or 0.1 * abs(most) or 0.1
    least, most = least - room, most + room

    def x(number: float) -> float:
        inside = min(max(number, least), most)
        return round(MARGIN + (inside - least) / (most - least) * (WIDTH - 2 * MARGIN), 1)

    has_bounds = bool(bounds)
    return Drawing(
        row.verdict,
        x(row.score),
        (x(row.interval[0]), x(row.interval[1])),
        (
            x(least if row.low is None else row.low),
            x(most if row.high is None else row.high),
        )
        if has_bounds
        else None,
        None if control is None else x(control.value),
        None
        if control is None or control.interval is None
        else (x(control.interval[0]), x(control.interval[1])),
        None if baseline is None else x(baseline),
        x(0.0) if least <= 0 <= most else None,
        short(least),
        short(most),
        in_words(row, control, baseline),
    )


def in_words(row: Row, control: Control | None, baseline: float | None) -> str:
    """What the picture shows."""
    low, high = row.interval or (0.0, 0.0)
    parts = [f"score {number(row.score)}, interval {number(low)} to {number(high)}"]
    if row.low is not None and row.high is not None:
        parts.append(f"allowed {number(row.low)} to {number(row.high)}")
    elif row.low is not None:
        parts.append(f"allowed from {number(row.low)}")
    elif row.high is not None:
        parts.append(f"allowed up to {number(row.high)}")
    parts.append("no control" if control is None else f"control {number(control.value)}")
    parts.append("no baseline" if baseline is None else f"baseline {number(baseline)}")
    return "; ".join(parts)


def number(value: float | None) -> str:
    """A number as the tables show it."""
    return "" if value is None else f"{value:.3f}"


def short(value: float) -> str:
    """A number at the edge of a picture."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
