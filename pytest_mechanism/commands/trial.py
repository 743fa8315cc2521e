"""A trial of a loaded checkpoint: its speed in rows a second, and the memory that a gate will hold.

A gate's process (or its GPU) holds the libraries, one checkpoint, the records that branches share
(`BranchEngine.memory` limits them), a batch at work, and for claims that train a copy of the model with
the state of the optimiser. The trial measures what depends on the machine on a few rows and scales it;
what depends on the claims is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pytest_mechanism.commands.prompt_work import PromptWork, prompt_work
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.measurement import Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_mechanism.engine.interface import Branch, Tokens
    from pytest_mechanism.methods.context import MeasurementContext
    from pytest_mechanism.tasks.base import Task

ROWS = 10
"""Rows in a batch of the trial, unless the gate's batches are smaller; every task has twice as many."""

LOGIT_COPIES = 3
"""How often training holds the logits of all tokens: the logits, their logarithms, the gradient."""

INTERVAL = 0.002
"""Seconds between two looks at the memory of the process."""

FRAGMENTATION = 1.4
"""Memory of a process per byte of long-lived tensors among short-lived ones (measured with glibc: 1.24
to 1.5)."""

GPU_FRAGMENTATION = 1.1
"""The same for torch's allocator on a GPU."""


@dataclass(frozen=True)
class Trial:
    """The speed and the memory of a checkpoint; memory in bytes.

    Attributes:
        speed: rows a second in a forward pass.
        branching: rows a second in branches at the last token.
        weights: of the wrapped model.
        loaded: growth by loading, with libraries that loading imports.
        loading: the peak of that growth.
        work: of each row in a batch at work.
        kept: of each row's record, 0 if the engine keeps none.
        learning: of each row with gradients.
        layers: number of layers of the model.
        bound: limit of all records.
        fragmentation: factor for memory that is kept.
        prompts: settings of a task -> what its prompts take, beside those of the trial.
    """

    speed: float
    branching: float
    weights: float
    loaded: float
    loading: float
    work: float
    kept: float
    learning: float
    layers: int
    bound: float
    fragmentation: float
    prompts: Mapping[str, PromptWork] = field(default_factory=dict)

    def work_of(self, task: str) -> PromptWork:
        """What the prompts of a task take; those of an unknown task count as those of the trial."""
        return self.prompts.get(task, PromptWork())

    def seconds(self, measurements: Iterable[Measurement], recorded: set[Any]) -> float:
        """About how long measurements take, on this machine as busy as it was.

        Args:
            measurements: on this checkpoint.
            recorded: prompts that have a record already; those of the measurements are added.
        """
        seconds = 0.0
        for measurement in measurements:
            cost, work = measurement.cost, self.work_of(measurement.task)
            rows = cost.rows_with(self.layers)
            if not cost.prompts:  # no branches: training, probing, replies
                rows_alike = rows - cost.reply_rows * (1 - work.next_token)
                seconds += work.length * rows_alike / self.speed
                continue
            seconds += work.length * max(0, rows - cost.prompt_count) / self.branching
            if (prompts := (measurement.task, cost.prompts)) not in recorded:
                recorded.add(prompts)
                seconds += work.length * cost.prompt_count / self.speed
        return seconds

    def needs(
        self, measurements: Iterable[Measurement], batch_size: int, search_prompts: int
    ) -> float:
        """Bytes that measurements need beside the weights and libraries.

        Args:
            measurements: all on this checkpoint.
            batch_size: rows in a forward pass.
            search_prompts: prompts of a search for heads, besides those of the measurements.
        """
        recorded: dict[Any, float] = {}
        work = [self.work * batch_size]
        for measurement in measurements:
            cost, length = measurement.cost, self.work_of(measurement.task).length
            prompts = (measurement.task, cost.prompts)
            recorded[prompts] = max(cost.prompt_count * length, recorded.get(prompts, 0))
            rows = batch_size if cost.gradient_rows == "batch" else cost.gradient_rows
            work.append(self.work * length * batch_size)
            work.append(self.learning * length * rows + cost.weight_copies * self.weights)
        kept = self.kept * (sum(recorded.values()) + search_prompts)
        return min(self.bound, kept) * self.fragmentation + max(work)


