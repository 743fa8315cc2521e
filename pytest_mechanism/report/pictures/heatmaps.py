"""Path-patching scores of every head as heat maps: a block for each stage, with a map for each model.

The colour scale is centred on 0. All models and all stages share it, so that they can be compared. A stage whose
largest score is less than a quarter of the picture's has its own, so that its scores stay visible, and says so.
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
from pytest_mechanism.report.pictures.head_map import CHOSEN, ESTIMATED, OTHER, UNREACHABLE, HeadMap
from pytest_mechanism.report.pictures.style import HEADING, SMALL, TEXT, TITLE


@dataclass(frozen=True)
class StageMaps:
    """One stage of path patching: the scores of every head as a sender to the same receivers.

    Attributes:
        group: the group that the senders may belong to.
        path: the senders' position and their receivers ("at last, into q of value_fetcher").
        maps: label of a model -> its scores.
    """

    group: str
    path: str
    maps: Mapping[str, HeadMap]

    @property
    def largest(self) -> float:
        """The largest score of any model, without its sign."""
        sizes = [np.abs(m.scores[np.isfinite(m.scores)]) for m in self.maps.values()]
        maximum = max((float(values.max()) for values in sizes if values.size), default=0.0)
        return maximum if maximum > 0 else 1.0

    @property
    def colours(self) -> str:
        """The colour map, which all maps of the stage share."""
        return next(iter(self.maps.values())).colours

    @property
    def height(self) -> float:
        """The height of the tallest map."""
        return max(head_map.size[1] for head_map in self.maps.values())


@dataclass(frozen=True)
class HeadMaps:
    """The whole picture.

    Attributes:
        title: the heading.
        stages: from the answer back to the input.
        unit: what the scores measure, and their unit.
        chosen: the meaning of an outline.
        footnote: the rows behind the numbers.
        explanation: what a cell and its colours mean; path patching by default.
        missing: the meaning of a hatched cell.
    """

    title: str
    stages: Sequence[StageMaps]
    unit: str
    chosen: str
    footnote: str
    explanation: str = ""
    missing: str = "no path to the receivers"

    @property
    def scale(self) -> float:
        """The end of the colour scale that the stages share."""
        return max(stage.largest for stage in self.stages)

    def scale_of(self, stage: StageMaps) -> float:
        """The end of a stage's colour scale."""
        return stage.largest if stage.largest < WEAK * self.scale else self.scale

    @property
    def maps(self) -> list[HeadMap]:
        """The maps of all stages and models."""
        return [head_map for stage in self.stages for head_map in stage.maps.values()]


def how_to_read(picture: HeadMaps) -> str:
    """What a cell and its colours mean."""
    if picture.explanation:
        return picture.explanation
    noun, cell = "head", "Each cell is one attention head."
    if any(head_map.wholes for head_map in picture.maps):
        noun, cell = (
            "member",
            "Each cell is one attention head, or the whole MLP or attention of a layer.",
        )
    return (
        f"{cell} Path patching replaces the {noun}'s output at the named position with "
        "its output on another prompt, and only the receivers named above the map see the change. Red: the "
        f"answer becomes less likely, so the receivers need this {noun}. White: no effect. Blue: the answer becomes "
        "more likely."
    )


MARGIN = 0.3
LEFT, RIGHT, GAP, BAR, BAR_ROOM = 0.45, 0.8, 0.55, 0.14, 0.3
"""Inches left of a block's first map (for the axis label), right of its colour bar, between maps; width of
the bar, and the gap before it."""

ABOVE, BELOW = 0.86, 0.66
"""Inches above a map (for the names of stage and model) and below it (for the axis label and a line)."""

WEAK = 0.25
"""A stage whose largest score is a smaller part of the picture's largest score has its own colour scale."""

WIDE = 13.5
"""The most inches of blocks side by side."""


def draw(picture: HeadMaps) -> Figure:
    """The figure; `style.save` writes it."""
    labels = list(dict.fromkeys(label for stage in picture.stages for label in stage.maps))
    # a model has one width in all stages, so that the blocks line up
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
        *style.paragraph(how_to_read(picture), inside, colour=style.FAINT),
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
    top, number = footer + body, 0
    for row, tall in zip(rows, heights, strict=True):
        bottom = top - ABOVE - tall
        for column, stage in enumerate(row):
            number += 1
            x = MARGIN + column * block
            scale = picture.scale_of(stage)
            heading(page, stage, number, x, top, block, own_scale=scale != picture.scale)
            draw_stage(figure, stage, widths, (x + LEFT, bottom), picture.unit, scale)
        top = bottom - BELOW
    draw_legend(page, keys, footer - 0.25)
    style.write(page, below, MARGIN, footer - 0.28 * len(keys) - 0.15)
    return figure


