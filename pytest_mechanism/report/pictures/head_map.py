"""One heat map: a model's score of every head, layer 0 at the bottom as in a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pytest_mechanism.report.pictures import style
from pytest_mechanism.report.pictures.style import HEADING, SMALL, TEXT

Head = tuple[int, int]

COLOURS = "RdBu"
"""Red below 0, where the answer suffers; told apart with every kind of colour blindness."""

CHOSEN: dict[str, Any] = {"fill": False, "edgecolor": "black"}
OTHER: dict[str, Any] = {
    "fill": False, "edgecolor": "#333333", "linestyle": (0, (2.5, 1.5)), "linewidth": 1.1,
}  # fmt: skip
UNHEARD: dict[str, Any] = {
    "facecolor": "#eeeeee", "edgecolor": "#9a9a9a", "hatch": "////", "linewidth": 0,
}  # fmt: skip
"""Looks of cells: a head of the group, one of another group, one that was no possible sender."""


@dataclass(frozen=True)
class HeadMap:
    """One model's scores in one stage.

    Attributes:
        scores: [layers, heads]; NaN where a head was no possible sender.
        chosen: the heads that make up the group.
        others: heads of other groups at the same position.
    """

    scores: NDArray[np.float64]
    chosen: Collection[Head]
    others: Collection[Head] = ()

    @property
    def beside(self) -> set[Head]:
        """Heads of other groups that have a score here and are not chosen."""
        return {h for h in self.others if h not in self.chosen and not np.isnan(self.scores[h])}

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches, cells square: half an inch in a toy, less in a model."""
        layers, heads = self.scores.shape
        most = max(layers, heads)
        side = min(max(0.5 * most, 1.6), 4.2) if most <= 38 else min(0.11 * most, 9.0)
        return max(side / most * heads, 0.8), max(side / most * layers, 0.8)

    @property
    def cell(self) -> float:
        """The shorter side of a cell, in inches."""
        layers, heads = self.scores.shape
        width, height = self.size
        return float(min(width / heads, height / layers))


def draw_map(axes: Axes, picture: HeadMap, label: str, stage: str, scale: float) -> None:
    """A map with its axes, numbers and outlines.

    Args:
        axes: where, of the map's size.
        picture: what.
        label: of the model; the title.
        stage: a name for the ids of its parts.
        scale: the score at which colours end.
    """
    scores, cell = np.asarray(picture.scores, dtype=np.float64), picture.cell
    layers, heads = scores.shape
    axes.imshow(
        np.ma.masked_invalid(scores),
        cmap=COLOURS,
        norm=Normalize(-scale, scale),
        interpolation="none",  # in an SVG the image keeps one pixel a cell
        aspect="auto",
        origin="lower",
    )
    room = int((picture.size[0] + 0.3) / style.text_width("n" * 10, HEADING) * 10)
    axes.set_title(style.shorten(label, room), size=HEADING, pad=5)
    axes.set_xlabel("head", size=TEXT, labelpad=2)
    axes.set_ylabel("layer", size=TEXT, labelpad=2)
    axes.set_xticks(ticks(heads))
    axes.set_yticks(ticks(layers))
    axes.tick_params(labelsize=SMALL, length=2, width=0.5, colors=style.FAINT)
    grid(axes, layers, heads, min(1.0, 4 * cell))
    for layer in range(layers):
        for start, stop in runs(np.isnan(scores[layer])):
            axes.add_patch(
                Rectangle(
                    (start - 0.5, layer - 0.5), stop - start, 1, zorder=3, **UNHEARD,
                    gid=f"unheard-{stage}-{layer}.{start}-{stop - 1}-{label}",
                )
            )  # fmt: skip
    numbers(axes, picture, label, stage, scale)
    for layer, head in sorted(picture.chosen):
        outline(axes, (layer, head), cell, f"chosen-{stage}-{layer}.{head}-{label}")
    for layer, head in sorted(picture.beside):
        place = (head - 0.44, layer - 0.44)
        axes.add_patch(Rectangle(place, 0.88, 0.88, fill=False, edgecolor="white", zorder=4))
        gid = f"other-{stage}-{layer}.{head}-{label}"
        axes.add_patch(Rectangle(place, 0.88, 0.88, zorder=4, gid=gid, **OTHER))


def numbers(axes: Axes, picture: HeadMap, label: str, stage: str, scale: float) -> None:
    """Each score in its cell, or where cells have no room the strongest few below the map."""
    digits = style.decimals(scale)
    if picture.cell > style.text_width(style.number(-scale, digits), SMALL) + 0.04:
        for (layer, head), score in np.ndenumerate(picture.scores):
            if not math.isnan(score):
                axes.text(
                    head, layer, style.number(score, digits), size=SMALL, ha="center", va="center",
                    color="white" if abs(score) > 0.62 * scale else style.INK,
                    gid=f"score-{stage}-{layer}.{head}-{label}",
                )  # fmt: skip
        return
    for count in (4, 3, 2, 1):
        line = strongest(picture.scores, digits, count)
        if line and style.text_width(line, SMALL) <= picture.size[0] + 0.4:
            axes.annotate(
                line, (0, 0), (0, -31), xycoords="axes fraction", textcoords="offset points",
                size=SMALL, color=style.FAINT, va="top",
            )  # fmt: skip
            return


def strongest(scores: NDArray[np.float64], digits: int, count: int) -> str:
    """The most negative scores in words."""
    order = np.argsort(np.where(np.isnan(scores), np.inf, scores), axis=None, kind="stable")
    found = []
    for place in order[:count]:
        layer, head = divmod(int(place), scores.shape[1])
        if scores[layer, head] < 0:
            found.append(f"{layer}.{head} ({style.number(scores[layer, head], digits)})")
    return f"strongest: {', '.join(found)}" if found else ""


def grid(axes: Axes, layers: int, heads: int, width: float) -> None:
    """White lines between cells, as one path: an SVG of 32 layers stays small."""
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
    """A black frame, told by shape alone; inside it a white one where a cell has room for both."""
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


STEPS = sorted({a * 10**b for a in (1, 2, 4, 5) for b in range(4)} | {8, 16, 32})


def ticks(count: int) -> list[int]:
    """At most 12 of ``count`` numbers, evenly spaced from 0."""
    step = next((s for s in STEPS if math.ceil(count / s) <= 12), count)
    return list(range(0, count, step))


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of each stretch that is True."""
    found, at = [], 0
    for value, members in itertools.groupby(flags.tolist()):
        length = len(list(members))
        if value:
            found.append((at, at + length))
        at += length
    return found
