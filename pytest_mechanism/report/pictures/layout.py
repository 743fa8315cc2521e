"""The layout of a circuit's graph: a lane for each position, a level for each step from the answer.

Lengths are inches. A sender lies one level below its reader, so each edge joins neighbouring levels. In the
gap between two levels, an edge first rises in its sender's column, beside its label. It crosses over to its
reader above all labels, on a separate track.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

SPINE = 0.6
"""The least distance from a column's left side to its rising edge."""

TRACK = 0.32
"""The height of a track, on which one edge crosses over."""

SPACE = 0.3
"""The distance between columns."""

BESIDE = 0.28
"""The distance from an edge to its label."""

PORT = 0.4
"""The distance between edges that enter the same node."""


@dataclass(frozen=True)
class Block:
    """A group before it is placed.

    Attributes:
        lane: the index of its position in the text.
        reader: the group that reads it; None for the answer.
        box: width and height of its node.
        label: width and height of the label of its edge.
    """

    lane: int
    reader: str | None
    box: tuple[float, float]
    label: tuple[float, float]


@dataclass(frozen=True)
class Place:
    """The place of a group.

    Attributes:
        left: left side of its node.
        bottom: bottom of its node.
        width: width of its node, at least the width of its text.
        spine: x at which its edge rises.
        port: x at which its edge enters the reader.
        label: lower left corner of the edge's label.
        crossing: y at which its edge crosses over.
        target: y at which its edge ends, the bottom of the reader.
    """

    left: float
    bottom: float
    width: float
    spine: float
    port: float
    label: tuple[float, float]
    crossing: float
    target: float


@dataclass(frozen=True)
class Layout:
    """The whole layout. The origin is the lower left corner of the lowest level.

    Attributes:
        places: group -> place.
        lanes: left and right side of each lane.
        answer: left side, bottom and width of the answer's node.
        width: total width.
        height: height up to the top of the answer's node.
    """

    places: Mapping[str, Place]
    lanes: Sequence[tuple[float, float]]
    answer: tuple[float, float, float]
    width: float
    height: float


def levels(blocks: Mapping[str, Block]) -> list[list[str]]:
    """The groups of each level, the level next to the answer first. Each reader must come before its
    senders in ``blocks``."""
    depth: dict[str, int] = {}
    for name, block in blocks.items():
        depth[name] = 0 if block.reader is None else depth[block.reader] + 1
    return [
        [name for name in blocks if depth[name] == level]
        for level in range(max(depth.values(), default=-1) + 1)
    ]


def least_widths(blocks: Mapping[str, Block]) -> tuple[float, dict[str, float]]:
    """The least distance from a column's left side to its rising edge, and the least width of each node.

    They make room for incoming edges side by side: edges from lanes on the left enter left of the node's
    own edge, all others right of it.
    """
    spine, right = SPINE, dict.fromkeys(blocks, 0.0)
    for name, block in blocks.items():
        lanes = [sender.lane for sender in blocks.values() if sender.reader == name]
        before = sum(lane < block.lane for lane in lanes)
        spine = max(spine, before * PORT + 0.2)
        right[name] = (len(lanes) - before) * PORT + 0.2
    return spine, {name: spine + width for name, width in right.items()}


def columns(
    blocks: Mapping[str, Block], lane_widths: Sequence[float], rise: float
) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """The left side of each group, and both sides of each lane. In a lane, groups of the same level lie side
    by side, and groups of different levels one above the other.

    Args:
        blocks: the groups.
        lane_widths: the least width of each lane, for its name.
        rise: the distance from a column's left side to its rising edge.
    """
    left: dict[str, float] = {}
    lanes: list[tuple[float, float]] = []
    x = 0.0
    for lane, least in enumerate(lane_widths):
        end = x + SPACE + least + SPACE
        for level in levels(blocks):
            column = x + SPACE
            for name in (n for n in level if blocks[n].lane == lane):
                left[name] = column
                column += max(blocks[name].box[0], rise + BESIDE + blocks[name].label[0]) + SPACE
            end = max(end, column)
        lanes.append((x, end))
        x = end + 0.12
    return left, lanes


def arrange(
    blocks: Mapping[str, Block], lane_widths: Sequence[float], answer: tuple[float, float]
) -> Layout:
    """Place all groups, and the answer above the last lane with a group that it reads.

    Args:
        blocks: the groups.
        lane_widths: the least width of each lane.
        answer: width and height of the answer's node.
    """
    rise, least = least_widths(blocks)
    blocks = {n: replace(b, box=(max(b.box[0], least[n]), b.box[1])) for n, b in blocks.items()}
    left, lanes = columns(blocks, lane_widths, rise)
    spine = {name: left[name] + rise for name in blocks}
    roots = [name for name, block in blocks.items() if block.reader is None]
    over = max(blocks[name].lane for name in roots)
    first = min(left[name] for name in roots if blocks[name].lane == over)
    port: dict[str, float] = {}
    for reader in [None, *blocks]:
        senders = [name for name, block in blocks.items() if block.reader == reader]
        port |= ports(senders, spine, (left[reader] if reader else first) + rise)
    answer_width = max(answer[0], *(port[name] + 0.2 - first for name in roots))
    answer_left = min(first, *(port[name] - 0.2 for name in roots))

    order = levels(blocks)
    bottom: dict[str, float] = {}
    crossing: dict[str, float] = {}
    label_at: dict[str, float] = {}
    y = 0.0
    for level in reversed(order):
        tall = max(blocks[name].box[1] for name in level)
        for name in level:  # aligned at the top, so that edges begin at the same height
            bottom[name] = y + tall - blocks[name].box[1]
        y += tall
        labels = max(blocks[name].label[1] for name in level) + 0.2
        # the longer a crossing, the higher its track, so that edges into one reader do not cross
        crossers = sorted((n for n in level if abs(port[n] - spine[n]) > 0.01),
                          key=lambda n: abs(port[n] - spine[n]))  # fmt: skip
        for name in level:
            label_at[name] = y + 0.1
            track = crossers.index(name) if name in crossers else 0
            crossing[name] = y + labels + (track + 0.5) * TRACK
        y += labels + len(crossers) * TRACK + 0.32
    places = {
        name: Place(
            left=left[name],
            bottom=bottom[name],
            width=block.box[0],
            spine=spine[name],
            port=port[name],
            label=(spine[name] + BESIDE, label_at[name]),
            crossing=crossing[name],
            target=y if block.reader is None else bottom[block.reader],
        )
        for name, block in blocks.items()
    }
    return Layout(
        places,
        lanes,
        (answer_left, y, first + answer_width - answer_left),
        lanes[-1][1],
        y + answer[1],
    )


def ports(senders: Sequence[str], spine: Mapping[str, float], anchor: float) -> dict[str, float]:
    """The x at which each sender's edge enters a node whose own edge rises at ``anchor``. The edge of a sender
    right below goes straight up; no other edge enters there, since it would overlap."""
    entries = {name: anchor for name in senders if abs(spine[name] - anchor) < 0.01}
    before = sorted((n for n in senders if spine[n] < anchor - 0.01), key=lambda n: -spine[n])
    after = sorted((n for n in senders if spine[n] > anchor + 0.01), key=lambda n: spine[n])
    entries |= {name: anchor - PORT * i for i, name in enumerate(before, start=1)}
    entries |= {name: anchor + PORT * i for i, name in enumerate(after, start=1)}
    return entries
