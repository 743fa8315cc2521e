"""Many branches of a run through the layers, side by side.

The layers are the model's own: each is called as the model called it, with the arguments that are
indexed by position picked for the tokens at hand. Where a layer's z is given, attention is not
computed. Logits are taken at the answer's position only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.changes import Changes
from pytest_mechanism.engine.interface import Edit, Outcome, Tokens
from pytest_mechanism.engine.layout import ROOM, Layout, Memo, Planned, led
from pytest_mechanism.engine.record import (
    CACHES,
    INDEXED,
    Record,
    attached,
    instead,
    last_mlp_at,
)
from pytest_mechanism.engine.reference import at_least_float, index, scores_matter


@dataclass(frozen=True, eq=False)
class Remembered:
    """A run that branches are replayed on.

    Attributes:
        bridge: the model.
        points: transformer-lens' hook points by name.
        tokens: the batch.
        edits: the run's own.
        record: what it left.
        memo: of its layouts.
    """

    bridge: Any
    points: Mapping[str, Any]
    tokens: Tokens
    edits: Sequence[Edit]
    record: Record
    memo: Memo = field(default_factory=Memo)

    @cached_property
    def last(self) -> Tensor:
        """[R, 1], where answers are read."""
        return self.tokens.last[:, None]


LOGITS = 32 << 20
"""Bytes of logits that are computed at once: those of many branches over a large vocabulary would
need more memory than everything else."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """Branches that went through the layers; their logits are computed when they are asked for.

    Attributes:
        run: that they are branches of.
        layout: their tokens.
        order: places of members in the order of the branches.
        last: [N, R, d] after the last layer, of the members whose answer is wanted.
        readings: of each member.
    """

    run: Remembered
    layout: Layout
    order: Sequence[int]
    last: Tensor
    readings: Sequence[tuple[Tensor, ...]]

    def __len__(self) -> int:
        return len(self.order)

    @property
    def at_once(self) -> int:
        """How many branches' logits may be computed together."""
        own = self.run.record.outcome.logits
        return max(1, LOGITS // max(1, own.numel() * own.element_size()))

    def outcomes(self, start: int, stop: int) -> list[Outcome]:
        """Of the branches with these numbers, in the order that they were given in."""
        members = [self.order[i] for i in range(start, min(stop, len(self)))]
        wanted = [i for i, m in enumerate(self.layout.members) if m.branch.answer]
        place = {member: at for at, member in enumerate(wanted)}
        asked = [place[i] for i in members if i in place]
        nothing = self.last.new_zeros(self.last.shape[1], 0)
        last = self.last[index(tuple(asked), self.last.device)]
        logits = iter(at_least_float(head(self.run, last)) if asked else ())
        return [Outcome(next(logits) if i in place else nothing, self.readings[i]) for i in members]


def replay(run: Remembered, pack: Sequence[Planned]) -> Replayed:
    """Branches that fit side by side, taken through the layers.

    Raises:
        SelfCheckError: a hook did not fire exactly once.
    """
    pack = led(pack)
    order = sorted(range(len(pack)), key=lambda i: pack[i].first)
    layout = Layout(run.tokens, [pack[i] for i in order], run.memo)
    bridge, kept = run.bridge, run.record
    changes = Changes.of(layout, run.edits, kept.z)
    hidden = kept.residuals[0][:, :0]
    masks: dict[int, Tensor] = {}
    lowest = layout.members[0].first
    highest = max(member.last for member in layout.members)
    hooks = changes.hooks(range(lowest, highest + 1))
    with ExitStack() as stack:
        if changes.cuts:
            stack.enter_context(scores_matter())
        stack.enter_context(attached([(run.points[s.hook], h) for s, h in hooks.items()]))
        if (columns := answer_columns(run, layout)) is not None:
            stack.enter_context(last_mlp_at(bridge, columns, hooks))
        for layer in range(lowest, highest + 1):
            width, before = layout.width(layer), hidden.shape[1]
            if width > before:
                hidden = torch.cat([hidden, joining(run, layout, layer, hidden)], dim=1)
            if changes.gives_z(layer, before):
                changes.given.add(layer)
            hidden = run_layer(run, layout, changes, layer, hidden, masks)
        changes.check(list(hooks))
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    nobody = hidden.new_zeros(0, hidden.shape[0], hidden.shape[2])
    return Replayed(
        run,
        layout,
        [order.index(i) for i in range(len(pack))],
        nobody if columns is None else hidden[rows, columns.T],
        [changes.readings(i) for i in range(len(pack))],
    )


def joining(run: Remembered, layout: Layout, layer: int, hidden: Tensor) -> Tensor:
    """[R, K, d] before a layer, of the tokens that are computed from it on: as in the run, or as in
    the branch that theirs has been so far."""
    before, width = hidden.shape[1], layout.width(layer)
    rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    found = run.record.residuals[layer][rows, layout.positions[:, before:width]]
    for i, member in enumerate(layout.members):
        if member.first == layer and (origin := layout.origin(i)) is not None:
            start, count = layout.starts[i] - before, member.active.shape[1]
            found[:, start : start + count] = hidden[:, origin : origin + count]
    return found


@dataclass
class SharedCache:
    """What a layer's attention finds where it looks for a cache: the run's keys and values, which
    stay as they are, before those of the tokens at hand."""

    record: Record
    prefix: int

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """[R, KV, prefix + W, d] of both."""
        kept = self.record
        if not self.prefix:  # in half precision, some families' rotation widens keys alone
            return key_states.to(kept.keys[layer_idx].dtype), value_states.to(
                kept.values[layer_idx].dtype
            )
        return (
            self.joined("keys", kept.keys, layer_idx, key_states),
            self.joined("values", kept.values, layer_idx, value_states),
        )

    def joined(self, what: str, kept: list[Tensor], layer: int, new: Tensor) -> Tensor:
        """The run's, then the new ones.

        Copying a long prompt's keys for a few tokens costs more than their attention: a few are
        written behind the run's own, where room is made once. What is learned from must not be
        written over.
        """
        have, width = kept[layer], new.shape[2]
        length = have.shape[2]
        room = length // ROOM
        if width > room or self.prefix < length or torch.is_grad_enabled():
            return torch.cat([have[:, :, : self.prefix], new], dim=2)
        rooms = self.record.rooms
        if (what, layer) not in rooms:
            whole = have.new_empty(*have.shape[:2], length + room, have.shape[3])
            whole[:, :, :length] = have
            rooms[what, layer], kept[layer] = whole, whole[:, :, :length]
        whole = rooms[what, layer]
        whole[:, :, length : length + width] = new
        return whole[:, :, : length + width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prefix


def run_layer(
    run: Remembered,
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
    kept, block = run.record, run.bridge.blocks[layer]
    call = kept.calls[layer]
    width = hidden.shape[1]
    at = layout.positions[:, :width]
    arguments = dict(call.arguments)
    for name, value in call.arguments.items():
        if name in CACHES:
            arguments[name] = SharedCache(kept, layout.prefix)
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
        arguments["attention_mask"] = masks[id(seen)][:, :, :width, : layout.prefix + width]
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


def answer_columns(run: Remembered, layout: Layout) -> Tensor | None:
    """[R, N'] of the members whose answer is wanted; None where nobody's is."""
    found = [
        layout.where(i, run.last).columns for i, m in enumerate(layout.members) if m.branch.answer
    ]
    return torch.cat(found, dim=1) if found else None


def head(run: Remembered, hidden: Tensor) -> Tensor:
    """[N, R, V] from the last layer's residual [N, R, d], by what the model does after its layers.

    The model runs with its layers bypassed, so that soft-caps and scales are not missed.
    """
    members, rows, width = hidden.shape
    # each as a prompt of one token: some families take the shape of their ids for that of the
    # residual, and one token never exceeds the positions that they know
    last = hidden.reshape(members * rows, 1, width)
    ids = run.tokens.ids[:1, :1].expand(members * rows, 1)
    with ExitStack() as stack:
        for block, call in zip(run.bridge.blocks, run.record.calls, strict=True):
            out = (last,) if call.tupled else last
            stack.enter_context(instead(block, lambda *_, out=out, **__: out))
        logits: Tensor = run.bridge(ids, attention_mask=torch.ones_like(ids), return_type="logits")
    return logits.reshape(members, rows, -1)
