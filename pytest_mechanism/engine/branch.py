"""The branch engine: recompute only what can have changed.

A run is one full forward whose residuals, keys, values and z are kept. A branch recomputes its
active tokens (`layout`) from its first layer up; tokens of many branches go through the layers side
by side (`replay`), as further queries that see the run's keys and their own branch's. What a family
passes to its layers beyond what is understood is not guessed: `record.Unsupported`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pytest_mechanism.engine.finite import Finite
from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Reading, Tokens
from pytest_mechanism.engine.layout import Planned, Planner, packs
from pytest_mechanism.engine.record import (
    Record,
    glance,
    record,
)
from pytest_mechanism.engine.reference import edited, select
from pytest_mechanism.engine.replay import Remembered, Replayed, replay
from pytest_mechanism.errors import out_of_memory

T = TypeVar("T")

LEAST_ROOM = 32
"""Tokens a row that are computed side by side even if the run has fewer: otherwise as many as it
has, so that what is held in memory beside the record stays that of one forward."""

MOST_ROOM = 48
"""Tokens a row that a CPU computes side by side of long prompts: more of them are no faster, and
their attention scores over a long prompt outgrow what the allocator keeps at hand."""

REMEMBERED = 1 << 30
"""Bytes of records that are kept for whoever branches from the same run next."""


@dataclass
class Limit:
    """How many tokens are tried at once: half as many when memory runs out, and twice as many again
    after a while in which it did not. The while doubles each time, since what is too much once often
    is so again.

    Attributes:
        tokens: of all rows and branches together.
        patience: packs of about as many that must go well before more are tried.
        well: that have.
    """

    tokens: int = 1 << 40
    patience: int = 16
    well: int = 0

    def ran_out(self, tried: int) -> None:
        self.tokens, self.patience, self.well = max(1, tried // 2), 2 * self.patience, 0

    def went_well(self, tried: int) -> None:
        self.well += 2 * tried > self.tokens
        if self.well >= self.patience:
            self.tokens, self.well = 2 * self.tokens, 0


@dataclass
class BranchEngine:
    """See the module.

    Attributes:
        bridge: transformer-lens' TransformerBridge, raw (no compatibility mode).
        tick: called with the number of rows of each branch and run.
        limit: on what is tried at once, learned from memory running out.
        remembered: records of runs, the least used first.
        memory: bytes of them that may be kept.
        size: bytes of the last one, for each token of its batch.
        finite: looks at all that comes out.
    """

    bridge: Any
    tick: Callable[[int], None] | None = None
    name: str = "branch"
    limit: Limit = field(default_factory=Limit)
    memory: int = REMEMBERED
    size: float = 0.0
    remembered: OrderedDict[bytes, Record] = field(default_factory=OrderedDict)
    finite: Finite = field(default_factory=Finite)

    def run(
        self,
        tokens: Tokens,
        edits: Sequence[Edit] = (),
        readings: Sequence[Reading] = (),
        *,
        answer: bool = True,
    ) -> BranchRun:
        return BranchRun(self, tokens, tuple(edits), tuple(readings), answer)

    @cached_property
    def points(self) -> dict[str, Any]:
        """transformer-lens' hook points by name; it builds this table anew for each look."""
        return dict(self.bridge.hook_dict)

    def count(self, rows: int) -> None:
        if self.tick is not None:
            self.tick(rows)

    def made(
        self, tokens: Tokens, edits: Sequence[Edit] = (), readings: Sequence[Reading] = ()
    ) -> Record:
        """A record, made now; those that will have to go for it go before it fills the memory."""
        self.make_room(self.size * tokens.ids.numel())
        found = self.with_all_room(partial(record, self.bridge, tokens, edits, readings))
        self.size = found.bytes / tokens.ids.numel()
        return found

    def with_all_room(self, work: Callable[[], T]) -> T:
        """Done again without what is remembered, where there is no memory for it beside that."""
        try:
            return work()
        except (MemoryError, RuntimeError) as problem:
            if not (self.remembered and out_of_memory(problem)):
                raise
        self.forget()
        return work()

    def forget(self) -> None:
        """Memory ran out: records are made anew when they are asked for, and the allocator gives
        back what it keeps at hand."""
        from accelerate.utils.memory import clear_device_cache

        self.remembered.clear()
        clear_device_cache(garbage_collection=True)

    def known(self, tokens: Tokens, edits: Sequence[Edit]) -> bytes:
        """What a run is remembered by: everything that can change it."""
        digest = hashlib.blake2b()
        for edit in edits:
            digest.update(repr((edit.site, edit.heads)).encode())
            for tensor in (edit.value, edit.at, edit.keep):
                digest.update(content(tensor))
        for tensor in (tokens.ids, tokens.lengths):
            digest.update(content(tensor))
        return digest.digest()

    def remember(self, key: bytes, found: Record) -> None:
        """Keep a record; those that were not asked for lately make room."""
        if found.bytes <= self.memory:
            self.make_room(found.bytes)
            self.remembered[key] = found

    def make_room(self, wanted: float) -> None:
        """For so many bytes, if so many may be kept."""
        if wanted <= self.memory:
            while sum(each.bytes for each in self.remembered.values()) + wanted > self.memory:
                self.remembered.popitem(last=False)


