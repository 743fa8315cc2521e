"""The branch engine: recompute only what a branch can have changed.

A run is one full forward whose residual stream, keys, values and z are kept (`record`). A branch
recomputes its active tokens (`layout`) from its first layer up; tokens of many branches go through
the layers side by side (`replay`), attending to the run's keys and their own branch's. What the
engine does not understand of a family, it does not guess: `UnsupportedFamily`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import attrgetter
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.activations import edited_run, gather
from pytest_mechanism.engine.finite import NonFiniteRows, not_finite
from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Reading, Site, Tokens
from pytest_mechanism.engine.layout import MOST_COLUMNS, Layout
from pytest_mechanism.engine.memory import (
    READING_BYTES,
    RECORD_BYTES,
    Kept,
    TokenLimit,
    content,
    copied,
    readings_key,
    size_of_readings,
)
from pytest_mechanism.engine.planning import PlannedBranch, Planner, pack_branches
from pytest_mechanism.engine.record import Extent, Record, read_only_forward, record
from pytest_mechanism.engine.replay import RecordedRun, ReplayedPack, replay
from pytest_mechanism.errors import out_of_memory
from pytest_mechanism.model_families.attention import attends_ahead
from pytest_mechanism.model_families.wrapped import WrappedModel

T = TypeVar("T")

LEAST_COLUMNS = 32
"""Columns that are computed side by side even if the prompts are shorter. Longer prompts allow as
many columns as they have tokens: what is in memory beside the record stays that of one forward."""

DEVICE_TOKENS = 1 << 14
"""Tokens, of all rows and branches, that fill a device other than a CPU: each operation takes longer
then than it takes to launch it. Measured on an H200: at GPT-2 small's and Llama-7B's shape, 16,384
tokens are at most 10 % slower than any other number."""

DEVICE_COLUMNS = 512
"""Columns that share rows on such a device, at most: attention scores grow with their square."""

WHOLE_RECORDS = 16
"""A record keeps every token if the memory for records holds this many records of its size. Other branches of the
same run, which compute other tokens, then need no further forward."""

RUNS_OF_A_BATCH = 2
"""It does so, too, if the memory holds this many whole records of each batch of a measurement: of the prompts, and of
the prompts with ablated heads."""


def columns_at_once(tokens: Tokens, fill: int | None = None) -> tuple[int, int]:
    """How many columns go through the layers together: of branches that share rows, and of branches in
    separate rows (`planning.apart`).

    Args:
        tokens: the run's.
        fill: see `BranchEngine`.
    """
    rows, length = tokens.ids.shape
    if fill is None and tokens.ids.device.type == "cpu":
        return max(LEAST_COLUMNS, min(length, MOST_COLUMNS)), 0
    columns = max(LEAST_COLUMNS, (DEVICE_TOKENS if fill is None else fill) // rows)
    return min(columns, DEVICE_COLUMNS), columns


@dataclass
class BranchEngine:
    """See the module.

    Attributes:
        model: the model under hooks.
        tick: called with the number of rows of each branch and run.
        name: part of every measurement's key.
        limit: on what is tried at once.
        memory: bytes of records that may be kept.
        fill: tokens that are computed at once if there is room; None for what suits the device.
        bytes_per_token: of the last record.
        recent: length of the last batch with branches, and which of its tokens they needed.
        records: of runs.
        readings: outcomes of runs without an answer.
        non_finite: remembers rows on which the model gave NaN or infinity.
    """

    model: WrappedModel
    tick: Callable[[int], None] | None = None
    name: str = "branch"
    limit: TokenLimit = field(default_factory=TokenLimit)
    memory: int = RECORD_BYTES
    fill: int | None = None
    bytes_per_token: float = 0.0
    recent: tuple[int, Extent] | None = None
    records: Kept[Record] = field(init=False)
    readings: Kept[Outcome] = field(init=False)
    non_finite: NonFiniteRows = field(default_factory=NonFiniteRows)

    def __post_init__(self) -> None:
        self.records = Kept(self.memory, attrgetter("bytes"))
        self.readings = Kept(READING_BYTES, size_of_readings)

    def run(
        self,
        tokens: Tokens,
        edits: Sequence[Edit] = (),
        readings: Sequence[Reading] = (),
        *,
        answer: bool = True,
    ) -> BranchRun:
        return BranchRun(self, tokens, tuple(edits), tuple(readings), answer)

    def count(self, rows: int) -> None:
        if self.tick is not None:
            self.tick(rows)

    @cached_property
    def whole_bytes(self) -> int:
        """Bytes of a token in a record that keeps every token, about; 0 where that is not known."""
        config = self.model.plain.config.get_text_config()
        weight = next(iter(self.model.parameters()))
        width: int = getattr(config, "hidden_size", None) or 0
        heads = getattr(config, "num_attention_heads", None) or 1
        shared = heads / (getattr(config, "num_key_value_heads", None) or heads)
        # the residual stream and z, keys and values
        kept = 2 * width + math.ceil(2 * width / shared)
        return kept * weight.element_size() * len(self.model.layers)

    def make_record(
        self,
        tokens: Tokens,
        edits: Sequence[Edit],
        readings: Sequence[Reading],
        extent: Extent,
    ) -> Record:
        """A new record; older ones make room before it fills the memory."""
        self.records.make_room(int(self.bytes_per_token * tokens.ids.numel()))
        made = self.with_all_room(partial(record, self.model, tokens, edits, readings, extent))
        self.bytes_per_token = made.bytes / tokens.ids.numel()
        return made

    def with_all_room(self, work: Callable[[], T]) -> T:
        """Do some work; if memory runs out, forget all records and do it again."""
        try:
            return work()
        except (MemoryError, RuntimeError) as problem:
            if not ((self.records or self.readings) and out_of_memory(problem)):
                raise
        self.forget()
        return work()

    def forget(self) -> None:
        """Drop all records and readings, which are made again on demand, and the allocator's reserves."""
        from accelerate.utils.memory import clear_device_cache

        self.records.clear()
        self.readings.clear()
        clear_device_cache(garbage_collection=True)

    def key(self, tokens: Tokens, edits: Sequence[Edit]) -> bytes:
        """A hash of everything that can change a run."""
        digest = hashlib.blake2b()
        for edit in edits:
            digest.update(repr((edit.site, edit.heads)).encode())
            for tensor in (edit.value, edit.at, edit.keep):
                digest.update(content(tensor))
        for tensor in (tokens.ids, tokens.lengths):
            digest.update(content(tensor))
        return digest.digest()


