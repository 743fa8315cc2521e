"""One heat map: the score of every head of a model, with layer 0 at the bottom.

To the right of the heads there may be columns of members that a layer has one of: its MLP, its attention output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

from pytest_mechanism.report.pictures import style
from pytest_mechanism.report.pictures.style import HEADING, SMALL, TEXT

Head = tuple[int, int]

COLOURS = "RdBu"
"""Red is below 0, where the answer becomes less likely. Safe for colour-blind readers."""

CHOSEN: dict[str, Any] = {"fill": False, "edgecolor": "black"}
OTHER: dict[str, Any] = {
    "fill": False, "edgecolor": "#333333", "linestyle": (0, (2.5, 1.5)), "linewidth": 1.1,
}  # fmt: skip
UNREACHABLE: dict[str, Any] = {
    "facecolor": "#eeeeee", "edgecolor": "#9a9a9a", "hatch": "////", "linewidth": 0,
}  # fmt: skip
ESTIMATED: dict[str, Any] = {
    "facecolor": "none", "edgecolor": "#b5b5b5", "hatch": "..", "linewidth": 0,
}  # fmt: skip
"""Styles of cells: a head of the group, a head of another group, a head that cannot be a sender, a head that
was not patched alone."""


@dataclass(frozen=True)
class HeadMap:
    """The scores of one model in one stage. A cell is (layer, column), and the column of a head is its index.

    Attributes:
        scores: [layers, heads and wholes]; NaN for a member that cannot be a sender.
        chosen: cells of the group.
        others: cells of other groups at the same position.
        estimated: cells whose score was estimated by gradients, and not measured.
        wholes: names of the columns after those of the heads.
        sign: of the score of a member that is needed: -1 where it is the answer's loss without the member.
    """

    scores: NDArray[np.float64]
    chosen: Collection[Head]
    others: Collection[Head] = ()
    estimated: Collection[Head] = ()
    wholes: tuple[str, ...] = ()
    sign: int = -1

    @property
    def colours(self) -> str:
        """The colour map: red for members that are needed."""
        return COLOURS if self.sign < 0 else f"{COLOURS}_r"

    def name(self, column: int) -> str:
        """The index of a head, or the name of a column of wholes."""
        heads = self.scores.shape[1] - len(self.wholes)
        return str(column) if column < heads else self.wholes[column - heads]

    @property
    def chosen_heads(self) -> list[Head]:
        """The cells of the group that are heads."""
        return [cell for cell in self.chosen if self.name(cell[1]) not in self.wholes]

    @property
    def measured(self) -> NDArray[np.float64]:
        """The scores, NaN also where they are estimates."""
        scores = np.array(self.scores, dtype=np.float64)
        for head in self.estimated:
            scores[head] = np.nan
        return scores

    @property
    def neighbours(self) -> set[Head]:
        """Heads of other groups that have a score and are not chosen."""
        return {h for h in self.others if h not in self.chosen and not np.isnan(self.scores[h])}

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches. Cells are square: half an inch in a toy model, smaller in a large one."""
        layers, heads = self.scores.shape
        longer = max(layers, heads)
        side = min(max(0.5 * longer, 1.6), 4.2) if longer <= 38 else min(0.11 * longer, 9.0)
        return max(side / longer * heads, 0.8), max(side / longer * layers, 0.8)

    @property
    def cell(self) -> float:
        """The shorter side of a cell, in inches."""
        layers, heads = self.scores.shape
        width, height = self.size
        return float(min(width / heads, height / layers))


def draw_map(axes: Axes, picture: HeadMap, label: str, stage: str, scale: float) -> None:
    """Draw a map with its axes, numbers and outlines.

    Args:
        axes: axes of the map's size.
        picture: the map.
        label: the model's label, which becomes the title.
        stage: the stage's name, for the ids of SVG elements.
        scale: the score at the end of the colour scale.
    """
    scores, cell = np.asarray(picture.scores, dtype=np.float64), picture.cell
    layers, heads = scores.shape
    draw_cells(axes, scores, picture.colours, scale)
    room = int((picture.size[0] + 0.3) / style.text_width("n" * 10, HEADING) * 10)
    axes.set_title(style.shorten(label, room), size=HEADING, pad=5)
    axes.set_xlabel(" or ".join(["head", *picture.wholes]), size=TEXT, labelpad=2)
    axes.set_ylabel("layer", size=TEXT, labelpad=2)
    named = [*ticks(heads - len(picture.wholes)), *range(heads - len(picture.wholes), heads)]
    axes.set_xticks(named, [picture.name(column) for column in named])
    if cell < ROOM_FOR_A_NAME:
        for column, text in zip(named, axes.get_xticklabels(), strict=True):
            text.set_rotation(90 if picture.name(column) in picture.wholes else 0)
    axes.set_yticks(ticks(layers))
    axes.tick_params(labelsize=SMALL, length=2, width=0.5, colors=style.FAINT)
    grid(axes, layers, heads, min(1.0, 4 * cell))
    unreachable = np.isnan(scores)
    estimated = np.isnan(picture.measured) & ~unreachable
    for kind, cells, style_of in (
        ("unreachable", unreachable, UNREACHABLE),
        ("estimated", estimated, ESTIMATED),
    ):
        for layer in range(layers):
            for start, stop in runs(cells[layer]):
                axes.add_patch(
                    Rectangle(
                        (start - 0.5, layer - 0.5), stop - start, 1, zorder=3, **style_of,
                        gid=f"{kind}-{stage}-{layer}.{start}-{stop - 1}-{label}",
                    )
                )  # fmt: skip
    numbers(axes, picture, label, stage, scale)
    for layer, head in sorted(picture.chosen):
        outline(axes, (layer, head), cell, f"chosen-{stage}-{layer}.{picture.name(head)}-{label}")
    for layer, head in sorted(picture.neighbours):
        place = (head - 0.44, layer - 0.44)
        axes.add_patch(Rectangle(place, 0.88, 0.88, fill=False, edgecolor="white", zorder=4))
        gid = f"other-{stage}-{layer}.{picture.name(head)}-{label}"
        axes.add_patch(Rectangle(place, 0.88, 0.88, zorder=4, gid=gid, **OTHER))


