"""The branch engine: recompute only what can have changed.

A run is one full forward whose residuals, keys, values and z are kept. A branch recomputes its
active tokens (`layout`) from its first layer up. Tokens of many branches go through a layer side by
side, as further queries that see the run's keys and their own branch's; where a whole layer's z is
given (held branches, or the layer at which branches join with z alone edited) attention is not
computed at all. Logits are taken at the answer's position only.

The layers are the model's own: each is called as the model called it, with the arguments that are
indexed by position picked for the tokens at hand. What a family passes beyond that is not guessed:
`Unsupported`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.changes import Changes
from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Reading, Tokens
from pytest_mechanism.engine.layout import Layout, Planned, Planner, packs
from pytest_mechanism.engine.record import (
    CACHES,
    INDEXED,
    Record,
    attached,
    glance,
    instead,
    last_mlp_at,
    record,
)
from pytest_mechanism.engine.reference import at_least_float, edited, select

ROOM = 1.0
"""Tokens a row that are computed side by side, as a share of the run's: what is held in memory
beside the record stays that of one forward."""

LEAST_ROOM = 32
"""Tokens a row that always fit: short prompts would otherwise go one by one."""


REMEMBERED = 1 << 30
"""Bytes of records that are kept for whoever branches from the same run next."""


@dataclass
class BranchEngine:
    """See the module.

    Attributes:
        bridge: transformer-lens' TransformerBridge, raw (no compatibility mode).
        tick: called with the number of rows of each branch and run.
        most: branches that are tried at once; halved when memory runs out.
        remembered: records of runs, the least used first.
        room: bytes of them that may be kept.
        positions_computed: tokens times layers so far, for benchmarks.
    """

    bridge: Any
    tick: Callable[[int], None] | None = None
    name: str = "branch"
    most: int = 1 << 20
    room: int = REMEMBERED
    remembered: OrderedDict[bytes, Record] = field(default_factory=OrderedDict)
    positions_computed: int = 0
    points: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        tokens: Tokens,
        edits: Sequence[Edit] = (),
        readings: Sequence[Reading] = (),
        *,
        answer: bool = True,
    ) -> BranchRun:
        return BranchRun(self, tokens, tuple(edits), tuple(readings), answer)

    def point(self, hook: str) -> Any:
        """transformer-lens' hook point; looking one up builds a table of all."""
        if not self.points:
            self.points.update(self.bridge.hook_dict)
        return self.points[hook]

    def count(self, rows: int) -> None:
        if self.tick is not None:
            self.tick(rows)

    def made(
        self, tokens: Tokens, edits: Sequence[Edit] = (), readings: Sequence[Reading] = ()
    ) -> Record:
        """A record, made now."""
        found = record(self.bridge, tokens, edits, readings)
        self.positions_computed += tokens.ids.numel() * len(found.residuals)
        return found

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
        if found.bytes <= self.room:
            self.remembered[key] = found
            while sum(each.bytes for each in self.remembered.values()) > self.room:
                self.remembered.popitem(last=False)