def content(tensor: Tensor | None) -> bytes:
    """Shape, type and values."""
    if tensor is None:
        return b"none"
    plain = tensor.detach().cpu().contiguous()
    return (
        repr((plain.shape, plain.dtype)).encode()
        + plain.flatten().view(torch.uint8).numpy().tobytes()
    )


@dataclass
class BranchRun:
    """A run and what its branches share with it."""

    engine: BranchEngine
    tokens: Tokens
    edits: tuple[Edit, ...]
    readings: tuple[Reading, ...]
    answer: bool = True

    @property
    def on_record(self) -> bool:
        """Whether a record holds all that is to be read."""
        return all(reading.site.part in ("z", "resid_pre") for reading in self.readings)

    @cached_property
    def key(self) -> bytes | None:
        """What its record is remembered by; None where it is nobody else's."""
        if not self.on_record:
            return None
        if self.edits and self.tokens.ids.device.type != "cpu":
            # looking at the values of edits on another device costs more than a forward there
            return None
        return self.engine.known(self.tokens, self.edits)

    @cached_property
    def record(self) -> Record:
        """Made once for all runs of this batch with these edits, as long as there is room."""
        memory, key = self.engine.remembered, self.key
        if key is not None and key in memory:
            memory.move_to_end(key)
            return memory[key]
        self.engine.count(self.tokens.ids.shape[0])
        readings = () if self.on_record else self.readings
        found = self.engine.made(self.tokens, self.edits, readings)
        if key is not None:
            self.engine.remember(key, found)
        return found

    @cached_property
    def outcome(self) -> Outcome:
        return self.engine.finite.look(self.tokens, self.found(), self.readings)

    def found(self) -> Outcome:
        """From the record; without one, readings alone need none."""
        known = "record" in self.__dict__ or self.key in self.engine.remembered
        if not self.answer and not known:
            self.engine.count(self.tokens.ids.shape[0])
            return self.engine.with_all_room(
                partial(glance, self.engine.bridge, self.tokens, self.edits, self.readings)
            )
        kept = self.record
        logits = kept.outcome.logits if self.answer else kept.outcome.logits[:, :0]
        if not self.on_record:
            return Outcome(logits, kept.outcome.readings)
        # copies: the record is others' too
        return Outcome(logits.clone(), tuple(self.read(kept, r) for r in self.readings))

    def read(self, kept: Record, reading: Reading) -> Tensor:
        """[R, K, heads, d] from a record."""
        site = reading.site
        if site.part == "z":
            return select(kept.z[site.layer], reading.at, reading.heads).clone()
        residual = kept.residuals[site.layer].unsqueeze(2)
        for edit in self.edits:  # the record has it as it came, before its own edits
            if edit.site == site:
                residual = edited(residual, edit)
        return select(residual, reading.at, None).clone()

    def branches(self, branches: Iterable[Branch], gradients: bool = False) -> Iterator[Outcome]:
        learned = (t for edit in self.edits for t in (edit.value, edit.keep) if t is not None)
        if gradients and any(each.requires_grad for each in learned):
            raise ValueError("a run's own edits get no gradients: put them into the branch")
        engine = self.engine
        run = Remembered(engine.bridge, engine.points, self.tokens, self.edits, self.record)
        planner = Planner(self.tokens, len(engine.bridge.blocks), run.memo)
        length = self.tokens.ids.shape[1]
        most = MOST_ROOM if self.tokens.ids.device.type == "cpu" else length
        for pack in packs(map(planner.plan, branches), max(LEAST_ROOM, min(length, most))):
            outcomes = self.within_memory(run, pack, gradients)
            for planned, outcome in zip(pack, outcomes, strict=True):
                engine.count(self.tokens.ids.shape[0])
                yield engine.finite.look(self.tokens, outcome, planned.branch.readings)

    @property
    def room(self) -> int:
        """Tokens a row that the engine's limit allows."""
        return self.engine.limit.tokens // self.tokens.ids.shape[0]

    def within_memory(
        self, run: Remembered, pack: Sequence[Planned], gradients: bool
    ) -> Iterator[Outcome]:
        """A pack's outcomes, in smaller packs where memory runs out."""
        waiting = list(packs(pack, self.room))
        while waiting:
            part, found = waiting.pop(0), None
            tried = sum(each.active.numel() for each in part)
            try:
                with torch.set_grad_enabled(gradients):
                    found = replay(run, part)
            except (MemoryError, RuntimeError) as problem:
                if len(part) == 1 or not out_of_memory(problem):
                    raise
            if found is None:  # the problem, which holds what filled the memory, is gone by now
                self.engine.limit.ran_out(tried)
                waiting = list(packs([p for each in (part, *waiting) for p in each], self.room))
                self.engine.forget()
            else:
                self.engine.limit.went_well(tried)
                yield from self.answered(found, gradients)
                found = None  # let go of, so that the next pack has its memory

    def answered(self, found: Replayed, gradients: bool) -> Iterator[Outcome]:
        """A pack's outcomes, with fewer logits at once where memory runs out."""
        done, size = 0, found.at_once
        while done < len(found):
            part = None
            try:
                with torch.set_grad_enabled(gradients):
                    part = found.outcomes(done, done + size)
            except (MemoryError, RuntimeError) as problem:
                if size == 1 or not out_of_memory(problem):
                    raise
            if part is None:
                size = max(1, min(size, len(found)) // 2)
                self.engine.forget()
                continue
            done += len(part)
            while part:
                yield part.pop(0)
