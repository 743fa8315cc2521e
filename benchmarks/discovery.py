"""How long the four stages of circuit discovery take on a large model, and in how much memory.

Path patching along the chain of Prakash et al., section 3.1: to the logits, into the q of 40 heads, into
the v of 7, into the v of 20: the sizes of their circuit, at about its depths. Each stage is timed twice: with
every head patched alone on all rows, and as `discover` searches it, with gradients first
(`discovery.screening`), up to its first look (`discovery.looks`); heads that this look does not settle, and sets
of heads that have an effect, which random weights do not have, would cost more. Weights
are random and drawn where they are used, so nothing is downloaded; a random model has no circuit, but
its stages cost what a trained one's cost.

Time is the clock's, since a GPU's work is not CPU time; beside it stands what one full forward for
every head's patch would take, from forwards timed in the same run: of the plain Hugging Face model
with its fastest attention and no logits but the last, hooks and patches not counted; and of the
wrapped model, which is what the reference engine runs.

python -m benchmarks.discovery --device cuda [--shape llama-7b] [--dtype bfloat16] [--rows 300]
                               [--tokens 54] [--batch-size 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.shapes import Setting
    from pytest_mechanism.checkpoints.shape import Shape
    from pytest_mechanism.types import Head

RECEIVERS = {"path-logits": 0, "path-q-last": 40, "path-v-query": 7, "path-v-previous": 20}
"""Heads of the published circuit that each of `stages.PATHS` leads into."""

FORWARDS = 3
"""Plain forwards that are timed, after one that is not."""


@dataclass(frozen=True)
class Took:
    """One stage.

    Attributes:
        stage: which path.
        senders: heads that were patched.
        seconds: by the clock.
        forwards: full forwards of all rows that patching one head at a time would take.
        memory: bytes at most, with the weights.
        screened: seconds of gradients and of the heads and sets that a screen leaves to be patched.
    """

    stage: str
    senders: int
    seconds: float
    forwards: int
    memory: int
    screened: float


@dataclass(frozen=True)
class Device:
    """Where a model computes; its clock and its memory."""

    name: str

    @property
    def gpu(self) -> bool:
        return self.name.startswith("cuda")

    def seconds(self, work: Callable[[], Any]) -> float:
        """By the clock, everything that was asked of a GPU being done."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        import torch

        if self.gpu:
            torch.cuda.synchronize(self.name)

    def memory(self) -> int:
        """Bytes at most: what tensors took on a GPU, or the whole process. A GPU starts anew."""
        import torch

        if not self.gpu:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found = torch.cuda.max_memory_allocated(self.name)
        torch.cuda.reset_peak_memory_stats(self.name)
        return found

    def describe(self) -> str:
        import torch

        return torch.cuda.get_device_name(self.name) if self.gpu else "CPU"


def discovered(setting: Setting, batch_size: int, device: Device) -> list[Took]:
    """The stages, from the answer back."""
    from benchmarks.stages import PATHS
    from pytest_mechanism.engine.branch import BranchEngine

    shape, rows = setting.shape, len(setting.batch.rows)
    engine = BranchEngine(setting.wrapped)
    found = []
    for name, count in RECEIVERS.items():
        title, at, via, depths = PATHS[name]
        receivers = spread(shape, depths, count)
        highest = max((layer for layer, _ in receivers), default=shape.n_layers)
        senders = [head for head in shape.heads() if head[0] < highest]
        device.memory()
        alone = [[sender] for sender in senders]
        seconds = device.seconds(
            partial(patched, setting, engine, alone, at, receivers, via, batch_size, rows)
        )
        # run 1, and run 2 where there are receivers; the clean forward is not counted
        runs = len(senders) * (2 if receivers else 1)
        memory = device.memory()
        quick = device.seconds(
            partial(screened, setting, engine, senders, at, receivers, via, batch_size)
        )
        found.append(Took(title, len(senders), seconds, runs, memory, quick))
        print(
            f"{title:30}{len(senders):6} heads x {rows} rows {seconds:10.1f} s "
            f"{memory / 1e9:8.1f} GB, screened {quick:8.1f} s",
            flush=True,
        )
    return found


def spread(shape: Shape, depths: Sequence[float], count: int) -> list[Head]:
    """So many heads, or all there are, in the layers at these depths by turns."""
    layers = sorted({int(depth * shape.n_layers) for depth in depths})
    every = [(layer, head) for head in range(shape.n_heads) for layer in layers]
    return sorted(every[:count])


def patched(
    setting: Setting,
    engine: Any,
    senders: Sequence[Sequence[Any]],
    at: str,
    receivers: Sequence[Head],
    via: Any,
    batch_size: int,
    rows: int,
) -> list[float]:
    """Mean change of the answer's log-probability over the first rows, of each set of senders."""
    import torch

    from benchmarks.shapes import part
    from pytest_mechanism.methods.circuits import path_patching
    from pytest_mechanism.methods.readout import log_probability

    bench = setting.bench(engine)
    total = torch.zeros(len(senders), dtype=torch.float64)
    for start in range(0, rows, batch_size):
        batch = part(setting.batch, slice(start, min(rows, start + batch_size)))
        run = engine.run(batch.base.tokens)
        before = log_probability(run.outcome.logits, batch.correct_answers)
        outcomes = path_patching.patched(bench, batch, run, senders, at, receivers, via)
        changes = [
            (log_probability(outcome.logits, batch.correct_answers) - before).sum()
            for outcome in outcomes
        ]
        total += torch.stack(changes).double().cpu()
    return list(total / rows)


