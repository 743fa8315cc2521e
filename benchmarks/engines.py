"""The branch engine beside its peers, in one process: CPU time as ratios, memory, equal numbers.

python -m benchmarks.engines [--shapes gpt2-small,llama-gqa,embedded] [--only MEASURE,...]
                             [--json FILE] [--plot FILE] [--quick]

Ends with 1 if a contender's numbers differ from the reference engine's.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.clock import Measure

MEMORY = "memory"


@dataclass(frozen=True)
class Plan:
    """One measure.

    Attributes:
        make: the measure from ``setting`` and ``every``.
        every: slow contenders are timed on one variant in so many.
    """

    make: Callable[..., Measure]
    every: int


def plans() -> dict[str, Plan]:
    from benchmarks import stages, sweeps

    return {
        "sweep-last": Plan(partial(sweeps.sweep, everywhere=False), 36),
        "sweep-all": Plan(partial(sweeps.sweep, everywhere=True), 36),
        **{name: Plan(partial(stages.path, name), 30) for name in stages.PATHS},
        "dcm-step": Plan(stages.dcm_step, 4),
        "minimality": Plan(stages.minimality, 5),
    }


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--shapes", default="gpt2-small,llama-gqa,embedded", help="or tiny")
    parser.add_argument("--only", default="", help="measures, by default all; memory is one")
    parser.add_argument("--json", type=Path, help="write results")
    parser.add_argument("--plot", type=Path, help="write a picture, .svg or .png")
    parser.add_argument("--turns", type=int, default=5, help="timings of which the median counts")
    parser.add_argument("--rows", type=int, default=16, help="prompt pairs")
    parser.add_argument("--length", type=int, default=40, help="tokens of a prompt")
    parser.add_argument("--quick", action="store_true", help="one turn on 2 pairs: does it work?")
    asked = parser.parse_args(given)
    if asked.quick:
        asked.turns, asked.rows = 1, 2
    return asked


def main(given: Sequence[str] | None = None) -> int:
    os.environ["TQDM_DISABLE"] = "1"  # before transformer-lens: its bars would stand in the table
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    asked = arguments(given)
    warnings.simplefilter("ignore")
    import torch

    from benchmarks import clock, memory, report, shapes, sweeps

    torch.set_num_threads(1)
    wanted = plans()
    names = asked.only.split(",") if asked.only else [*wanted, MEMORY]
    for what, chosen, valid in (
        ("measure", names, [*wanted, MEMORY]),
        ("shape", asked.shapes.split(","), list(shapes.MODELS)),
    ):
        if unknown := set(chosen) - set(valid):
            print(f"unknown {what} {min(unknown)!r}; valid: {', '.join(valid)}", file=sys.stderr)
            return 2
    here = report.machine()
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    print(f"{asked.rows} pairs x {asked.length} tokens, one thread, median of {asked.turns} turns")
    if not sweeps.NNSIGHT:
        print("nnsight: not installed")
    found: list[report.Found] = []
    memories: list[dict[str, Any]] = []
    for shape in asked.shapes.split(","):
        setting = shapes.make_setting(shape, asked.rows, asked.length)
        if MEMORY in names and memory.available():
            memories += memory.table(setting) if asked.quick else memory.apart(setting)
            print(f"\n{report.memory_lines(shape, memories)}", flush=True)
        for name in (each for each in names if each != MEMORY):
            plan = wanted[name]
            measure = plan.make(setting=setting, every=plan.every)
            found.append(report.Found(shape, measure, clock.compete(measure, asked.turns)))
            print(f"\n{found[-1].table()}", flush=True)
        del setting
        gc.collect()
    if asked.json:
        report.write_json(
            asked.json,
            {
                "machine": here,
                "rows": asked.rows,
                "length": asked.length,
                "results": [each.as_json() for each in found],
                "memory": memories,
            },
        )
    if asked.plot and found:
        report.draw_ratios(asked.plot, found, f"{here['cpu']}, one thread, {here['date']}")
    return 0 if all(each.agrees() for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
