"""The branch engine on a GPU beside its peers, and beside what the GPU could do: one call of at most five minutes.

For each shape: sweeps over all heads at the last position and at all positions, by this engine, plain hooks,
transformer-lens and nnsight (if installed), in milliseconds a head; path patching to the logits at several batch
sizes; and for the largest, the four stages of discovery (300 pairs of 54 tokens, batches as the gate would take).

Time is the clock's, with synchronisation, the median of turns after one that does not count. What the
GPU could do is measured in the same run: the rate of a large matrix product in the same dtype, and of a copy.
**ops** is the share of that product's rate: least operations of the work (`operations`), over the time.
**bytes** is the share of the copy's rate: weights of the layers and the unembedding, read once for every batch,
and each branch's prompt keys and values, over the time. A kernel's *launch* is counted by torch's profiler on
a GPU; on a CPU, each operation counts that computes something.

Every result is written to the JSON file as it comes. What no time is left for is named at the end.

python -m benchmarks.gpu [--device cuda] [--minutes 4.5] [--json FILE] [--plot FILE] [--only SHAPE,...]
python -m benchmarks.gpu --small         all of it on a CPU with a tiny shape, in less than a minute
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.limits import count_launches, limit_of

if TYPE_CHECKING:
    import torch

    from benchmarks.discovery import Device
    from benchmarks.shapes import Setting

PEERS = ("plain hooks", "plain hooks, last logits", "transformer-lens", "nnsight")
"""Contenders of a sweep that are timed beside the branch engine; the reference engine only checks numbers."""

TURNS = 3
SWEEP_ROWS = 16
DISCOVERY_ROWS = 300
LEFT = 5.0
"""Seconds that the last measurement may overdraw."""


@dataclass(frozen=True)
class Plan:
    """A shape and what is measured on it.

    Attributes:
        shape: key of `shapes.MODELS`.
        dtype: of weights and arithmetic.
        tokens: of a prompt.
        every: slow contenders are timed on one head in so many.
        batches: rows of a batch of path patching; 0 is what ``--mechanism-batch-size auto`` takes.
        discovery: rows of the four stages of discovery; 0 leaves them out.
        share: of the whole time, at most.
    """

    shape: str
    dtype: str
    tokens: int
    every: int
    batches: tuple[int, ...]
    discovery: int
    share: float


PLANS = (
    Plan("gpt2-small", "float32", 40, 12, (16, 64, 0), 0, 0.2),
    Plan("llama-7b", "bfloat16", 54, 64, (16, 64, 0), DISCOVERY_ROWS, 0.8),
    Plan("llama-1b", "bfloat16", 54, 32, (16, 64, 0), DISCOVERY_ROWS, 1.0),
)
"""In this order, since the first two are compared with earlier figures."""

SMALL = (Plan("tiny", "float32", 8, 4, (2, 0), 6, 1.0),)


@dataclass
class Budget:
    """The seconds of a call.

    Attributes:
        end: when they are over, by `time.monotonic`.
        skipped: what was left out.
    """

    end: float
    skipped: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def allows(self, name: str, seconds: float) -> bool:
        """Whether work of about so many seconds fits; what does not is noted."""
        if seconds <= self.left + LEFT and self.left > 0:
            return True
        self.skipped.append(name)
        return False


@dataclass
class Bench:
    """One run.

    Attributes:
        device: where models compute.
        budget: its time.
        json: where results are written, or None.
        found: the results so far.
        rates: dtype -> multiply-adds a second, and ``bytes``.
    """

    device: Device
    budget: Budget
    json: Path | None
    found: dict[str, Any]
    rates: dict[str, float] = field(default_factory=dict)

    def keep(self, result: dict[str, Any], line: str) -> None:
        """Note and print a result, and write all of them."""
        print(line, flush=True)
        self.found["results"].append(result)
        self.write()

    def write(self) -> None:
        from benchmarks.report import write_json

        self.found["skipped"] = self.budget.skipped
        if self.json is not None:
            write_json(self.json, self.found)

    def median(self, work: Callable[[], Any], first: float, turns: int = TURNS) -> float:
        """Seconds of work whose first turn took so long; fewer turns where the time is short."""
        seconds = [self.device.seconds(work)]
        while len(seconds) < turns and self.budget.left > 4 * first:
            seconds.append(self.device.seconds(work))
        return statistics.median(seconds)


# -- what the device can do


def measure_rates(bench: Bench, dtype: torch.dtype, name: str, size: int) -> None:
    """Multiply-adds a second of a matrix product of ``size``, and bytes a second of a copy."""
    import torch

    where = bench.device.name
    a = torch.randn(size, size, device=where).to(dtype)
    product = partial(torch.mm, a, a)
    first = bench.device.seconds(product)
    bench.rates[name] = size**3 / min(bench.device.seconds(product) for _ in range(5))
    source = torch.empty(size * size * 4, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    copy = partial(target.copy_, source)
    bench.device.seconds(copy)
    least = min(bench.device.seconds(copy) for _ in range(5))
    bench.rates["bytes"] = 2 * source.numel() / least
    rates = {"multiply_adds": bench.rates[name], "bytes": bench.rates["bytes"]}
    bench.keep(
        {"measure": "rates", "dtype": name, "size": size, "first": first, **rates},
        f"{name}: {2e-12 * bench.rates[name]:.3g} TFLOP/s in a product of {size} x {size}, "
        f"{1e-9 * bench.rates['bytes']:.3g} GB/s in a copy",
    )


# -- measures


def sweeps(bench: Bench, plan: Plan, setting: Setting) -> None:
    """Milliseconds a head of every contender, at the last position and at all."""
    from benchmarks import sweeps as contenders
    from benchmarks.clock import Timing, chosen, compare
    from benchmarks.operations import Cost

    cost = Cost.of(setting)
    for everywhere in (False, True):
        measure = contenders.sweep(setting, everywhere, plan.every)
        numbers: dict[str, dict[int, Any]] = {}
        mine = None
        wanted = [
            c for c in measure.contenders if c.name in ("branch engine", "reference engine", *PEERS)
        ]
        # the reference engine first, since the others are compared with it
        wanted.sort(key=lambda contender: contender.name != measure.reference)
        for contender in wanted:
            name = f"{plan.shape}, {measure.title}, {contender.name}"
            which = chosen(measure, contender)
            if not bench.budget.allows(name, 2.0):
                continue
            state = contender.runs()
            both = sorted({*which[:: max(1, len(which) // 8)], *chosen(measure, wanted[0])[:4]})
            values = contender.variants(state, both)  # the first turn, which loads kernels
            numbers[contender.name] = dict(zip(both, values, strict=True))
            work = partial(contender.variants, state, which)
            first = bench.device.seconds(work)
            if contender.name == "reference engine":
                del state
                continue
            seconds = bench.median(work, first) / len(which)
            mine = mine or seconds
            result = {
                "measure": measure.name,
                "shape": plan.shape,
                "dtype": plan.dtype,
                "rows": len(setting.batch.rows),
                "tokens": plan.tokens,
                "contender": contender.name,
                "timed": len(which),
                "ms_per_head": 1e3 * seconds,
                "over_branch_engine": seconds / mine,
                "runs_seconds": bench.device.seconds(contender.runs),
            }
            if contender.name == "branch engine":
                whole = seconds * measure.variants
                limit = limit_of(setting, cost, len(setting.batch.rows), everywhere)
                result |= limit.shares(bench.rates, plan.dtype, whole)
                launches, kernels = count_launches(bench.device, work)
                result |= {
                    "launches_per_head": launches / len(which),
                    "kernel_ms_per_head": 1e3 * kernels / len(which),
                }
            if (truth := numbers.get("reference engine")) is not None and truth.keys() & {*both}:
                timing = Timing(contender.name, measure.variants, len(which))
                compare(timing, numbers[contender.name], truth, measure.unpatched)
                result |= {"difference": timing.difference, "gap": timing.gap}
            more = ""
            if "operations_share" in result:
                more = (
                    f"; ops {result['operations_share']:.1%}, bytes {result['bytes_share']:.1%}, "
                    f"{result['launches_per_head']:.1f} launches a head"
                )
            bench.keep(
                result,
                f"{name}: {1e3 * seconds:.3f} ms a head, {seconds / mine:.2f}x{more}",
            )
            del state


def path_patching(bench: Bench, plan: Plan, setting: Setting) -> None:
    """Path patching to the logits, a batch of each size; with default settings, too."""
    from benchmarks.discovery import patched
    from benchmarks.operations import Cost
    from pytest_mechanism.engine.branch import BranchEngine

    cost = Cost.of(setting)
    for asked in plan.batches:
        rows = min(asked or automatic(bench, plan, setting), len(setting.batch.rows))
        name = (
            f"{plan.shape}, path patching to the logits, batch {rows}{'' if asked else ' (auto)'}"
        )
        if not bench.budget.allows(name, 4.0):
            continue
        engine = BranchEngine(setting.wrapped)
        senders = [[head] for head in setting.shape.heads()]
        work = partial(patched, setting, engine, senders, "last", (), None, rows, rows)
        first = bench.device.seconds(work)
        bench.device.memory()
        seconds = bench.median(work, first)
        launches, kernels = count_launches(bench.device, work)
        limits = {
            kind: limit_of(
                setting, cost, rows, everywhere=False, attention=kind == "with_attention"
            )
            for kind in ("frozen_attention", "with_attention")
        }
        shares = {
            kind: limit.shares(bench.rates, plan.dtype, seconds) for kind, limit in limits.items()
        }
        bench.keep(
            {
                "measure": "path-logits",
                "shape": plan.shape,
                "dtype": plan.dtype,
                "rows": rows,
                "automatic": not asked,
                "tokens": plan.tokens,
                "senders": len(senders),
                "seconds": seconds,
                "first_seconds": first,
                "memory": bench.device.memory(),
                "launches": launches,
                "kernel_seconds": kernels,
                "shares": shares,
            },
            f"{name}: {seconds:.3f} s for {len(senders)} heads (first {first:.2f} s), {launches} launches, ops "
            f"{shares['with_attention']['operations_share']:.1%} as if every layer computed all of its parts, "
            f"{shares['frozen_attention']['operations_share']:.1%} of what frozen attention needs",
        )


def discovery(bench: Bench, plan: Plan, setting: Setting) -> None:
    """The four stages, every head patched alone on all rows, in batches as the gate takes them. A stage for which no
    time is left is timed on one batch and scaled."""
    from benchmarks.discovery import RECEIVERS, patched, spread
    from benchmarks.stages import PATHS
    from pytest_mechanism.engine.branch import BranchEngine

    if not plan.discovery:
        return
    size = automatic(bench, plan, setting)
    total = 0.0
    for number, (stage, count) in enumerate(RECEIVERS.items()):
        title, at, via, depths = PATHS[stage]
        name = f"{plan.shape}, discovery {title}"
        if not bench.budget.allows(name, 5.0):
            continue
        receivers = spread(setting.shape, depths, count)
        highest = max((layer for layer, _ in receivers), default=setting.shape.n_layers)
        senders = [[head] for head in setting.shape.heads() if head[0] < highest]
        engine = BranchEngine(setting.wrapped)
        bench.device.memory()
        one = partial(patched, setting, engine, senders, at, receivers, via, size)
        rows = min(size, plan.discovery)
        first = bench.device.seconds(partial(one, rows))
        expected = first * plan.discovery / rows
        share = bench.budget.left / (len(RECEIVERS) - number)
        whole = expected <= share + LEFT
        if whole:
            seconds = bench.device.seconds(partial(one, plan.discovery))
        else:
            seconds = bench.device.seconds(partial(one, rows)) * plan.discovery / rows
        total += seconds
        bench.keep(
            {
                "measure": "discovery",
                "shape": plan.shape,
                "dtype": plan.dtype,
                "stage": stage,
                "senders": len(senders),
                "rows": plan.discovery,
                "batch": size,
                "tokens": plan.tokens,
                "seconds": seconds,
                "scaled_from_rows": None if whole else rows,
                "memory": bench.device.memory(),
            },
            f"{name}: {seconds:.1f} s for {len(senders)} heads x {plan.discovery} pairs in batches of {size}"
            f"{'' if whole else f', scaled from {rows} pairs'}",
        )
    print(f"{plan.shape}, discovery: {total:.1f} s in the stages above", flush=True)


def automatic(bench: Bench, plan: Plan, setting: Setting) -> int:
    """The rows that ``--mechanism-batch-size auto`` takes."""
    import torch

    from pytest_mechanism.checkpoints import fitting

    if not bench.device.gpu:
        return min(fitting.CPU_ROWS, 4 if plan.shape == "tiny" else fitting.CPU_ROWS)
    memory = torch.cuda.get_device_properties(bench.device.name).total_memory
    count = sum(p.numel() for p in setting.wrapped.parameters())
    left = memory - fitting.WORK * count * fitting.BYTES[plan.dtype] - fitting.LIBRARIES
    return fitting.rows_that_fit(setting.shape, left, plan.dtype)


# -- the run


def measure_shape(bench: Bench, plan: Plan) -> None:
    from benchmarks import shapes
    from pytest_mechanism.checkpoints.loading.model import DTYPES

    rows = max(plan.discovery, *plan.batches, SWEEP_ROWS if bench.device.gpu else 4)
    setting = shapes.make_placed(
        plan.shape, rows, plan.tokens, bench.device.name, DTYPES[plan.dtype]
    )
    small = SWEEP_ROWS if bench.device.gpu else 4
    few = shapes.Setting(
        setting.name,
        setting.shape,
        setting.wrapped,
        setting.plain,
        shapes.part(setting.batch, slice(small)),
    )
    sweeps(bench, plan, few)
    path_patching(bench, plan, setting)
    discovery(bench, plan, setting)


def draw(path: Path, found: Sequence[dict[str, Any]], title: str) -> None:
    """A bar for each contender of each sweep: milliseconds a head."""
    from benchmarks.report import figure

    bars = [each for each in found if each["measure"].startswith("sweep")]
    names = list(dict.fromkeys(each["contender"] for each in bars))
    made, axes = figure(10, 1.2 + 0.3 * len(bars))
    place = 0.0
    for each in bars:
        place += 1.8 if each["contender"] == "branch engine" else 1.0  # room for the group's title
        milliseconds = each["ms_per_head"]
        axes.barh(place, milliseconds, color=f"C{names.index(each['contender'])}")
        where = "all positions" if each["measure"] == "sweep-all" else "last position"
        text = f"{milliseconds:.2f} ms, {each['over_branch_engine']:.1f}x  {each['contender']}"
        axes.text(milliseconds * 1.05, place, text, va="center", size=8)
        if each["contender"] == "branch engine":
            axes.annotate(
                f"{each['shape']}, {each['dtype']}, {where}", (0.005, place - 0.6),
                xycoords=("axes fraction", "data"), size=7, color="0.3",
            )  # fmt: skip
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_xscale("log")
    least = min(each["ms_per_head"] for each in bars)
    axes.set_xlim(least / 3, axes.get_xlim()[1] * 8)
    axes.set_xlabel("milliseconds a head (and how many times the branch engine's)")
    axes.set_title(title, size=9)
    made.savefig(path)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument(
        "--minutes", type=float, default=4.5, help="of the whole call (default 4.5)"
    )
    parser.add_argument("--only", default="", help=f"shapes: {', '.join(p.shape for p in PLANS)}")
    parser.add_argument("--json", type=Path, help="write results, each as it comes")
    parser.add_argument("--plot", type=Path, help="write a picture of the sweeps, .svg or .png")
    parser.add_argument(
        "--small", action="store_true", help="a tiny shape on the CPU: does it work?"
    )
    asked = parser.parse_args(given)
    known = [plan.shape for plan in PLANS]
    if unknown := {*filter(None, asked.only.split(","))} - {*known}:
        parser.error(f"unknown shape {min(unknown)!r}; valid: {', '.join(known)}")
    if asked.small:
        asked.device = "cpu"
    return asked


def plans_of(asked: argparse.Namespace) -> Iterator[Plan]:
    names = asked.only.split(",") if asked.only else [plan.shape for plan in PLANS]
    yield from SMALL if asked.small else (plan for plan in PLANS if plan.shape in names)


def main(given: Sequence[str] | None = None) -> int:
    start = time.monotonic()
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    asked = arguments(given)
    warnings.simplefilter("ignore")
    import torch

    from benchmarks import report
    from benchmarks import sweeps as contenders
    from benchmarks.discovery import Device
    from pytest_mechanism.checkpoints.loading.model import DTYPES

    device = Device(asked.device)
    if device.gpu and not torch.cuda.is_available():
        print("torch sees no GPU; --small tries the benchmark on the CPU", file=sys.stderr)
        return 2
    if not device.gpu:
        torch.set_num_threads(1)
    here = {**report.machine(), "device": device.describe()}
    end = start + 60 * asked.minutes
    found = {"machine": here, "minutes": asked.minutes, "results": []}
    bench = Bench(device, Budget(end), asked.json, found)
    print(", ".join(f"{key} {value}" for key, value in here.items()), flush=True)
    if not contenders.NNSIGHT:
        print("nnsight: not installed")
    chosen = [*plans_of(asked)]
    with torch.no_grad():
        for dtype in dict.fromkeys(plan.dtype for plan in chosen):
            measure_rates(bench, DTYPES[dtype], dtype, 8192 if device.gpu else 256)
        for number, plan in enumerate(chosen):
            last = number == len(chosen) - 1
            whole = end - time.monotonic()
            bench.budget.end = end if last else time.monotonic() + plan.share * whole
            try:
                measure_shape(bench, plan)
            except (torch.cuda.OutOfMemoryError, MemoryError) as problem:
                bench.budget.skipped.append(f"{plan.shape}: out of memory: {str(problem)[:100]}")
            gc.collect()
            if device.gpu:
                torch.cuda.empty_cache()
    found["seconds"] = time.monotonic() - start
    bench.write()
    for name in bench.budget.skipped:
        print(f"not measured: {name}")
    print(f"{found['seconds']:.0f} s")
    if asked.plot and any(each["measure"].startswith("sweep") for each in found["results"]):
        draw(
            asked.plot, found["results"], f"{here['device']}, torch {here['torch']}, {here['date']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
