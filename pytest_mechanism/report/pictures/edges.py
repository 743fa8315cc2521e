"""The edges of a circuit's graph: for each model an arrow as wide as its effect, with the numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Polygon
from matplotlib.path import Path

from pytest_mechanism.report.pictures import style
from pytest_mechanism.report.pictures.layout import Place
from pytest_mechanism.report.pictures.style import SMALL, TEXT

WIDEST, THINNEST = 0.13, 0.015
"""Width of arrows, in inches."""

APART = 0.07
"""The distance between the arrows of two models, in inches."""

DOTS = (0, (1, 1.2))


@dataclass(frozen=True)
class Effect:
    """The change of the answer if the readers receive a group's output on another prompt.

    Attributes:
        value: the mean over rows.
        interval: the confidence interval of the mean.
        control: the effect of random heads, or None if too few heads are left to draw them from.
    """

    value: float
    interval: tuple[float, float]
    control: float | None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Edge:
    """The way from a group to its reader.

    Attributes:
        via: through which input of the reader ("via q of reader", "directly into the logits").
        effects: label of a model -> effect; missing if the group has no heads in that model.
    """

    via: str
    effects: Mapping[str, Effect]


@dataclass(frozen=True)
class Table:
    """The numbers beside an edge.

    Attributes:
        heading: the line above them.
        rows: model, effect, interval and control; or model and words.
        columns: x at which each column begins, in inches.
        size: width and height.
        models: which model each row is about, for its colour.
    """

    heading: str
    rows: Sequence[tuple[str, ...]]
    columns: Sequence[float]
    size: tuple[float, float]
    models: Sequence[int]


def largest(edges: Sequence[Edge]) -> float:
    """The effect of the widest arrow."""
    maximum = max((abs(e.value) for edge in edges for e in edge.effects.values()), default=0.0)
    return maximum if maximum > 0 else 1.0


def table(edge: Edge, labels: Sequence[str], scale: float, only: Collection[str]) -> Table:
    """The numbers of an edge, laid out in columns; a row for each model of ``only``."""
    digits = style.decimals(scale)
    rows: list[tuple[str, ...]] = []
    models = [i for i, label in enumerate(labels) if label in only]
    for label in (labels[i] for i in models):
        effect = edge.effects.get(label)
        if effect is None:
            rows.append((style.shorten(label, 20), "no heads found"))
            continue
        low, high = (style.number(bound, digits) for bound in effect.interval)
        control = "" if effect.control is None else style.number(effect.control, digits)
        rows.append(
            (
                style.shorten(label, 20),
                style.number(effect.value, digits),
                f"[{low}, {high}]",
                f"control {control or 'none'}",
            )
        )
    columns, x = [0.0], 0.0
    for i in range(3):
        # words in place of numbers may extend over the later columns
        cells = [row[i] for row in rows if i == 0 or len(row) == 4]
        x += max((style.text_width(cell, TEXT, i < 2) for cell in cells), default=0.0) + 0.12
        columns.append(x)
    ends = [columns[len(row) - 1] + style.text_width(row[-1], TEXT, True) for row in rows]
    width = max(*ends, style.text_width(edge.via))
    return Table(edge.via, rows, columns, (width, (len(rows) + 1) * style.line_height()), models)


def write(page: Axes, table: Table, corner: tuple[float, float], name: str) -> None:
    """Write the numbers of the edge of group ``name``; ``corner`` is their lower left corner."""
    x, y = corner[0], corner[1] + table.size[1]
    page.text(x, y, table.heading, va="top", zorder=6)
    for i, row in enumerate(table.rows):
        y -= style.line_height()
        for j, (text, column) in enumerate(zip(row, table.columns, strict=False)):
            page.text(
                x + column, y, text, va="top", zorder=6, weight="bold" if j < 2 else "normal",
                color=colour(table.models[i]) if j == 0 else style.FAINT if j == 3 else style.INK,
                gid=f"effect-{name}-{row[0]}" if j == 1 else None,
            )  # fmt: skip


def colour(model: int) -> str:
    """The colour of the model with that index."""
    return style.MODEL_COLOURS[model % len(style.MODEL_COLOURS)]


def width(effect: Effect, scale: float) -> float:
    """The width of an arrow in inches: proportional to the effect, but always visible."""
    return max(THINNEST, WIDEST * abs(effect.value) / scale)


def draw(
    page: Axes,
    edge: Edge,
    labels: Sequence[str],
    scale: float,
    place: Place,
    start: float,
    name: str,
) -> None:
    """Draw an arrow for each model, side by side: up, across to the reader, up again."""
    widths = {label: width(e, scale) for label in labels if (e := edge.effects.get(label))}
    if not widths:
        path = route(place, start, place.target, 0.0)
        page.add_patch(PathPatch(path, fill=False, edgecolor=style.LINE, linewidth=1, zorder=2))
        return
    x = -(sum(widths.values()) + APART * (len(widths) - 1)) / 2
    for label, wide in widths.items():
        offset = x + wide / 2
        x += wide + APART
        head = (max(0.09, 1.5 * wide), max(0.1, 1.2 * wide))
        tip = place.target - 0.02
        page.add_patch(
            PathPatch(
                route(place, start, tip - 0.9 * head[1], offset), fill=False, zorder=3,
                edgecolor=colour(labels.index(label)), linewidth=72 * wide, capstyle="butt",
                linestyle="solid" if edge.effects[label].significant else DOTS, gid=f"edge-{name}-{label}",
            )
        )  # fmt: skip
        at = place.port + offset
        page.add_patch(
            Polygon(
                [(at - head[0] / 2, tip - head[1]), (at + head[0] / 2, tip - head[1]), (at, tip)],
                facecolor=colour(labels.index(label)), linewidth=0, zorder=3,
            )
        )  # fmt: skip


def route(place: Place, start: float, end: float, offset: float) -> Path:
    """The path of an arrow, with round corners. ``offset`` shifts it to the side, so that the arrows of two
    models stay parallel."""
    x0, x1 = place.spine + offset, place.port + offset
    if abs(place.port - place.spine) < 0.01:
        return Path([(x0, start), (x0, end)], [Path.MOVETO, Path.LINETO])
    right = 1 if x1 > x0 else -1
    y = place.crossing - right * offset
    r = min(0.12, abs(x1 - x0) / 2)
    points = [
        (x0, start), (x0, y - r), (x0, y), (x0 + right * r, y),
        (x1 - right * r, y), (x1, y), (x1, y + r), (x1, end),
    ]  # fmt: skip
    move, line, curve = Path.MOVETO, Path.LINETO, Path.CURVE3
    return Path(points, [move, line, curve, curve, line, curve, curve, line])


def legend(
    page: Axes, edges: Sequence[Edge], labels: Sequence[str], y: float, example: str
) -> None:
    """Explain the colours of models, dotted arrows and the names of heads."""
    x = 0.0
    entries: list[tuple[str, str, str | tuple[int, tuple[float, float]]]] = [
        (label, colour(i), "solid") for i, label in enumerate(labels)
    ]
    if any(not e.significant for edge in edges for e in edge.effects.values()):
        entries.append(("dotted: the confidence interval includes 0", style.INK, DOTS))
    for text, ink, line in entries:
        page.plot([x, x + 0.4], [y, y], color=ink, linewidth=5, linestyle=line,
                  solid_capstyle="butt")  # fmt: skip
        page.text(x + 0.5, y, text, va="center")
        x += 0.5 + style.text_width(text) + 0.4
    if example:
        page.text(x, y, example, va="center", size=SMALL, color=style.FAINT)