def numbers(axes: Axes, picture: HeadMap, label: str, stage: str, scale: float) -> None:
    """Write each measured score into its cell, or the strongest below the map if the cells are too small."""
    digits = style.decimals(scale)
    if picture.cell > style.text_width(style.number(-scale, digits), SMALL) + 0.04:
        for (layer, head), score in np.ndenumerate(picture.measured):
            if not math.isnan(score):
                axes.text(
                    head, layer, style.number(score, digits), size=SMALL, ha="center", va="center",
                    color="white" if abs(score) > 0.62 * scale else style.INK,
                    gid=f"score-{stage}-{layer}.{picture.name(head)}-{label}",
                )  # fmt: skip
        return
    for count in (4, 3, 2, 1):
        line = strongest(picture, digits, count)
        if line and style.text_width(line, SMALL) <= picture.size[0] + 0.4:
            axes.annotate(
                line, (0, 0), (0, -31), xycoords="axes fraction", textcoords="offset points",
                size=SMALL, color=style.FAINT, va="top",
            )  # fmt: skip
            return


def strongest(picture: HeadMap, digits: int, count: int) -> str:
    """The scores of the members that are needed most, as text."""
    scores = picture.measured
    losses = -picture.sign * scores
    order = np.argsort(np.where(np.isnan(losses), np.inf, losses), axis=None, kind="stable")
    heads = []
    for index in order[:count]:
        layer, head = divmod(int(index), scores.shape[1])
        if losses[layer, head] < 0:
            value = style.number(scores[layer, head], digits)
            name = picture.name(head)
            called = f"L{layer} {name if name in picture.wholes else f'H{name}'}"
            heads.append(f"{called} ({value})")
    return f"strongest: {', '.join(heads)}" if heads else ""


def draw_cells(axes: Axes, scores: NDArray[np.float64], colours: str, scale: float) -> None:
    """Draw the cells as vectors, which stay sharp at every size: a path for each of the 256 colours, so that the
    SVG of a large model stays small."""
    layers, heads = scores.shape
    axes.set_xlim(-0.5, heads - 0.5)
    axes.set_ylim(-0.5, layers - 0.5)
    colour_map, norm = colormaps[colours], Normalize(-scale, scale)
    by_colour: dict[tuple[float, ...], list[list[tuple[float, float]]]] = {}
    for (layer, head), score in np.ndenumerate(scores):
        if not math.isnan(score):
            left, low = head - 0.5, layer - 0.5
            square = [(left, low), (left + 1, low), (left + 1, low + 1), (left, low + 1)]
            by_colour.setdefault(colour_map(float(norm(score))), []).append(square)
    for colour, squares in by_colour.items():
        path = Path.make_compound_path(*(Path([*s, s[0]], closed=True) for s in squares))
        axes.add_patch(PathPatch(path, facecolor=colour, linewidth=0, zorder=1))


def grid(axes: Axes, layers: int, heads: int, width: float) -> None:
    """Draw white lines between cells, as one path, so that an SVG of 32 layers stays small."""
    x: list[float] = []
    y: list[float] = []
    for k in range(1, heads):
        x += [k - 0.5, k - 0.5, np.nan]
        y += [-0.5, layers - 0.5, np.nan]
    for k in range(1, layers):
        x += [-0.5, heads - 0.5, np.nan]
        y += [k - 0.5, k - 0.5, np.nan]
    axes.plot(x, y, color="white", linewidth=width, scalex=False, scaley=False)


def outline(axes: Axes, head: Head, cell: float, gid: str) -> None:
    """Draw a black frame around a cell, and a white one inside it if the cell has room for both."""
    layer, number = head
    thick = min(2.2, 1 + 3 * cell)
    frames = [(0.0, "black", thick, gid)]
    if cell > 0.25:
        frames.append((thick / 72 / cell, "white", thick / 3, f"{gid}-inner"))
    for gap, colour, line, name in frames:
        axes.add_patch(
            Rectangle(
                (number - 0.5 + gap, layer - 0.5 + gap), 1 - 2 * gap, 1 - 2 * gap, gid=name,
                linewidth=line, zorder=5, clip_on=False, **{**CHOSEN, "edgecolor": colour},
            )
        )  # fmt: skip


ROOM_FOR_A_NAME = 0.35
"""Inches of a cell from which the name of a column fits below it."""

STEPS = sorted({a * 10**b for a in (1, 2, 4, 5) for b in range(4)} | {8, 16, 32})


def ticks(count: int) -> list[int]:
    """At most 12 evenly spaced numbers from 0 to below ``count``."""
    step = next((s for s in STEPS if math.ceil(count / s) <= 12), count)
    return list(range(0, count, step))


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of each run of True."""
    ranges, start = [], 0
    for value, members in itertools.groupby(flags.tolist()):
        stop = start + len(list(members))
        if value:
            ranges.append((start, stop))
        start = stop
    return ranges
