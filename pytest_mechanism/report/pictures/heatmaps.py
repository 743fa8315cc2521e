"""Path-patching scores of every head as heat maps: a block of maps a stage, a map a model.

The colour scale is centred on 0 and shared within a stage, so that models can be compared; each
stage has its own, so that a weak stage can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pytest_mechanism.report.pictures import head_map, style
from pytest_mechanism.report.pictures.head_map import CHOSEN, OTHER, UNHEARD, HeadMap
from pytest_mechanism.report.pictures.style import HEADING, SMALL, TEXT, TITLE


@dataclass(frozen=True)
class StageMaps:
    """One stage: the scores of every head on the way to the same receivers.

    Attributes:
        group: whose heads are looked for.
        path: where senders are patched and what hears it ("at last, into q of value_fetcher").
        maps: label of a model -> its scores.
    """

    group: str
    path: str
    maps: Mapping[str, HeadMap]

    @property
    def scale(self) -> float:
        """The end of the colour scale: the largest score of any model."""
        seen = [np.abs(m.scores[np.isfinite(m.scores)]) for m in self.maps.values()]
        most = max((float(values.max()) for values in seen if values.size), default=0.0)
        return most if most > 0 else 1.0

    @property
    def height(self) -> float:
        """Of its highest map."""
        return max(each.size[1] for each in self.maps.values())


@dataclass(frozen=True)
class HeadMaps:
    """The whole picture.

    Attributes:
        title: what is looked at.
        stages: from the answer back to the input.
        unit: of the scores, with what they are of.
        chosen: what an outline means.
        footnote: rows behind the numbers.
    """

    title: str
    stages: Sequence[StageMaps]
    unit: str
    chosen: str
    footnote: str

    @property
    def maps(self) -> list[HeadMap]:
        """Of every stage and model."""
        return [each for stage in self.stages for each in stage.maps.values()]


HOW_TO_READ = (
    "Each cell is one attention head. Its output at the named position is taken from another "
    "prompt, and only what the readers hear of it is passed on. Red: the answer becomes less "
    "likely, so the readers need this head. White: it makes no difference. Blue: the answer "
    "becomes more likely."
)

MARGIN = 0.3
LEFT, RIGHT, GAP, BAR, BAR_ROOM = 0.45, 0.8, 0.55, 0.14, 0.3
"""Room left of a block's first map (axis label), right of its bar, between maps, of and before the
bar."""

ABOVE, BELOW = 0.86, 0.66
"""Room over a map (its stage's name, the model's label) and under it (axis label, a line)."""

WIDE = 13.5
"""Blocks stand side by side up to this width."""


def draw(picture: HeadMaps) -> Figure:
    """The figure; style.save writes it."""
    labels = list(dict.fromkeys(label for stage in picture.stages for label in stage.maps))
    # one width a model in all stages, so that blocks are alike
    widths = {
        label: max(s.maps[label].size[0] for s in picture.stages if label in s.maps)
        for label in labels
    }
    block = LEFT + sum(widths.values()) + GAP * (len(labels) - 1) + BAR_ROOM + BAR + RIGHT
    rows = in_rows(picture.stages, max(1, int((WIDE - 2 * MARGIN) / block)))
    width = max(2 * MARGIN + len(rows[0]) * block, 6.4)
    inside = width - 2 * MARGIN
    above = [
        *style.paragraph(picture.title, inside, TITLE, bold=True),
        *style.paragraph(HOW_TO_READ, inside, colour=style.FAINT),
    ]
    below = style.paragraph(picture.footnote, inside, SMALL, colour=style.FAINT)
    keys = legend_rows(picture, inside)
    heights = [max(stage.height for stage in row) for row in rows]
    footer = 0.28 * len(keys) + 0.2 + style.height_of(below) + 0.15
    body = sum(heights) + len(rows) * (ABOVE + BELOW)
    height = 0.35 + style.height_of(above) + body + footer

    figure = style.new_figure(width, height)
    page = style.canvas(figure)
    style.write(page, above, MARGIN, height - 0.25)
    top, place = footer + body, 0
    for row, tall in zip(rows, heights, strict=True):
        bottom = top - ABOVE - tall
        for column, stage in enumerate(row):
            place += 1
            x = MARGIN + column * block
            heading(page, stage, place, x, top, block)
            draw_stage(figure, stage, widths, (x + LEFT, bottom), picture.unit)
        top = bottom - BELOW
    draw_legend(page, keys, footer - 0.25)
    style.write(page, below, MARGIN, footer - 0.28 * len(keys) - 0.15)
    return figure


def in_rows(stages: Sequence[StageMaps], most: int) -> list[list[StageMaps]]:
    """Stages in rows of at most so many, as even as may be."""
    rows = math.ceil(len(stages) / most)
    each = math.ceil(len(stages) / rows)
    return [list(stages[i : i + each]) for i in range(0, len(stages), each)]


def heading(page: Axes, stage: StageMaps, place: int, x: float, top: float, block: float) -> None:
    """A stage's number and name, and under it where it patches and who hears it."""
    name = f"{place}. {style.shorten(stage.group, 36)}"
    page.text(x, top - 0.25, name, size=HEADING, weight="bold")
    room = int(block / style.text_width("n" * 20) * 20)
    page.text(x, top - 0.43, style.shorten(stage.path, room), size=TEXT, color=style.FAINT)


