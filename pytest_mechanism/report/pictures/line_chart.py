"""Curves with confidence bands: a panel for each training, a colour for each model, controls dashed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pytest_mechanism.report.pictures import style
from pytest_mechanism.report.pictures.style import HEADING, SMALL, TEXT, TITLE
from pytest_mechanism.types import Chart, Line

PANEL = (4.3, 2.7)
"""Width and height of a panel's axes, in inches."""

LEFT, RIGHT, ABOVE, BELOW, MARGIN = 0.65, 0.35, 0.35, 0.6, 0.3
ACROSS = 3
"""The most panels side by side."""

COLOURS = (*style.MODEL_COLOURS, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of models (Okabe and Ito), in order of appearance."""

Dashes = str | tuple[int, tuple[int, int]]
DASHES = ("-", "--", ":", "-.")

DOTS = (0, (1, 2))
"""The line of a threshold; its label is in the legend, where no curve can cross it."""

THICK, THIN = 1.6, 0.7
"""Widths of curves and of thresholds, in points."""


def draw(chart: Chart, labels: Mapping[str, str], footnote: str) -> Figure:
    """The figure; `style.save` writes it.

    Args:
        chart: the data.
        labels: role -> label of its model.
        footnote: the rows behind the numbers.
    """
    panels = list(dict.fromkeys(line.panel for line in chart.lines)) or [""]
    columns = min(ACROSS, len(panels))
    rows = math.ceil(len(panels) / columns)
    cell = (LEFT + PANEL[0] + RIGHT, ABOVE + PANEL[1] + BELOW)
    width = max(2 * MARGIN + columns * cell[0], 6.4)
    inside = width - 2 * MARGIN
    above = [
        *style.paragraph(chart.title, inside, TITLE, bold=True),
        *style.paragraph(chart.explanation, inside, colour=style.FAINT),
    ]
    below = style.paragraph(footnote, inside, SMALL, colour=style.FAINT)
    keys = legend(chart, labels)
    footer = style.height_of(below) + 0.25 + 0.24 * math.ceil(len(keys) / columns)
    height = 0.35 + style.height_of(above) + rows * cell[1] + footer
    figure = style.new_figure(width, height)
    page = style.canvas(figure)
    style.write(page, above, MARGIN, height - 0.25)
    top = footer + rows * cell[1]
    for index, name in enumerate(panels):
        x = MARGIN + (index % columns) * cell[0] + LEFT
        y = top - (index // columns) * cell[1] - ABOVE - PANEL[1]
        axes = figure.add_axes((x / width, y / height, PANEL[0] / width, PANEL[1] / height))
        axes.set_gid(f"panel-{name}")
        panel(axes, chart, name, labels)
    y = footer - 0.1
    for i, (text, colour, dash, thickness) in enumerate(keys):
        x = MARGIN + (i % columns) * cell[0]
        at = y - 0.24 * (i // columns)
        page.plot([x, x + 0.3], [at, at], linestyle=dash, color=colour, linewidth=thickness)
        page.text(x + 0.4, at, text, va="center", size=TEXT)
    style.write(page, below, MARGIN, style.height_of(below) + 0.1)
    return figure


def line_style(chart: Chart, line: Line) -> tuple[str, str]:
    """Colour and dashes of a line."""
    models = list(dict.fromkeys(other.model for other in chart.lines))
    names = list(
        dict.fromkeys(other.name for other in chart.lines if other.control == line.control)
    )
    colour = COLOURS[models.index(line.model) % len(COLOURS)]
    dash = DASHES[(names.index(line.name) + line.control) % len(DASHES)]
    return (style.FAINT if line.control and len(models) == 1 else colour), dash


def legend(chart: Chart, labels: Mapping[str, str]) -> list[tuple[str, str, Dashes, float]]:
    """(text, colour, dashes, width) of each kind of line, the threshold last."""
    entries: dict[str, tuple[str, str, Dashes, float]] = {}
    for line in chart.lines:
        text = labels.get(line.model, line.model) + (f", {line.name}" if line.name else "")
        entries.setdefault(text, (style.shorten(text, 60), *line_style(chart, line), THICK))
    threshold = [] if chart.threshold is None else [(chart.threshold[1], style.INK, DOTS, THIN)]
    return [*entries.values(), *threshold]


def panel(axes: Axes, chart: Chart, name: str, labels: Mapping[str, str]) -> None:
    """Draw the lines of a panel, with their bands."""
    if name:
        axes.set_title(name, size=HEADING, weight="bold", loc="left")
    if chart.threshold is not None:
        value, _ = chart.threshold
        axes.axhline(value, color=style.INK, linewidth=THIN, linestyle=DOTS)
    for line in (line for line in chart.lines if line.panel == name):
        colour, dash = line_style(chart, line)
        xs = [x for x, _, _ in line.points]
        lows = [low for _, _, (low, _) in line.points]
        highs = [high for _, _, (_, high) in line.points]
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
        (drawn,) = axes.plot(
            xs, [value for _, value, _ in line.points], dash, color=colour, linewidth=1.5,
            marker="o", markersize=2.5,
        )  # fmt: skip
        drawn.set_gid(f"line-{labels.get(line.model, line.model)}-{line.name}")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(chart.x_label, size=TEXT)
    axes.set_ylabel("\n".join(style.wrapped(chart.y_label, PANEL[1], TEXT)), size=TEXT)
    axes.tick_params(labelsize=SMALL, length=2, width=0.5, colors=style.FAINT)
    if chart.ticks:
        name_ticks(axes, chart.ticks)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def name_ticks(axes: Axes, ticks: Mapping[float, str], most: int = 13) -> None:
    """Write names below the x axis; if there are too many, only every second, third, ... name."""
    step = math.ceil(len(ticks) / most)
    shown: Sequence[float] = sorted(ticks)[::step]
    axes.set_xticks(list(shown), [ticks[x] for x in shown])
