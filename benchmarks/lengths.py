"""What a branch at the last position costs, by prompt length and by number of branches.

python -m benchmarks.lengths [--shape gpt2-small] [--json FILE] [--plot FILE] [--quick]

A branch computes one token however long the prompt is; only that token's attention over the
prompt's keys grows. Beside the growth stands attention's own share of it: by operation count, and as
measured, which is more, since masks and softmax count few operations and move much memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.shapes import Setting

LENGTHS = (20, 40, 80, 160, 320, 640)
FROM, TO = 40, 640
TARGET = 0.4
"""Growth of a branch's cost between `FROM` and `TO` tokens, at most."""


@dataclass(frozen=True)
class Point:
    """One length and number of branches.

    Attributes:
        length: tokens of a prompt.
        heads: how many heads' branches were asked for together.
        seconds: CPU seconds of all of them, one entry a turn.
        operations: multiply-adds of one of them, on average.
        attention: CPU seconds of attention alone, for all of them, one entry a turn.
    """

    length: int
    heads: int
    seconds: Sequence[float]
    operations: float
    attention: Sequence[float] = ()

    @property
    def each(self) -> float:
        """Milliseconds of a branch."""
        return 1000 * statistics.median(self.seconds) / self.heads


def spread(count: int, of: int) -> list[int]:
    """So many heads, the same mix of layers for every count."""
    return [i * of // count + of // count // 2 for i in range(count)]


def kept(setting: Setting, length: int) -> list[tuple[Any, Any]]:
    """Keys and values of every layer, as a record holds them: each layer its own, with room for the
    branches' behind the prompt's."""
    import torch

    shape, rows = setting.shape, len(setting.batch.rows)
    size = (rows, shape.n_heads, length + packed(length), shape.d_head)
    return [(torch.randn(size), torch.randn(size)) for _ in range(shape.n_layers)]


def packed(length: int) -> int:
    """Tokens a row that the engine computes side by side."""
    from pytest_mechanism.engine.branch import LEAST_ROOM, MOST_ROOM

    return max(LEAST_ROOM, min(length, MOST_ROOM))


def attention(
    setting: Setting, length: int, layers: Sequence[int], prompt: Sequence[tuple[Any, Any]]
) -> None:
    """What the branches' tokens do in attention and nowhere else: scores, mask, softmax and values
    over the prompt's keys and their own, packed as the engine packs them. A branch of z in layer l
    computes attention in the layers above l."""
    import torch

    shape, rows, room = setting.shape, len(setting.batch.rows), packed(length)
    for start in range(0, len(layers), room):
        pack = layers[start : start + room]
        for layer in range(shape.n_layers):
            width = sum(own < layer for own in pack)
            if not width:
                continue
            queries = torch.zeros(rows, shape.n_heads, width, shape.d_head)
            keys, values = (each[:, :, : length + width] for each in prompt[layer])
            scores = queries @ keys.transpose(2, 3) * shape.d_head**-0.5
            scores = scores + torch.zeros(rows, 1, width, length + width)
            torch.softmax(scores, dim=-1, dtype=torch.float32) @ values


def measured(setting: Setting, lengths: Sequence[int], turns: int) -> list[Point]:
    """Turns go through all lengths, so that what others do on the machine falls on all alike."""
    from benchmarks import clock, shapes, sweeps
    from benchmarks.operations import Cost
    from pytest_mechanism.engine.branch import BranchEngine

    shape, rows = setting.shape, len(setting.batch.rows)
    everything = shape.heads()
    counts = sorted({max(1, len(everything) // 12), len(everything) // 3, len(everything)})
    cost = Cost.of(setting)
    ready = []
    for length in lengths:
        at = replace(setting, batch=shapes.pairs(shape, rows, length))
        contender = sweeps.engine_contender("branch engine", BranchEngine, at, everywhere=False)
        ready.append((length, contender, contender.runs(), kept(setting, length)))
    seconds: dict[tuple[int, int], list[float]] = {}
    share: dict[tuple[int, int], list[float]] = {}
    for turn in range(turns + 1):  # the first is not counted
        for length, contender, state, prompt in ready:
            for count in counts:
                which = spread(count, len(everything))
                spent, _ = clock.seconds(partial(contender.variants, state, which))
                layers = [everything[i][0] for i in which]
                alone, _ = clock.seconds(partial(attention, setting, length, layers, prompt))
                if turn:
                    seconds.setdefault((length, count), []).append(spent)
                    share.setdefault((length, count), []).append(alone)
    return [
        Point(
            length,
            count,
            spent,
            statistics.mean(
                cost.last_branch(everything[i][0], length) for i in spread(count, len(everything))
            ),
            share[length, count],
        )
        for (length, count), spent in seconds.items()
    ]


def growth(points: Sequence[Point], heads: int, operations: bool) -> float:
    """From the length `FROM` (or the shortest measured) to `TO` (or the longest)."""
    chosen = sorted((p for p in points if p.heads == heads), key=lambda p: p.length)
    first = next((p for p in chosen if p.length == FROM), chosen[0])
    last = next((p for p in chosen if p.length == TO), chosen[-1])
    if operations:
        return last.operations / first.operations - 1
    return last.each / first.each - 1


def own_share(points: Sequence[Point], heads: int) -> float:
    """Growth of attention alone between the same lengths, as a share of the branch's cost at the
    first."""
    chosen = sorted((p for p in points if p.heads == heads), key=lambda p: p.length)
    first = next((p for p in chosen if p.length == FROM), chosen[0])
    last = next((p for p in chosen if p.length == TO), chosen[-1])
    more = statistics.median(last.attention) - statistics.median(first.attention)
    return more / statistics.median(first.seconds)


def table(points: Sequence[Point]) -> str:
    counts = sorted({p.heads for p in points})
    lines = ["tokens " + "".join(f"{f'{n} branches':>18}" for n in counts) + "   ms a branch"]
    for length in sorted({p.length for p in points}):
        row = {p.heads: p for p in points if p.length == length}
        lines.append(f"{length:6} " + "".join(f"{row[n].each:18.2f}" for n in counts))
    lines.append(
        "growth " + "".join(f"{growth(points, n, operations=False):18.0%}" for n in counts)
    )
    lines.append("by ops " + "".join(f"{growth(points, n, operations=True):18.0%}" for n in counts))
    lines.append(
        "attention, measured".ljust(7)
        + "".join(f"{own_share(points, n):18.0%}" for n in counts)[12:]
    )
    return "\n".join(lines)


def draw(path: Path, points: Sequence[Point], title: str) -> None:
    from benchmarks.report import figure

    made, axes = figure(7, 4)
    for count in sorted({p.heads for p in points}):
        chosen = sorted((p for p in points if p.heads == count), key=lambda p: p.length)
        axes.plot([p.length for p in chosen], [p.each for p in chosen], "o-", label=f"{count}")
    last = sorted((p for p in points if p.heads == count), key=lambda p: p.length)
    scale = last[0].each / last[0].operations
    axes.plot(
        [p.length for p in last],
        [p.operations * scale for p in last],
        "k:",
        label="operation count",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([p.length for p in last], [str(p.length) for p in last])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("CPU ms of a branch at the last position")
    axes.legend(title="branches asked for together", fontsize=8, title_fontsize=8)
    axes.set_title(title, size=9)
    made.savefig(path)


def main(given: Sequence[str] | None = None) -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths", description=__doc__)
    parser.add_argument("--shape", default="gpt2-small", help="gpt2-small, llama-gqa, tiny")
    parser.add_argument("--json", type=Path, help="write results")
    parser.add_argument("--plot", type=Path, help="write a picture, .svg or .png")
    parser.add_argument("--turns", type=int, default=5, help="timings of which the median counts")
    parser.add_argument("--rows", type=int, default=4, help="prompts")
    parser.add_argument("--quick", action="store_true", help="one turn, short prompts")
    asked = parser.parse_args(given)
    lengths = LENGTHS[:3] if asked.quick else LENGTHS
    turns = 1 if asked.quick else asked.turns
    warnings.simplefilter("ignore")
    import torch

    from benchmarks import report, shapes

    torch.set_num_threads(1)
    here: dict[str, Any] = report.machine()
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    setting = shapes.make_setting(asked.shape, asked.rows, lengths[0])
    points = measured(setting, lengths, turns)
    print(f"{asked.shape}, {asked.rows} prompts, one thread, median of {turns} turns")
    print(table(points))
    most = max(p.heads for p in points)
    grown = growth(points, most, operations=False)
    if not asked.quick:
        verdict = "met" if grown < TARGET else "MISSED"
        print(f"target below {TARGET:.0%} from {FROM} to {TO} tokens: {grown:.0%}, {verdict}")
    if asked.json:
        each = [{**vars(p), "milliseconds_each": p.each} for p in points]
        report.write_json(asked.json, {"machine": here, "shape": asked.shape, "points": each})
    if asked.plot:
        draw(asked.plot, points, f"{asked.shape}, {here['cpu']}, one thread, {here['date']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