def draw_stage(
    figure: Figure,
    stage: StageMaps,
    widths: Mapping[str, float],
    corner: tuple[float, float],
    unit: str,
) -> None:
    """A stage's maps side by side, and their colour bar."""
    width, height = figure.get_size_inches()
    x, y = corner
    for label, wide in widths.items():
        if label in stage.maps:
            own = stage.maps[label]
            axes = figure.add_axes(
                (x / width, y / height, own.size[0] / width, own.size[1] / height)
            )
            head_map.draw_map(axes, own, label, stage.group, stage.scale)
        x += wide + GAP
    x += BAR_ROOM - GAP
    axes = figure.add_axes((x / width, y / height, BAR / width, stage.height / height))
    bar = figure.colorbar(
        ScalarMappable(Normalize(-stage.scale, stage.scale), head_map.COLOURS), cax=axes
    )
    bar.set_ticks([k / 2 * stage.scale for k in (-2, -1, 0, 1, 2)])
    digits = style.decimals(stage.scale)
    bar.set_ticklabels([style.number(t, digits) for t in bar.get_ticks()])
    axes.tick_params(labelsize=SMALL, length=2, width=0.5, colors=style.FAINT)
    lines = style.wrapped(unit, max(stage.height, 1.2), SMALL)
    bar.set_label("\n".join(lines), size=SMALL, labelpad=3)
    bar.outline.set_linewidth(0.4)


# -- the legend

Key = tuple[str, dict[str, Any]]
"""What a cell's look means, and the look; none for mere words."""

SIDE = 0.17


def legend_rows(picture: HeadMaps, width: float) -> list[list[Key]]:
    """The looks that the picture has, in rows that fit."""
    keys: list[Key] = [(picture.chosen, {**CHOSEN, "linewidth": 2})]
    if any(each.beside for each in picture.maps):
        keys.append(("head of another group that works at the same position", OTHER))
    if any(np.isnan(each.scores).any() for each in picture.maps):
        keys.append(("cannot reach the readers", UNHEARD))
    if example := style.example_of(head for each in picture.maps for head in each.chosen):
        keys.append((example, {}))
    rows: list[list[Key]] = [[]]
    for key in keys:
        if rows[-1] and sum(key_width(k) for k in [*rows[-1], key]) > width:
            rows.append([])
        rows[-1].append(key)
    return rows


def key_width(key: Key) -> float:
    """Inches of an entry with the space behind it."""
    return (SIDE + 0.1 if key[1] else 0) + style.text_width(key[0]) + 0.35


def draw_legend(page: Axes, rows: Sequence[Sequence[Key]], y: float) -> None:
    """Downwards from y."""
    for row in rows:
        x = MARGIN
        for text, look in row:
            if look:
                page.add_patch(Rectangle((x, y), SIDE, SIDE, **look))
            page.text(x + (SIDE + 0.1 if look else 0), y + SIDE / 2, text, va="center")
            x += key_width((text, look))
        y -= 0.28
