"""A circuit as a graph: the answer at the top, below it the groups, at the bottom the text.

Left to right is the order of the text, so each group stands above the token at which it works. One edge
leads up from each group to its reader, with the joint effect of the group's heads on the reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from pytest_mechanism.report.pictures import edges, style
from pytest_mechanism.report.pictures.edges import Edge
from pytest_mechanism.report.pictures.layout import SPINE, Block, Layout, arrange
from pytest_mechanism.report.pictures.style import HEADING, SMALL, TITLE, Line

Head = tuple[int, int]


@dataclass(frozen=True)
class GroupNode:
    """A group of heads.

    Attributes:
        at: the named position at which the heads work.
        reader: the group that reads their output; None for the answer.
        heads: label of a model -> the group's heads in that model.
        edge: the effect on the reader.
        others: a line for each member that is no head.
        new: whether it is a head that no group names, which does in one model what it did not do in the
            other.
    """

    at: str
    reader: str | None
    heads: Mapping[str, Sequence[Head]]
    edge: Edge
    others: tuple[str, ...] = ()
    new: bool = False


@dataclass(frozen=True)
class CircuitGraph:
    """The whole picture.

    Attributes:
        title: the heading.
        groups: name -> group, each reader before the groups that it reads.
        positions: named position -> its words in the example, in the order of the text.
        example: a prompt with marked positions.
        answer: the example's next word.
        unit: what the effects measure, and their unit.
        footnote: rows and confidence level of the numbers, and the definition of the control.
    """

    title: str
    groups: Mapping[str, GroupNode]
    positions: Mapping[str, str]
    example: str
    answer: str
    unit: str
    footnote: str


HOW_TO_READ = (
    "Each box is a group of attention heads above the token at which the heads work. Each arrow leads to "
    "the group that reads their output, through its queries (q), keys (k) or values (v). The numbers are "
    "path-patching effects: {unit} if the reader receives the group's output on another prompt instead. "
    "The wider the arrow, the larger the effect."
)
NEW_ROUTE = " A dashed box is a head that no group names, with an effect in one model and hardly any in the other."
MARGIN = 0.3
INPUT = 1.0
"""Room for the names of positions, between the lowest groups and the bottom of the lanes."""

BOX = "round,pad=0,rounding_size=0.08"


def draw(picture: CircuitGraph) -> Figure:
    """The figure; `style.save` writes it."""
    labels = list(dict.fromkeys(label for node in picture.groups.values() for label in node.heads))
    scale = edges.largest([node.edge for node in picture.groups.values()])
    texts = {name: box_lines(name, node) for name, node in picture.groups.items()}
    tables = {
        name: edges.table(node.edge, labels, scale, node.heads)
        for name, node in picture.groups.items()
    }
    order = list(picture.positions)
    blocks = {
        name: Block(order.index(node.at), node.reader, box_size(texts[name]), tables[name].size)
        for name, node in picture.groups.items()
    }
    inputs = [
        [Line(f"[{i}] {name}", bold=True), Line(style.shorten(words, 40), colour=style.FAINT)]
        for i, (name, words) in enumerate(picture.positions.items(), start=1)
    ]
    answer = [Line("answer", HEADING, bold=True, colour="white"),
              Line(f"in the example: {picture.answer}", colour="white")]  # fmt: skip
    layout = arrange(
        blocks,
        [max(style.text_width(li.text, li.size, li.bold) for li in lines) for lines in inputs],
        box_size(answer),
    )

    width = max(layout.width + 2 * MARGIN, 6.4)
    inside = width - 2 * MARGIN
    how_to_read = HOW_TO_READ.format(unit=picture.unit)
    if any(node.new for node in picture.groups.values()):
        how_to_read += NEW_ROUTE
    above = [
        *style.paragraph(picture.title, inside, TITLE, bold=True),
        *style.paragraph(how_to_read, inside, colour=style.FAINT),
    ]
    below = [
        *style.paragraph(f"Example: {picture.example}", inside),
        *style.paragraph(picture.footnote, inside, SMALL, colour=style.FAINT),
    ]
    floor = INPUT + 0.6 + style.height_of(below) + 0.2
    height = floor + layout.height + 0.5 + style.height_of(above)
    figure = style.new_figure(width, height)
    page = style.canvas(figure, (MARGIN, floor))
    style.write(page, above, 0, height - floor - 0.2)
    draw_lanes(page, picture, layout, inputs)
    for name, node in picture.groups.items():
        place = layout.places[name]
        start = place.bottom + blocks[name].box[1]
        edges.draw(page, node.edge, labels, scale, place, start, name)
        edges.write(page, tables[name], place.label, name)
        box = (place.width, blocks[name].box[1])
        draw_box(page, texts[name], (place.left, place.bottom), box, f"group-{name}", new=node.new)
    left, bottom, wide = layout.answer
    draw_box(page, answer, (left, bottom), (wide, box_size(answer)[1]), "answer", style.INK)
    nodes = picture.groups.values()
    example = style.example_of(h for node in nodes for heads in node.heads.values() for h in heads)
    edges.legend(page, [node.edge for node in nodes], labels, -INPUT - 0.35, example)
    style.write(page, below, 0, -INPUT - 0.6)
    return figure


def box_lines(name: str, node: GroupNode) -> list[Line]:
    """Name, position and heads of a group; the heads of each model only if they differ."""
    lines = [Line(style.shorten(name), HEADING, bold=True),
             Line(f"at {node.at}", colour=style.FAINT)]  # fmt: skip
    lines += [Line(line) for line in node.others]
    if node.others and not any(node.heads.values()):
        return lines
    models = [(label, style.heads_text(heads)) for label, heads in node.heads.items()]
    equal = len({tuple(text) for _, text in models}) == 1
    for label, text in models[:1] if equal else models:
        first, *rest = text
        lines.append(Line(first if equal else f"{style.shorten(label, 16)}: {first}"))
        lines += [Line(line if equal else f"    {line}") for line in rest]
    return lines


def box_size(lines: Sequence[Line]) -> tuple[float, float]:
    """Width and height of a box around lines of text."""
    width = max(style.text_width(line.text, line.size, line.bold) for line in lines)
    return max(width + 0.3, 2 * SPINE), style.height_of(lines) + 0.16


def draw_box(
    page: Axes,
    lines: Sequence[Line],
    corner: tuple[float, float],
    size: tuple[float, float],
    gid: str,
    fill: str = "white",
    *,
    new: bool = False,
) -> None:
    """A rounded box with text; dashed for a new route."""
    page.add_patch(
        FancyBboxPatch(
            corner, *size, boxstyle=BOX, facecolor=fill, edgecolor=style.INK, linewidth=1,
            zorder=4, gid=gid, linestyle=(0, (4, 2)) if new else "solid",
        )
    )  # fmt: skip
    style.write(page, lines, corner[0] + 0.15, corner[1] + size[1] - 0.09)


def draw_lanes(
    page: Axes,
    picture: CircuitGraph,
    layout: Layout,
    inputs: Sequence[Sequence[Line]],
) -> None:
    """A vertical band for each position. At its bottom stand the position's name and words, with arrows to
    the lowest groups in the band. All groups in a band work at the same token."""
    for (name, lines), (left, right) in zip(
        zip(picture.positions, inputs, strict=True), layout.lanes, strict=True
    ):
        page.add_patch(
            Rectangle((left, -INPUT), right - left, layout.height + 0.1 + INPUT,
                      facecolor="#f2f2f2", linewidth=0, zorder=0, gid=f"position-{name}")
        )  # fmt: skip
        style.write(page, lines, left + 0.3, -0.45)
        places = [layout.places[g] for g, node in picture.groups.items() if node.at == name]
        lowest = min(place.bottom for place in places)
        for place in places:
            if place.bottom - lowest < 0.01:
                x = place.left + place.width - 0.1  # right of the incoming edges
                page.annotate(
                    "", (x, place.bottom), (x, -0.4), zorder=1,
                    arrowprops={"arrowstyle": "-|>", "color": style.LINE, "linewidth": 1,
                                "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