@dataclass
class BranchRun:
    """A run and what its branches share with it.

    Attributes:
        engine: the engine.
        tokens: the batch.
        edits: the run's own.
        readings: what to record.
        answer: whether logits are wanted.
        needed: the tokens that its branches needed so far.
        made: its record, once there is one.
    """

    engine: BranchEngine
    tokens: Tokens
    edits: tuple[Edit, ...]
    readings: tuple[Reading, ...]
    answer: bool = True
    needed: Extent | None = None
    made: Record | None = None

    @cached_property
    def whole(self) -> bool:
        """Whether its record keeps every token, or only those that branches need."""
        of_all = self.tokens.batches * RUNS_OF_A_BATCH * self.size
        return self.is_small or 0 < of_all <= self.engine.memory

    @property
    def size(self) -> int:
        """Bytes of a record that keeps every token, about."""
        return self.engine.whole_bytes * self.tokens.ids.numel()

    @property
    def is_small(self) -> bool:
        """Whether many whole records fit into the memory."""
        return self.size * WHOLE_RECORDS <= self.engine.memory

    @property
    def record_has_readings(self) -> bool:
        """Whether a record holds all that is to be read."""
        of_record = all(reading.site.part in ("z", "resid_pre") for reading in self.readings)
        return of_record and (self.whole or not self.readings)

    @cached_property
    def key(self) -> bytes | None:
        """The key of its record; None where no other run could use that."""
        if not self.record_has_readings:
            return None
        if self.edits and self.tokens.ids.device.type != "cpu":
            # to hash the values of edits on a GPU takes longer than a forward there
            return None
        return self.engine.key(self.tokens, self.edits)

    @property
    def record(self) -> Record:
        """Made once for all runs of this batch with these edits, while there is room."""
        return self.record_for(None)

    def record_for(self, layout: Layout | None) -> Record:
        """The record, with the tokens that branches in this layout need. Where it lacks some, it is made
        again: that is one forward for each new place of a run's branches."""
        engine, length = self.engine, self.tokens.ids.shape[1]
        if layout is not None and not self.whole:
            self.needed = Extent(layout.lowest, layout.prefix).joined(self.needed)
            engine.recent = length, self.needed
        self.made = self.made or engine.records.recall(self.key)
        if self.made is not None and (not self.needed or self.made.extent.has(self.needed)):
            return self.made
        self.made = None  # before the next one is in memory
        if self.key is not None:
            engine.records.pop(self.key, None)
        engine.count(self.tokens.ids.shape[0])
        readings = () if self.record_has_readings else self.readings
        made = engine.make_record(self.tokens, self.edits, readings, self.extent)
        engine.records.keep(self.key, made)
        self.made = made
        return made

    @property
    def extent(self) -> Extent:
        """Which tokens the record is to keep."""
        length = self.tokens.ids.shape[1]
        if self.whole:
            return Extent(0, length)
        if self.needed is not None:
            return self.needed
        # branches follow: most often they need what those of the batch before needed
        recent = self.engine.recent
        if recent is not None and recent[0] == length:
            return recent[1]
        return Extent(int(self.tokens.last.min()), length)

    @cached_property
    def outcome(self) -> Outcome:
        return self.engine.non_finite.check(self.tokens, self.computed(), self.readings)

    def computed(self) -> Outcome:
        """The outcome: from the record, or without one where readings are all that is wanted."""
        has_record = self.made is not None or self.key in self.engine.records
        if not self.answer and not has_record:
            return self.read_only()
        kept = self.record
        logits = kept.outcome.logits if self.answer else kept.outcome.logits[:, :0]
        if not self.record_has_readings:
            return Outcome(logits, kept.outcome.readings)
        # copies, since other runs use the record, too
        return Outcome(logits.clone(), tuple(self.read(kept, r) for r in self.readings))

    def read_only(self) -> Outcome:
        """The outcome of a forward that stops at the last reading; made once for all runs that read the
        same named positions, while there is room. Of a small batch, every z is read and kept: other
        measurements read other heads and positions of the same prompts."""
        if self.edits:
            return self.read_now(self.readings)
        engine, run = self.engine, self.engine.key(self.tokens, ())
        every_z = self.is_small and all(
            r.site.part == "z" and r.at is not None for r in self.readings
        )
        wanted, key = self.readings, readings_key(run, self.readings)
        if every_z:
            wanted, key = tuple(Reading(Site(n, "z")) for n in range(len(engine.model.layers))), run
        if (outcome := engine.readings.recall(key)) is None:
            outcome = self.read_now(wanted)
            if not engine.readings.keep(key, outcome) and not every_z:
                return outcome
        if not every_z:
            return copied(outcome)
        z = outcome.readings
        read = tuple(gather(z[r.site.layer], r.at, r.heads) for r in self.readings)
        return Outcome(outcome.logits.clone(), read)

    def read_now(self, readings: Sequence[Reading]) -> Outcome:
        """The outcome of a forward that stops at the last reading."""
        engine = self.engine
        engine.count(self.tokens.ids.shape[0])
        return engine.with_all_room(
            partial(read_only_forward, engine.model, self.tokens, self.edits, readings)
        )

    def read(self, kept: Record, reading: Reading) -> Float[Tensor, "rows _ _ width"]:
        """A reading from a record."""
        site = reading.site
        if site.part == "z":
            return gather(kept.z[site.layer], reading.at, reading.heads)
        residual = kept.residuals[site.layer].unsqueeze(2)
        for edit in self.edits:  # the record has it as the layer got it, before edits there
            if edit.site == site:
                residual = edited_run(residual, edit, self.tokens)
        return gather(residual, reading.at, None)

    def branches(self, branches: Iterable[Branch], gradients: bool = False) -> Iterator[Outcome]:
        learned = (t for edit in self.edits for t in (edit.value, edit.keep) if t is not None)
        if gradients and any(tensor.requires_grad for tensor in learned):
            raise ValueError("a run's own edits get no gradients: put them into the branch")
        engine = self.engine
        run = RecordedRun(engine.model, self.tokens, self.edits, self.record_for)
        ahead = attends_ahead(engine.model.plain)
        planner = Planner(self.tokens, len(engine.model.layers), run.cache, ahead)
        columns = columns_at_once(self.tokens, engine.fill)
        for pack in pack_branches(map(planner.plan, branches), *columns):
            outcomes = self.within_memory(run, pack, gradients)
            for _, outcome in zip(pack, outcomes, strict=True):
                engine.count(self.tokens.ids.shape[0])
                yield outcome

    @property
    def room(self) -> int:
        """Columns that the engine's limit allows."""
        return self.engine.limit.tokens // self.tokens.ids.shape[0]

    def within_memory(
        self, run: RecordedRun, pack: Sequence[PlannedBranch], gradients: bool
    ) -> Iterator[Outcome]:
        """A pack's outcomes, in smaller packs where memory runs out."""
        waiting = list(pack_branches(pack, self.room, self.room))
        while waiting:
            part, replayed = waiting.pop(0), None
            tried = sum(planned.active.numel() for planned in part)
            try:
                with torch.set_grad_enabled(gradients):
                    replayed = replay(run, part)
            except (MemoryError, RuntimeError) as problem:
                if len(part) == 1 or not out_of_memory(problem):
                    raise
            if replayed is None:  # here the error is gone, and with it what filled the memory
                self.engine.limit.ran_out(tried)
                rest = [planned for each in (part, *waiting) for planned in each]
                waiting = list(pack_branches(rest, self.room, self.room))
                self.engine.forget()
            else:
                self.engine.limit.fitted(tried)
                for bad_rows in replayed.bad_rows:
                    self.engine.non_finite.mark(self.tokens, bad_rows)
                yield from self.with_logits(replayed, gradients)
                replayed = None  # so that the next pack has its memory

    def with_logits(self, replayed: ReplayedPack, gradients: bool) -> Iterator[Outcome]:
        """A pack's outcomes, with fewer logits at once where memory runs out."""
        done, size = 0, replayed.at_once
        while done < len(replayed):
            part = None
            try:
                with torch.set_grad_enabled(gradients):
                    part = replayed.outcomes(done, done + size)
            except (MemoryError, RuntimeError) as problem:
                if size == 1 or not out_of_memory(problem):
                    raise
            if part is None:
                size = max(1, min(size, len(replayed)) // 2)
                self.engine.forget()
                continue
            done += len(part)
            self.check_logits(part)
            while part:
                yield part.pop(0)

    def check_logits(self, part: Sequence[Outcome]) -> None:
        """Marks rows that are not finite in logits that were computed together."""
        for outcome in part:
            if outcome.together is not None:
                self.engine.non_finite.mark(self.tokens, not_finite(outcome.together).any(0))
                return
