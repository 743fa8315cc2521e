"""What a branch at the last position costs, by prompt length and by number of branches.

python -m benchmarks.lengths [--shape gpt2-small] [--json FILE] [--plot FILE] [--quick]

A branch computes one token however long the prompt is; only that token's attention over the
prompt's keys grows. Beside the growth stand attention's own share of it, as measured inside the
model, that of everything else, and the growth by operation count, which is less, since masks and
softmax count few operations and move much memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from benchmarks.shapes import Setting
    from pytest_mechanism.model_families.bridge import BridgeModel

LENGTHS = (20, 40, 80, 160, 320, 640)
FROM, TO = 40, 640
TARGET = 0.4
"""Growth of a branch's cost between `FROM` and `TO` tokens, at most."""


@dataclass(frozen=True)
class Point:
    """The cost at one prompt length and number of branches.

    Attributes:
        length: tokens of a prompt.
        heads: how many heads' branches were asked for together.
        seconds: CPU seconds of all of them, one entry a turn.
        operations: multiply-adds of one of them, on average.
        attention: of them in attention alone, one entry a turn.
    """

    length: int
    heads: int
    seconds: Sequence[float]
    operations: float
    attention: Sequence[float] = ()

    @property
    def each(self) -> float:
        """Milliseconds per branch."""
        return 1000 * statistics.median(self.seconds) / self.heads


def spread(count: int, of: int) -> list[int]:
    """``count`` heads, with the same mix of layers for every count."""
    return [i * of // count + of // count // 2 for i in range(count)]


class AttentionClock:
    """Context that counts the CPU seconds of attention alone inside the model: what it does between
    having all keys and values (`SharedCache`, whose own time is the engine's) and z, which is scores,
    mask, softmax and values."""

    def __init__(self, model: BridgeModel) -> None:
        self.points = [
            model.hook_points[f"blocks.{i}.attn.hook_z"] for i in range(len(model.layers))
        ]
        self.since: float | None = None
        self.seconds = 0.0

    def __enter__(self) -> Self:
        from pytest_mechanism.engine.replay import SharedCache

        self.update = update = SharedCache.update

        def timed(*given: Any, **named: Any) -> Any:
            result = update(*given, **named)
            self.since = time.process_time()
            return result

        SharedCache.update = timed  # type: ignore[method-assign]
        for point in self.points:
            point.add_hook(self.stop)
        return self

    def __exit__(self, *problem: object) -> None:
        from pytest_mechanism.engine.replay import SharedCache

        SharedCache.update = self.update  # type: ignore[method-assign]
        for point in self.points:
            point.remove_hooks()

    def stop(self, z: Any, hook: Any = None) -> None:
        if self.since is not None:  # None in layers whose z is given
            self.seconds += time.process_time() - self.since
            self.since = None


def measured(setting: Setting, lengths: Sequence[int], turns: int) -> list[Point]:
    """Each turn measures all lengths, so that other load on the machine affects all of them."""
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
        ready.append((length, contender, contender.runs()))
    seconds: dict[tuple[int, int], list[float]] = {}
    share: dict[tuple[int, int], list[float]] = {}
    for turn in range(turns + 1):  # the first is not counted
        for count in counts:
            which = spread(count, len(everything))
            for length, contender, state in ready:
                with AttentionClock(setting.wrapped) as attention:
                    spent, _ = clock.seconds(partial(contender.variants, state, which))
                if turn:
                    seconds.setdefault((length, count), []).append(spent)
                    share.setdefault((length, count), []).append(attention.seconds)
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


@dataclass(frozen=True)
class Growth:
    """What a branch of the longer prompt costs more, in shares of its cost at the shorter.

    Attributes:
        heads: how many heads' branches were asked for together.
        all: of its CPU seconds; the median of turns that measured both lengths one after the other,
            as of the next two.
        attention: of those in attention alone.
        rest: of all others.
        operations: of the operation count.
    """

    heads: int
    all: float
    attention: float
    rest: float
    operations: float

    @classmethod
    def of(cls, first: Point, last: Point) -> Growth:
        turns = list(zip(first.seconds, last.seconds, strict=True))
        alone = list(zip(first.attention, last.attention, strict=True))
        whole = [(b - a) / a for a, b in turns]
        own = [(d - c) / a for (a, _), (c, d) in zip(turns, alone, strict=True)]
        return cls(
            first.heads,
            statistics.median(whole),
            statistics.median(own),
            statistics.median(w - o for w, o in zip(whole, own, strict=True)),
            last.operations / first.operations - 1,
        )


def grown(points: Sequence[Point]) -> list[Growth]:
    """From the shortest length to the longest, for each number of branches."""
    result = []
    for count in sorted({p.heads for p in points}):
        chosen = sorted((p for p in points if p.heads == count), key=lambda p: p.length)
        result.append(Growth.of(chosen[0], chosen[-1]))
    return result


def table(points: Sequence[Point], growth: Sequence[Growth]) -> str:
    counts = sorted({p.heads for p in points})
    lines = ["tokens " + "".join(f"{f'{n} branches':>18}" for n in counts) + "   ms a branch"]
    for length in sorted({p.length for p in points}):
        row = {p.heads: p for p in points if p.length == length}
        lines.append(f"{length:6} " + "".join(f"{row[n].each:18.2f}" for n in counts))
    for name, of in (
        ("growth", [g.all for g in growth]),
        ("attention", [g.attention for g in growth]),
        ("the rest", [g.rest for g in growth]),
        ("by ops", [g.operations for g in growth]),
    ):
        lines.append(f"{name:11}" + "".join(f"{each:18.1%}" for each in of)[4:])
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
    parser.add_argument("--pairs", type=int, default=25, help="the same for the growth")
    parser.add_argument("--rows", type=int, default=4, help="prompts")
    parser.add_argument("--quick", action="store_true", help="one turn, short prompts")
    asked = parser.parse_args(given)
    lengths = LENGTHS[:3] if asked.quick else LENGTHS
    turns, pairs = (1, 1) if asked.quick else (asked.turns, asked.pairs)
    warnings.simplefilter("ignore")
    import torch

    from benchmarks import report, shapes

    torch.set_num_threads(1)
    here: dict[str, Any] = report.machine()
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    setting = shapes.make_setting(asked.shape, asked.rows, lengths[0])
    points = measured(setting, lengths, turns)
    two = lengths[:: len(lengths) - 1] if asked.quick else (FROM, TO)
    growth = grown(measured(setting, two, pairs))
    print(
        f"{asked.shape}, {asked.rows} prompts, one thread, median of {turns} turns; growth from "
        f"{two[0]} to {two[1]} tokens, in shares of the cost at {two[0]}, median of {pairs} turns"
    )
    print(table(points, growth))
    if not asked.quick:
        most = max(g.all for g in growth)
        verdict = "met" if most < TARGET else "MISSED"
        print(f"target below {TARGET:.0%} from {FROM} to {TO} tokens: {most:.0%}, {verdict}")
    if asked.json:
        each = [{**vars(p), "milliseconds_each": p.each} for p in points]
        grew = [vars(g) for g in growth]
        report.write_json(
            asked.json, {"machine": here, "shape": asked.shape, "points": each, "growth": grew}
        )
    if asked.plot:
        draw(asked.plot, points, f"{asked.shape}, {here['cpu']}, one thread, {here['date']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