def in_rows(stages: Sequence[StageMaps], most: int) -> list[list[StageMaps]]:
    """The stages in rows of at most ``most``, as even as possible."""
    rows = math.ceil(len(stages) / most)
    size = math.ceil(len(stages) / rows)
    return [list(stages[i : i + size]) for i in range(0, len(stages), size)]


OWN_SCALE = "own scale; "


def heading(
    page: Axes,
    stage: StageMaps,
    number: int,
    x: float,
    top: float,
    block: float,
    *,
    own_scale: bool,
) -> None:
    """Write a stage's number and name, and below them its path, after the note that its colours have a scale of
    their own."""
    note = OWN_SCALE if own_scale else ""
    name = f"{number}. {style.shorten(stage.group, 36)}"
    page.text(x, top - 0.25, name, size=HEADING, weight="bold")
    room = int((block - style.text_width(note)) / style.text_width("n" * 20) * 20)
    path = f"{note}{style.shorten(stage.path, room)}"
    page.text(x, top - 0.43, path, size=TEXT, color=style.FAINT)


def draw_stage(
    figure: Figure,
    stage: StageMaps,
    widths: Mapping[str, float],
    corner: tuple[float, float],
    unit: str,
    scale: float,
) -> None:
    """Draw a stage's maps side by side, and their colour bar, which ends at ``scale``."""
    width, height = figure.get_size_inches()
    x, y = corner
    for label, wide in widths.items():
        if label in stage.maps:
            picture = stage.maps[label]
            axes = figure.add_axes(
                (x / width, y / height, picture.size[0] / width, picture.size[1] / height)
            )
            head_map.draw_map(axes, picture, label, stage.group, scale)
        x += wide + GAP
    x += BAR_ROOM - GAP
    axes = figure.add_axes((x / width, y / height, BAR / width, stage.height / height))
    bar = figure.colorbar(ScalarMappable(Normalize(-scale, scale), stage.colours), cax=axes)
    bar.set_ticks([k / 2 * scale for k in (-2, -1, 0, 1, 2)])
    digits = style.decimals(scale)
    bar.set_ticklabels([style.number(t, digits) for t in bar.get_ticks()])
    axes.tick_params(labelsize=SMALL, length=2, width=0.5, colors=style.FAINT)
    lines = style.wrapped(unit, max(stage.height, 1.2), SMALL)
    bar.set_label("\n".join(lines), size=SMALL, labelpad=3)
    bar.outline.set_linewidth(0.4)


# -- the legend

Key = tuple[str, dict[str, Any]]
"""The meaning of a cell's style, and the style; an empty style for a line of text."""

SIDE = 0.17


def legend_rows(picture: HeadMaps, width: float) -> list[list[Key]]:
    """The entries for the styles in this picture, in rows that fit the width."""
    keys: list[Key] = [(picture.chosen, {**CHOSEN, "linewidth": 2})]
    if any(head_map.neighbours for head_map in picture.maps):
        noun = "member" if any(head_map.wholes for head_map in picture.maps) else "head"
        keys.append((f"{noun} of another group at the same position", OTHER))
    if any(np.isnan(head_map.scores).any() for head_map in picture.maps):
        keys.append((picture.missing, UNREACHABLE))
    if any(head_map.estimated for head_map in picture.maps):
        keys.append(("estimated by gradients, not patched alone", ESTIMATED))
    if example := style.example_of(h for head_map in picture.maps for h in head_map.chosen_heads):
        keys.append((example, {}))
    rows: list[list[Key]] = [[]]
    for key in keys:
        if rows[-1] and sum(key_width(k) for k in [*rows[-1], key]) > width:
            rows.append([])
        rows[-1].append(key)
    return rows


def key_width(key: Key) -> float:
    """The width of an entry with the space after it, in inches."""
    return (SIDE + 0.1 if key[1] else 0) + style.text_width(key[0]) + 0.35


def draw_legend(page: Axes, rows: Sequence[Sequence[Key]], y: float) -> None:
    """Draw the legend downwards from y."""
    for row in rows:
        x = MARGIN
        for text, cell_style in row:
            if cell_style:
                page.add_patch(Rectangle((x, y), SIDE, SIDE, **cell_style))
            page.text(x + (SIDE + 0.1 if cell_style else 0), y + SIDE / 2, text, va="center")
            x += key_width((text, cell_style))
        y -= 0.28
