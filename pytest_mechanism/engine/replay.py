"""Many branches of a run through the layers, side by side.

The layers are the model's own: the engine calls each as the model called it, with the arguments of
the positions at hand. Where a layer's z is known, attention is not computed. Logits are computed only
where an answer is read.

Shapes as in `layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pytest_mechanism.engine.changes import Changes
from pytest_mechanism.engine.interface import Edit, Outcome, Tokens
from pytest_mechanism.engine.layout import SPARE_ROOM, Layout
from pytest_mechanism.engine.planning import PlannedBranch, TensorCache, share_prefix
from pytest_mechanism.engine.plumbing import at_least_float, index_tensor, knockouts_take_effect
from pytest_mechanism.engine.record import Keys, Record, last_mlp_at
from pytest_mechanism.model_families.layers import at_positions, logits_after_layers
from pytest_mechanism.model_families.wrapped import WrappedModel

LOGIT_BYTES = 32 << 20
"""Bytes of logits that are computed at once on a CPU: those of many branches over a large vocabulary would
need more memory than everything else."""

DEVICE_LOGIT_BYTES = 256 << 20
"""The same on other devices."""


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run that branches are replayed on.

    Attributes:
        model: the model.
        tokens: the batch.
        edits: the run's own.
        record_for: the run's record, with what branches in this layout compute and attend to; without a
            layout, with whatever it has.
        cache: of its layouts.
    """

    model: WrappedModel
    tokens: Tokens
    edits: Sequence[Edit]
    record_for: Callable[[Layout | None], Record]
    cache: TensorCache = field(default_factory=TensorCache)

    @cached_property
    def last(self) -> Int[Tensor, "rows 1"]:
        """Where answers are read."""
        return self.tokens.last[:, None]