def content(tensor: Tensor | None) -> bytes:
    """Shape and values."""
    if tensor is None:
        return b"none"
    plain = tensor.detach().cpu().contiguous()
    return repr(tuple(plain.shape)).encode() + plain.flatten().view(torch.uint8).numpy().tobytes()


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
    def record(self) -> Record:
        """Made once for all runs of this batch with these edits, as long as there is room."""
        if not self.on_record:
            self.engine.count(self.tokens.ids.shape[0])
            return self.engine.made(self.tokens, self.edits, self.readings)
        memory, key = self.engine.remembered, self.engine.known(self.tokens, self.edits)
        if key in memory:
            memory.move_to_end(key)
            return memory[key]
        self.engine.count(self.tokens.ids.shape[0])
        found = self.engine.made(self.tokens, self.edits)
        self.engine.remember(key, found)
        return found

    @cached_property
    def outcome(self) -> Outcome:
        if not self.answer and "record" not in self.__dict__:
            key = self.engine.known(self.tokens, self.edits)
            if not (self.on_record and key in self.engine.remembered):
                self.engine.count(self.tokens.ids.shape[0])
                return glance(self.engine.bridge, self.tokens, self.edits, self.readings)
        kept = self.record
        if not self.on_record:
            return kept.outcome
        return Outcome(kept.outcome.logits, tuple(self.read(kept, r) for r in self.readings))

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
        planner = Planner(self.tokens, len(self.engine.bridge.blocks))
        room = max(LEAST_ROOM, int(ROOM * self.tokens.ids.shape[1]))
        for pack in packs(map(planner.plan, branches), room):
            for outcome in self.within_memory(pack, gradients):
                self.engine.count(self.tokens.ids.shape[0])
                yield outcome

    def within_memory(self, pack: Sequence[Planned], gradients: bool) -> Iterator[Outcome]:
        """A pack's outcomes, in smaller packs where memory runs out."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        waiting = in_parts(pack, self.engine.most)
        while waiting:
            part = waiting.pop(0)
            try:
                with torch.set_grad_enabled(gradients):
                    found = replay(self, part)
            except RuntimeError as problem:
                if len(part) == 1 or not should_reduce_batch_size(problem):
                    raise
                self.engine.most = max(1, len(part) // 2)
                waiting[:0] = in_parts(part, self.engine.most)
                clear_device_cache(garbage_collect=True)
                continue
            yield from found


def in_parts(pack: Sequence[Planned], most: int) -> list[Sequence[Planned]]:
    return [pack[i : i + most] for i in range(0, len(pack), most)]


def replay(run: BranchRun, pack: Sequence[Planned]) -> list[Outcome]:
    """The outcomes of branches that fit side by side, in the order given."""
    order = sorted(range(len(pack)), key=lambda i: pack[i].first)
    layout = Layout(run.tokens, [pack[i] for i in order])
    bridge, kept = run.engine.bridge, run.record
    changes = Changes.of(layout, run.edits, kept.z)
    hidden = kept.residuals[0][:, :0]
    masks: dict[int, Tensor] = {}
    lowest = layout.members[0].first
    highest = max(member.last for member in layout.members)
    hooks = changes.hooks(range(lowest, highest + 1))
    with ExitStack() as stack:
        stack.enter_context(attached([(run.engine.point(s.hook), h) for s, h in hooks.items()]))
        if (columns := answer_columns(run, layout)) is not None:
            stack.enter_context(last_mlp_at(bridge, columns, hooks))
        for layer in range(lowest, highest + 1):
            width, before = layout.width(layer), hidden.shape[1]
            if width > before:
                rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
                joining = kept.residuals[layer][rows, layout.positions[:, before:width]]
                hidden = torch.cat([hidden, joining], dim=1)
            if changes.gives_z(layer, before):
                changes.given.add(layer)
            hidden = run_layer(run, layout, changes, layer, hidden, masks)
            run.engine.positions_computed += hidden.shape[0] * width
        changes.check(list(hooks))
        logits = answers(run, layout, columns, hidden)
    outcomes = [
        Outcome(logits[i] if member.branch.answer else logits[i][:, :0], changes.readings(i))
        for i, member in enumerate(layout.members)
    ]
    return [outcomes[order.index(i)] for i in range(len(pack))]


@dataclass
class SharedCache:
    """What a layer's attention finds where it looks for a cache: the run's keys and values, which
    stay as they are, before those of the tokens at hand."""

    record: Record

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """[R, KV, S + W, d] of both."""
        return (
            torch.cat([self.record.keys[layer], keys], dim=2),
            torch.cat([self.record.values[layer], values], dim=2),
        )

    def get_seq_length(self, layer: int = 0) -> int:
        return self.record.keys[layer].shape[2]


def run_layer(
    run: BranchRun,
    layout: Layout,
    changes: Changes,
    layer: int,
    hidden: Tensor,
    masks: dict[int, Tensor],
) -> Tensor:
    """[R, W, d] after a layer, called as the model called it.

    Args:
        run: with its record.
        layout: the tokens.
        changes: what is edited; says whether the layer's z is given.
        layer: which.
        hidden: [R, W, d] before it.
        masks: attention masks by identity of what the run's tokens see; layers share them.
    """
    kept, block = run.record, run.engine.bridge.blocks[layer]
    call = kept.calls[layer]
    width = hidden.shape[1]
    at = layout.positions[:, :width]
    arguments = dict(call.arguments)
    for name, value in call.arguments.items():
        if name in CACHES:
            arguments[name] = SharedCache(kept)
        elif name in INDEXED and value is not None:
            arguments[name] = picked(value, at)
    if layer in changes.given:
        rows = torch.arange(at.shape[0], device=at.device)[:, None]
        with attention_given(block.attn, kept.z[layer][rows, at]):
            out = block(**{call.hidden: hidden}, **arguments)
    else:
        seen = call.visible
        if id(seen) not in masks:
            masks[id(seen)] = layout.mask(seen, hidden.dtype)
        arguments["attention_mask"] = masks[id(seen)][:, :, :width, : seen.shape[2] + width]
        out = block(**{call.hidden: hidden}, **arguments)
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


def picked(value: Any, at: Tensor) -> Any:
    """What is indexed by position, [1 or R, S, ...], for tokens at [R, W]."""
    if isinstance(value, tuple):
        return tuple(picked(each, at) for each in value)
    rows = torch.arange(at.shape[0], device=at.device)[:, None]
    return value.expand(at.shape[0], *value.shape[1:])[rows, at]


def attention_given(attention: Any, z: Tensor) -> AbstractContextManager[None]:
    """The layer's attention does nothing but project z, [R, W, H, d]; edits of z hold."""
    return instead(
        attention, lambda *_, **__: (attention.hook_out(attention.o(z.flatten(2))), None)
    )