def screened(
    setting: Setting,
    engine: Any,
    senders: Sequence[Head],
    at: str,
    receivers: Sequence[Head],
    via: Any,
    batch_size: int,
) -> None:
    """A stage as `discover` begins it: gradients of all senders, then those that are patched alone and, in sets,
    the others, on the rows of the first look."""
    from benchmarks.shapes import part
    from pytest_mechanism.claims.patched_alone import SCREEN_ROWS
    from pytest_mechanism.discovery.looks import looks
    from pytest_mechanism.discovery.screening import bands, number_kept
    from pytest_mechanism.fields.groups import DiscoveredGroup
    from pytest_mechanism.measurements.screen import STEPS, AttributionPatching
    from pytest_mechanism.methods.circuits import screen

    rows = len(setting.batch.rows)
    request = AttributionPatching(
        heads=senders, at=at, receivers=receivers, via=via, rows=min(rows, SCREEN_ROWS), stream=""
    )
    bench = setting.bench(engine)
    for start in range(0, request.rows, batch_size):
        stop = min(start + batch_size, request.rows)
        for share, _ in STEPS:
            screen.derivatives(bench, part(setting.batch, slice(start, stop)), request, share)
    count = number_kept(DiscoveredGroup(heads="discovered", at=at), len(senders))
    sets: list[Sequence[Any]] = [[sender] for sender in senders[:count]]
    sets += bands(senders[count:]).values()
    patched(setting, engine, sets, at, receivers, via, batch_size, min(rows, looks(rows)[0]))


def forward_seconds(setting: Setting, batch_size: int, device: Device) -> dict[str, float]:
    """Seconds of a full forward of all rows, ``plain`` and ``wrapped``, from some of one batch."""
    import torch

    from benchmarks.shapes import part

    ids = part(setting.batch, slice(0, batch_size)).base.tokens.ids

    @torch.no_grad()
    def took(model: Any, **more: Any) -> float:
        model(ids, **more)
        least = min(device.seconds(partial(model, ids, **more)) for _ in range(FORWARDS))
        return least * len(setting.batch.rows) / len(ids)

    return {
        "plain": took(setting.plain, logits_to_keep=1),
        "wrapped": took(setting.wrapped.bridge, return_type="logits"),
    }


def main(given: Sequence[str] | None = None) -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discovery", description=__doc__)
    parser.add_argument("--shape", default="llama-7b", help="llama-7b, gpt2-small, llama-gqa, tiny")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    parser.add_argument("--rows", type=int, default=300, help="prompts (the paper: 300)")
    parser.add_argument("--tokens", type=int, default=54, help="of a prompt")
    parser.add_argument("--batch-size", type=int, default=64, help="prompts in one forward")
    parser.add_argument("--json", type=Path, help="write results")
    asked = parser.parse_args(given)
    warnings.simplefilter("ignore")
    import torch

    from benchmarks import report, shapes
    from pytest_mechanism.checkpoints.loading.model import DTYPES

    device = Device(asked.device)
    if device.gpu and not torch.cuda.is_available():
        parser.error(f"torch sees no {asked.device}; --device cpu takes long at this shape")
    if not device.gpu:
        torch.set_num_threads(1)
    here: dict[str, Any] = {**report.machine(), "device": device.describe()}
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    setting = shapes.make_placed(
        asked.shape, asked.rows, asked.tokens, asked.device, DTYPES[asked.dtype]
    )
    weights = sum(p.numel() * p.element_size() for p in setting.wrapped.parameters())
    print(
        f"{asked.shape} in {asked.dtype}, {weights / 1e9:.1f} GB of weights, {asked.rows} pairs x "
        f"{asked.tokens} tokens, {asked.batch_size} at a time"
    )
    one = forward_seconds(setting, asked.batch_size, device)
    stages = discovered(setting, asked.batch_size, device)
    seconds = sum(each.seconds for each in stages)
    naive = {who: each * sum(s.forwards for s in stages) for who, each in one.items()}
    most = max(each.memory for each in stages)
    print(
        f"{len(stages)} stages: {seconds / 60:.1f} minutes ({sum(s.screened for s in stages) / 60:.1f} "
        f"screened), {most / 1e9:.1f} GB at most with the weights; a full forward for every patch would take "
        + ", ".join(
            f"{each / 60:.1f} minutes of the {who} model ({each / seconds:.1f}x)"
            for who, each in naive.items()
        )
    )
    if asked.json:
        report.write_json(
            asked.json,
            {
                "machine": here,
                **{name: value for name, value in vars(asked).items() if name != "json"},
                "weights": weights,
                "forward_seconds": one,
                "stages": [vars(each) for each in stages],
                "seconds": seconds,
                "memory": most,
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