@dataclass(frozen=True, eq=False)
class ReplayedPack:
    """Branches that went through the layers; their logits are computed on demand.

    Attributes:
        run: what they are branches of.
        layout: their columns.
        order: number of each branch's member in the layout.
        last: residual stream after the last layer, of the members whose answer is wanted.
        readings: of each member.
        bad_rows: rows whose readings are not finite.
    """

    run: RecordedRun
    layout: Layout
    order: Sequence[int]
    last: Float[Tensor, "answers rows d_model"]
    readings: Sequence[tuple[Tensor, ...]]
    bad_rows: Sequence[Bool[Tensor, " rows"]]

    def __len__(self) -> int:
        return len(self.order)

    @property
    def at_once(self) -> int:
        """How many branches' logits may be computed together."""
        of_run = self.run.record_for(None).outcome.logits
        room = LOGIT_BYTES if of_run.device.type == "cpu" else DEVICE_LOGIT_BYTES
        return max(1, room // max(1, of_run.numel() * of_run.element_size()))

    def outcomes(self, start: int, stop: int) -> list[Outcome]:
        """Outcomes of the branches ``start`` to ``stop - 1``, in the order asked for."""
        members = [self.order[i] for i in range(start, min(stop, len(self)))]
        answering = [i for i, m in enumerate(self.layout.members) if m.branch.answer]
        place = {member: number for number, member in enumerate(answering)}
        wanted = [place[i] for i in members if i in place]
        no_logits = self.last.new_zeros(self.last.shape[1], 0)
        if not wanted:
            return [Outcome(no_logits, self.readings[i]) for i in members]
        last = self.last[index_tensor(tuple(wanted), self.last.device)]
        together = at_least_float(unembed(self.run, last))
        logits = iter(together.unbind())
        return [
            Outcome(next(logits), self.readings[i], together)
            if i in place
            else Outcome(no_logits, self.readings[i])
            for i in members
        ]


def unembed(
    run: RecordedRun, last: Float[Tensor, "answers rows d_model"]
) -> Float[Tensor, "answers rows words"]:
    """Logits of the residual stream after the last layer."""
    answers, rows, width = last.shape
    residual, token = last.reshape(answers * rows, width), run.tokens.ids[:1, :1]
    with run.model.unobserved():
        calls = run.record_for(None).calls
        logits = logits_after_layers(run.model, calls, residual, token)
    return logits.reshape(answers, rows, -1)


def replay(run: RecordedRun, pack: Sequence[PlannedBranch]) -> ReplayedPack:
    """Take branches that fit side by side through the layers.

    Raises:
        SelfCheckError: a hook did not fire exactly once.
    """
    pack = share_prefix(pack)
    order = sorted(range(len(pack)), key=lambda i: pack[i].first)
    layout = Layout(run.tokens, [pack[i] for i in order], run.cache)
    record = run.record_for(layout)
    changes = Changes.of(layout, run.edits, record)
    hidden = record.residuals[0][:, :0]
    lowest = layout.members[0].first
    highest = max(member.last for member in layout.members)
    hooks = changes.hooks(range(lowest, highest + 1))
    with ExitStack() as stack:
        if changes.cuts:
            stack.enter_context(knockouts_take_effect())
        stack.enter_context(run.model.hooked([(site.hook, hook) for site, hook in hooks.items()]))
        stack.enter_context(run.model.unobserved())
        if (columns := answer_columns(run, layout)) is not None:
            in_row = columns
            if layout.apart:
                in_row = (columns % layout.apart).reshape(-1, 1)
            stack.enter_context(last_mlp_at(run.model, in_row, hooks))
        for layer in range(lowest, highest + 1):
            width, before = layout.width(layer), hidden.shape[1]
            if width > before:
                hidden = torch.cat([hidden, joining(record, layout, layer, hidden)], dim=1)
            if changes.knows_z(layer, before):
                changes.skipped.add(layer)
            hidden = run_layer(run.model, record, layout, changes, layer, hidden)
        changes.check(hooks)
    nobody = hidden.new_zeros(0, hidden.shape[0], hidden.shape[2])
    return ReplayedPack(
        run,
        layout,
        sorted(range(len(pack)), key=order.__getitem__),
        nobody if columns is None else hidden[layout.rows[:, 0], columns.T],
        [changes.readings(i) for i in range(len(pack))],
        changes.bad_rows,
    )


def joining(
    record: Record, layout: Layout, layer: int, hidden: Float[Tensor, "rows computed d_model"]
) -> Float[Tensor, "rows joining d_model"]:
    """The residual stream before a layer of the columns that are computed from it on: the run's, or
    that of the branch that they follow."""
    before, width = hidden.shape[1], layout.width(layer)
    residual = record.residuals[layer][
        layout.rows, layout.positions_from(record.extent.start)[:, before:width]
    ]
    for i, member in enumerate(layout.members):
        if member.first == layer and (leader := layout.leader_column(i)) is not None:
            start, count = layout.starts[i] - before, member.active.shape[1]
            residual[:, start : start + count] = hidden[:, leader : leader + count]
    return residual


NewKeys = Float[Tensor, "copies kv_heads columns d_head"]
"""Keys or values of the columns, in the rows that the layer gets (`Layout.into_rows`)."""


@dataclass
class SharedCache:
    """A layer's cache of keys and values: the first ``prefix`` keys of a run of ``length`` tokens, which
    stay as they are, then those of the columns. In a layout whose members have separate rows, each row of
    the run is repeated for its ``copies`` members."""

    record: Record
    length: int
    prefix: int
    copies: int = 1

    def update(
        self, key_states: NewKeys, value_states: NewKeys, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and all values of a layer, [rows, kv_heads, prefix + columns, d_head]."""
        record = self.record
        if not self.prefix:  # in half precision, some families' rotation widens keys alone
            return key_states.to(record.keys[layer_idx].dtype), value_states.to(
                record.values[layer_idx].dtype
            )
        return (
            self.joined("keys", record.keys, layer_idx, key_states),
            self.joined("values", record.values, layer_idx, value_states),
        )

    def joined(self, name: str, kept: list[Keys], layer: int, new: NewKeys) -> Tensor:
        """The run's keys or values, then the new ones.

        To copy a long prompt's keys for a few tokens costs more than the tokens' attention. So a few
        are written into spare room behind the run's own, which is made once; but not with gradients,
        since what they need must not be written over.
        """
        of_run, width, length = kept[layer], new.shape[2], self.length
        room = length // SPARE_ROOM
        if self.copies > 1:
            of_run = of_run[:, :, : self.prefix].repeat_interleave(self.copies, 0)
            return torch.cat([of_run, new], dim=2)
        if width > room or self.prefix < length or torch.is_grad_enabled():
            return torch.cat([of_run[:, :, : self.prefix], new], dim=2)
        rooms = self.record.spare_rooms
        if (name, layer) not in rooms:
            whole = of_run.new_empty(*of_run.shape[:2], length + room, of_run.shape[3])
            whole[:, :, :length] = of_run
            rooms[name, layer], kept[layer] = whole, whole[:, :, :length]
        whole = rooms[name, layer]
        whole[:, :, length : length + width] = new
        return whole[:, :, : length + width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """transformers asks a cache for this."""
        return self.prefix


def run_layer(
    model: WrappedModel,
    record: Record,
    layout: Layout,
    changes: Changes,
    layer: int,
    hidden: Float[Tensor, "rows computed d_model"],
) -> Float[Tensor, "rows computed d_model"]:
    """The residual stream after a layer, which is called as the model called it.

    Args:
        model: whose layer.
        record: of the run.
        layout: the columns.
        changes: what is edited; says whether the layer's z is known.
        layer: which.
        hidden: the residual stream before it.
    """
    block = model.layers[layer]
    call = record.calls[layer]
    width = hidden.shape[1]
    arguments = call.with_positions(partial(argument_at, layout, width))
    for name in call.cache_arguments:
        copies = width // layout.apart if layout.apart else 1
        arguments[name] = SharedCache(record, layout.length, layout.prefix, copies)
    arguments[call.hidden] = layout.into_rows(hidden)
    if layer in changes.skipped:
        at = layout.positions_from(record.extent.start)[:, :width]
        z = record.z[layer][layout.rows, at]
        with block.attention_from_z(layout.into_rows(z)):
            out = block.module(**arguments)
    else:
        arguments["attention_mask"] = layout.mask_in(layer, call.visible, hidden.dtype)
        out = block.module(**arguments)
    after: Tensor = out[0] if isinstance(out, tuple) else out
    return layout.into_columns(after)


def argument_at(layout: Layout, width: int, value: Any) -> Any:
    """A layer's argument with an entry for each of the run's positions, or a tuple of such tensors, for
    the first columns of a layout."""
    whole = layout.once(
        ("argument", id(value)), lambda: at_positions(value, layout.rows, layout.positions), value
    )

    def part(of: Any) -> Any:
        return tuple(map(part, of)) if isinstance(of, tuple) else layout.into_rows(of[:, :width])

    return layout.once(("argument", id(value), width, layout.apart), lambda: part(whole))


def answer_columns(run: RecordedRun, layout: Layout) -> Int[Tensor, "rows answers"] | None:
    """Columns of the members whose answer is wanted; None where nobody's is."""
    answering = [i for i, member in enumerate(layout.members) if member.branch.answer]
    return layout.locate_all([(i, run.last) for i in answering]).columns if answering else None