class MemoryWatch:
    """The peak of the memory in use while a block runs.

    Attributes:
        before: bytes in use at the beginning.
        peak: bytes in use at the peak.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.before = self.peak = memory_in_use(self.device)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.before = self.peak = memory_in_use(self.device)
        if not self.device.startswith("cuda"):
            self._thread.start()
        else:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.device.startswith("cuda"):
            self._done.set()
            self._thread.join()
        else:
            import torch

            self.peak = torch.cuda.max_memory_allocated(self.device)
        self.peak = max(self.peak, memory_in_use(self.device))

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self.peak = max(self.peak, memory_in_use(self.device))


def memory_device(device: str) -> str:
    """The device whose memory counts; for ``spread``, the one that takes the prompts."""
    if device != "spread":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def memory_in_use(device: str) -> int:
    """Bytes that this process holds on a device."""
    if not device.startswith("cuda"):
        import psutil

        size: int = psutil.Process().memory_info().rss
        return size
    import torch

    return torch.cuda.memory_allocated(device)


def run_trial(
    context: MeasurementContext, tasks: Sequence[Task], device: str, loading: MemoryWatch
) -> Trial:
    """Run a few rows and their branches.

    Args:
        context: of the loaded checkpoint.
        tasks: of the specs; the first one writes the rows.
        device: holds the model.
        loading: watched the memory while the checkpoint was loaded.

    Raises:
        MeasurementError: the task writes too few rows.
    """
    loaded = memory_in_use(device) - loading.before
    size = min(context.batch_size, ROWS)
    rows = tasks[0].rows(context.vocabulary, 2 * size, "self-check")
    if len(rows) < 2 * size:
        raise MeasurementError(f"the task wrote {len(rows)} rows for a trial of {2 * size}")
    fragmentation = GPU_FRAGMENTATION if device.startswith("cuda") else FRAGMENTATION
    kept, seconds, branching = 0.0, 0.0, 0.0
    with MemoryWatch(device) as forward:
        for batch in (rows[:size], rows[size:]):
            tokens = context.side([row.base for row in batch]).tokens
            started = time.perf_counter()
            run = context.engine.run(tokens)
            _ = run.outcome
            seconds = time.perf_counter() - started
            at_last, everywhere = ablations(context, tokens)
            started = time.perf_counter()
            for _ in run.branches(at_last):
                pass
            branching = (time.perf_counter() - started) / len(at_last)
            for _ in run.branches(everywhere):
                pass
            kept += run.record.bytes if hasattr(run, "record") else 0
            del run
    work = max(0.0, forward.peak - forward.before - kept * fragmentation) / size
    with MemoryWatch(device) as backward:
        tokens = context.side([row.base for row in rows[:size]]).tokens
        branches = context.engine.run(tokens).branches(
            [trained_branch(context, tokens)], gradients=True
        )
        for outcome in branches:
            outcome.logits.sum().backward()
    # a branch has the logits of its last token alone, training has those of all tokens
    logits = LOGIT_COPIES * tokens.ids.shape[1] * context.model.shape.d_vocab * 4
    learning = max(0.0, backward.peak - backward.before) / size + work + logits
    return Trial(
        speed=size / max(seconds, 1e-6),
        branching=size / max(branching, 1e-6),
        weights=sum(p.numel() * p.element_size() for p in context.model.wrapped.parameters()),
        loaded=loaded,
        loading=loading.peak - loading.before,
        work=work,
        kept=kept / (2 * size),
        learning=learning,
        layers=context.model.shape.n_layers,
        bound=getattr(context.engine, "memory", 0),
        fragmentation=fragmentation,
        prompts=prompt_work(context, tasks, tokens),
    )


def ablations(context: MeasurementContext, tokens: Tokens) -> tuple[list[Branch], list[Branch]]:
    """Branches that ablate a head: of every layer at the last token, of every fourth at all tokens."""
    import torch

    from pytest_mechanism.engine.interface import Branch, Edit, Site

    shape = context.model.shape
    rows, length = tokens.ids.shape
    all_tokens = torch.arange(length, device=tokens.ids.device).expand(rows, length)

    def ablate(at: Tensor, layers: range) -> list[Branch]:
        zeros = torch.zeros(rows, at.shape[1], 1, shape.d_head, device=tokens.ids.device)
        zeros = zeros.to(context.model.dtype)
        return [Branch((Edit(Site(layer, "z"), zeros, at, heads=(0,)),)) for layer in layers]

    at_last = ablate(tokens.last[:, None], range(shape.n_layers))
    return at_last, ablate(all_tokens, range(0, shape.n_layers, 4))


def trained_branch(context: MeasurementContext, tokens: Tokens) -> Branch:
    """A branch through all layers and tokens that asks for gradients."""
    import torch

    from pytest_mechanism.engine.interface import Branch, Edit, Site

    rows, length = tokens.ids.shape
    at = torch.arange(length, device=tokens.ids.device).expand(rows, length)
    value = torch.zeros(
        rows, length, 1, context.model.shape.d_model, device=at.device, dtype=context.model.dtype
    )
    return Branch((Edit(Site(0, "resid_pre"), value.requires_grad_(), at),))
