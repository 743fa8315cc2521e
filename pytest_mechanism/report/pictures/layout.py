"""Where the parts of a circuit's graph lie: a lane a position, a level a step away from the answer.

Lengths are inches. What talks into a group lies one level below it, so every edge joins neighbouring
levels. In the gap between two levels, an edge first rises in its sender's own column, beside its
label, and crosses over to its reader only above all labels, on a track of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

SPINE = 0.6
"""From a column's left side to where its edge rises, at least."""

TRACK = 0.32
"""Height of one crossing."""

SPACE = 0.3
"""Between columns."""

BESIDE = 0.28
"""From an edge to its label."""

PORT = 0.4
"""Between edges that enter one node."""


@dataclass(frozen=True)
class Block:
    """A group to be placed.

    Attributes:
        lane: index of its position in the text.
        reader: who reads it; None is the answer.
        box: width and height of its node.
        label: width and height of what is written beside its edge.
    """

    lane: int
    reader: str | None
    box: tuple[float, float]
    label: tuple[float, float]


@dataclass(frozen=True)
class Place:
    """Where a group is.

    Attributes:
        left: of its node.
        bottom: of its node.
        width: of its node, at least that of its text.
        spine: x at which its edge rises.
        port: x at which its edge enters its reader.
        label: lower left corner of its label.
        crossing: y at which its edge crosses over.
        target: y at which its edge ends, the bottom of its reader.
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
    """All of it; the origin is the lower left corner of the lowest level.

    Attributes:
        places: group -> place.
        lanes: left and right side of each lane.
        answer: left side, bottom and width of the answer's node.
        width: of everything.
        height: up to the top of the answer's node.
    """

    places: Mapping[str, Place]
    lanes: Sequence[tuple[float, float]]
    answer: tuple[float, float, float]
    width: float
    height: float


def levels(blocks: Mapping[str, Block]) -> list[list[str]]:
    """Groups by their distance from the answer, the nearest first.

    Blocks come readers first, as a chain from the answer back does.
    """
    depth: dict[str, int] = {}
    for name, block in blocks.items():
        depth[name] = 0 if block.reader is None else depth[block.reader] + 1
    return [
        [name for name in blocks if depth[name] == level]
        for level in range(max(depth.values(), default=-1) + 1)
    ]


def crowd(blocks: Mapping[str, Block]) -> tuple[float, dict[str, float]]:
    """How far in edges rise, and how wide nodes must be, so that the edges into a node enter it
    side by side: left of its own edge those from lanes on the left, right of it the others."""
    spine, wide = SPINE, dict.fromkeys(blocks, 0.0)
    for name, block in blocks.items():
        lanes = [sender.lane for sender in blocks.values() if sender.reader == name]
        before = sum(lane < block.lane for lane in lanes)
        spine = max(spine, before * PORT + 0.2)
        wide[name] = (len(lanes) - before) * PORT + 0.2
    return spine, {name: spine + width for name, width in wide.items()}


def columns(
    blocks: Mapping[str, Block], lane_widths: Sequence[float], rise: float
) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """Left side of each group, and the sides of each lane. Groups of one level and lane lie side
    by side, those of other levels above each other.

    Args:
        blocks: the groups.
        lane_widths: least width of each lane (its name has to fit).
        rise: from a column's left side to where its edge rises.
    """
    left: dict[str, float] = {}
    lanes: list[tuple[float, float]] = []
    x = 0.0
    for lane, least in enumerate(lane_widths):
        end = x + SPACE + least + SPACE
        for level in levels(blocks):
            at = x + SPACE
            for name in (n for n in level if blocks[n].lane == lane):
                left[name] = at
                at += max(blocks[name].box[0], rise + BESIDE + blocks[name].label[0]) + SPACE
            end = max(end, at)
        lanes.append((x, end))
        x = end + 0.12
    return left, lanes


def arrange(
    blocks: Mapping[str, Block], lane_widths: Sequence[float], answer: tuple[float, float]
) -> Layout:
    """Place everything; ``answer`` is the size of the answer's node, which stands over the last
    lane that talks to it."""
    rise, least = crowd(blocks)
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
        for name in level:  # tops in line, so that edges begin at one height
            bottom[name] = y + tall - blocks[name].box[1]
        y += tall
        labels = max(blocks[name].label[1] for name in level) + 0.2
        # the farther an edge goes, the higher its track: edges into one reader do not cross
        going = sorted((n for n in level if abs(port[n] - spine[n]) > 0.01),
                       key=lambda n: abs(port[n] - spine[n]))  # fmt: skip
        for name in level:
            label_at[name] = y + 0.1
            track = going.index(name) if name in going else 0
            crossing[name] = y + labels + (track + 0.5) * TRACK
        y += labels + len(going) * TRACK + 0.32
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
    """Where edges enter a node whose own edge rises at ``anchor``. A sender right below goes
    straight up; no other edge enters there, since it would run into that one."""
    found = {name: anchor for name in senders if abs(spine[name] - anchor) < 0.01}
    before = sorted((n for n in senders if spine[n] < anchor - 0.01), key=lambda n: -spine[n])
    after = sorted((n for n in senders if spine[n] > anchor + 0.01), key=lambda n: spine[n])
    found |= {name: anchor - PORT * i for i, name in enumerate(before, start=1)}
    found |= {name: anchor + PORT * i for i, name in enumerate(after, start=1)}
    return found
