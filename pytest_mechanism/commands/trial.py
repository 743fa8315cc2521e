"""A small trial of a loaded checkpoint: rows a second, and the memory that a gate will hold.

Memory is that of the process (of the device, where that is not the CPU): libraries, one checkpoint,
the records that branches share (`BranchEngine.memory` bounds them), a batch at work, and for claims
that train the copy with what its optimiser holds. What depends on the machine is measured on a few
rows and scaled; what depends on the claims is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.types import Measurement

ROWS = 10
"""In a batch of the trial, if the gate's are not smaller: no task has fewer than twice as many."""

LOGITS = 3
"""How often training holds the logits of all tokens: themselves, their logarithms, the gradient."""

OFTEN = 0.002
"""Seconds between looks at the process."""

HOLES = 1.4
"""What a process holds over the tensors that it keeps among others that come and go (1.24 to 1.5
were measured with glibc)."""

HOLES_OF_DEVICE = 1.1
"""The same, of torch's allocator on a device."""


@dataclass(frozen=True)
class Trial:
    """What was seen of one checkpoint. Memory in bytes.

    Attributes:
        speed: rows a second through a forward.
        branching: rows a second of branches at the last token.
        weights: of the wrapped model.
        loaded: growth by loading it, libraries with it where they were not there before.
        loading: the same at its peak.
        work: of a row of a batch at work.
        kept: of a row's record, 0 where the engine keeps none.
        learning: of a row with gradients.
        bound: of all records.
        holes: see `HOLES`.
    """

    speed: float
    branching: float
    weights: float
    loaded: float
    loading: float
    work: float
    kept: float
    learning: float
    bound: float
    holes: float

    def seconds(self, wanted: Iterable[Measurement], run: set[Any]) -> float:
        """About how long these take, on this machine as busy as it was.

        Args:
            wanted: all of this checkpoint's.
            run: names of prompts whose records are there; those of ``wanted`` are added.
        """
        found = 0.0
        for each in wanted:
            cost = each.cost
            if not cost.prompts:  # no branches: training, probing, replies
                found += cost.rows / self.speed
                continue
            found += max(0, cost.rows - cost.prompt_count) / self.branching
            if (name := (each.task, cost.prompts)) not in run:
                run.add(name)
                found += cost.prompt_count / self.speed
        return found

    def needs(self, wanted: Iterable[Measurement], batch: int, unknown: int) -> float:
        """Bytes beside the weights and libraries while these are measured.

        Args:
            wanted: all of this checkpoint's.
            batch: rows in a forward.
            unknown: prompts that are run besides, such as those of a search for heads.
        """
        prompts: dict[Any, int] = {}
        work = [self.work * batch]
        for each in wanted:
            cost, name = each.cost, (each.task, each.cost.prompts)
            prompts[name] = max(cost.prompt_count, prompts.get(name, 0))
            rows = batch if cost.gradient_rows == "batch" else cost.gradient_rows
            work.append(self.learning * rows + cost.weight_copies * self.weights)
        records = min(self.bound, self.kept * (sum(prompts.values()) + unknown)) * self.holes
        return records + max(work)


class Watch:
    """The most that was held while a block ran.

    Attributes:
        before: bytes held at its beginning.
        most: at its peak.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.before = self.most = held(self.device)
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self.before = self.most = held(self.device)
        if not self.device.startswith("cuda"):
            self._looking.start()
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
            self._over.set()
            self._looking.join()
        else:
            import torch

            self.most = torch.cuda.max_memory_allocated(self.device)
        self.most = max(self.most, held(self.device))

    def _look(self) -> None:
        while not self._over.wait(OFTEN):
            self.most = max(self.most, held(self.device))


def memory_of(device: str) -> str:
    """The device that is looked at; of ``auto`` where prompts go."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def held(device: str) -> int:
    """Bytes that this process holds on a device."""
    if not device.startswith("cuda"):
        import psutil

        found: int = psutil.Process().memory_info().rss
        return found
    import torch

    return torch.cuda.memory_allocated(device)


def trial(bench: Any, task: Any, device: str, loading: Watch) -> Trial:
    """Run a few rows and their branches.

    Args:
        bench: of the loaded checkpoint.
        task: writes the rows.
        device: where it is.
        loading: was watching while it was loaded.
    """
    loaded = held(device) - loading.before
    size = min(bench.batch_size, ROWS)
    rows = task.rows(bench.vocabulary, 2 * size, "self-check")
    if len(rows) < 2 * size:
        raise MeasurementError(f"the task wrote {len(rows)} rows for a trial of {2 * size}")
    holes = HOLES_OF_DEVICE if device.startswith("cuda") else HOLES
    kept, seconds, branching = 0.0, 0.0, 0.0
    with Watch(device) as plain:
        for some in (rows[:size], rows[size:]):
            tokens = bench.side([row.base for row in some]).tokens
            started = time.perf_counter()
            run = bench.engine.run(tokens)
            _ = run.outcome
            seconds = time.perf_counter() - started
            last, everywhere = silences(bench, tokens)
            started = time.perf_counter()
            for _ in run.branches(last):
                pass
            branching = (time.perf_counter() - started) / len(last)
            for _ in run.branches(everywhere):
                pass
            kept += run.record.bytes if hasattr(run, "record") else 0
            del run
    work = max(0.0, plain.most - plain.before - kept * holes) / size
    with Watch(device) as taught:
        tokens = bench.side([row.base for row in rows[:size]]).tokens
        branches = bench.engine.run(tokens).branches([learned(bench, tokens)], gradients=True)
        for outcome in branches:
            outcome.logits.sum().backward()
    # the branch has logits of its last token alone, training those of all
    logits = LOGITS * tokens.ids.shape[1] * bench.model.shape.d_vocab * 4
    learning = max(0.0, taught.most - taught.before) / size + work + logits
    return Trial(
        speed=size / max(seconds, 1e-6),
        branching=size / max(branching, 1e-6),
        weights=sum(p.numel() * p.element_size() for p in bench.model.bridge.parameters()),
        loaded=loaded,
        loading=loading.most - loading.before,
        work=work,
        kept=kept / (2 * size),
        learning=learning,
        bound=getattr(bench.engine, "memory", 0),
        holes=holes,
    )


def silences(bench: Any, tokens: Any) -> tuple[list[Any], list[Any]]:
    """Branches: a head of every layer silenced at the last token, of some layers at all."""
    import torch

    from pytest_mechanism.engine.interface import Branch, Edit, Site

    shape = bench.model.shape
    rows, length = tokens.ids.shape
    everywhere = torch.arange(length, device=tokens.ids.device).expand(rows, length)

    def silenced(at: Any, layers: range) -> list[Any]:
        nothing = torch.zeros(rows, at.shape[1], 1, shape.d_head, device=tokens.ids.device)
        nothing = nothing.to(bench.model.dtype)
        return [Branch((Edit(Site(layer, "z"), nothing, at, heads=(0,)),)) for layer in layers]

    last = silenced(tokens.last[:, None], range(shape.n_layers))
    return last, silenced(everywhere, range(0, shape.n_layers, 4))


def learned(bench: Any, tokens: Any) -> Any:
    """A branch through all layers and tokens that asks for gradients."""
    import torch

    from pytest_mechanism.engine.interface import Branch, Edit, Site

    rows, length = tokens.ids.shape
    at = torch.arange(length, device=tokens.ids.device).expand(rows, length)
    value = torch.zeros(
        rows, length, 1, bench.model.shape.d_model, device=at.device, dtype=bench.model.dtype
    )
    return Branch((Edit(Site(0, "resid_pre"), value.requires_grad_(), at),))