def answer_columns(run: BranchRun, layout: Layout) -> Tensor | None:
    """[R, N'] of the members whose answer is wanted; None where nobody's is."""
    last = run.tokens.last[:, None]
    found = [layout.where(i, last).columns for i, m in enumerate(layout.members) if m.branch.answer]
    return torch.cat(found, dim=1) if found else None


def answers(run: BranchRun, layout: Layout, columns: Tensor | None, hidden: Tensor) -> list[Tensor]:
    """[R, V] of each member, [R, 0] where no answer is wanted."""
    found = [hidden.new_zeros(hidden.shape[0], 0)] * len(layout.members)
    if columns is not None:
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        logits = at_least_float(head(run.engine.bridge, run, hidden[rows, columns.T]))
        wanted = [i for i, member in enumerate(layout.members) if member.branch.answer]
        for i, each in zip(wanted, logits, strict=True):
            found[i] = each
    return found


def head(bridge: Any, run: BranchRun, hidden: Tensor) -> Tensor:
    """[N, R, V] from the last layer's residual [N, R, d], by what the model does after its layers.

    The model runs with its layers bypassed, so that soft-caps and scales are not missed.
    """
    members, rows, width = hidden.shape
    # each as a prompt of one token: some families take the shape of their ids for that of the
    # residual, and one token never exceeds the positions that they know
    last = hidden.reshape(members * rows, 1, width)
    ids = run.tokens.ids[:1, :1].expand(members * rows, 1)
    with ExitStack() as stack:
        for block, call in zip(bridge.blocks, run.record.calls, strict=True):
            out = (last,) if call.tupled else last
            stack.enter_context(instead(block, lambda *_, out=out, **__: out))
        logits: Tensor = bridge(ids, attention_mask=torch.ones_like(ids), return_type="logits")
    return logits.reshape(members, rows, -1)
