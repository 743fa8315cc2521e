"""What replaces the output of an ablated head, z, or of an ablated MLP. Below, z stands for both.

``positional_mean``
    the model's own mean of z over background prompts at the same slot. A slot is (anchor of the
    template, tokens since it), so that prompts of different lengths are averaged at the same place
    (Prakash et al. 2024, appendix: the mean at each absolute position of a rigid template)
``mean``
    one mean over all slots
``zero``
    0
``resample``
    z of another prompt at the same slot
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.fields.ablation import LEAST_PROMPTS, Ablation
from pytest_mechanism.measurements.backgrounds import Slot, too_few
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Batch, Side
from pytest_mechanism.types import canonical

Means = dict[Slot, Float[Tensor, "layers heads width"]]
"""z of every layer, by slot."""

LayerZ = list[Float[Tensor, "_ _ heads _"]]
"""z of each layer, broadcastable to [rows, tokens, heads, d_head]; for MLPs, [rows, tokens, 1, d_model]."""

Ablated = Literal["z", "mlp_out"]
"""Whose output is replaced: that of heads or of MLPs."""


def replacements(
    context: MeasurementContext, batch: Batch, ablation: Ablation, part: Ablated = "z"
) -> LayerZ:
    """What replaces z of an ablated head, or the output of an ablated MLP, layer by layer."""
    kind = ablation.value
    shape = context.model.shape
    if kind == "zero":
        rows, length = batch.base.tokens.ids.shape
        zero = torch.zeros(rows, length, heads_of(context, part), 1, device=context.model.device)
        return [zero] * shape.n_layers
    if kind == "resample":
        return by_slot(batch.base, sampled(context, batch, part))
    settings = context.task.settings.model_dump(mode="json")
    means = context.remember(
        ("background", canonical(settings), ablation, part),
        lambda: background(context, ablation.prompts, every_slot=kind == "mean", part=part),
    )
    if kind == "mean":
        overall = means.get(("", 0))
        if overall is None:
            raise MeasurementError(
                f"the background prompts have fewer than {LEAST_PROMPTS} tokens; give the task more words"
            )
        return list(overall[:, None, None])
    return by_slot(batch.base, [means] * len(batch.rows))


def heads_of(context: MeasurementContext, part: Ablated) -> int:
    """Heads of an activation; an MLP's output has one."""
    return context.model.shape.n_heads if part == "z" else 1


def background(
    context: MeasurementContext, prompts: int, every_slot: bool, part: Ablated = "z"
) -> Means:
    """Means of z over background prompts, by slot; with ``every_slot`` one mean over all slots, under
    the slot ("", 0). Slots that fewer than `LEAST_PROMPTS` prompts have are left out.
    """
    shape, device = context.model.shape, context.model.device
    exact = torch.float32 if device.type == "mps" else torch.float64
    readings = [Reading(Site(layer, part)) for layer in range(shape.n_layers)]
    slots: dict[Slot, int] = {}
    width = shape.d_head if part == "z" else shape.d_model
    size = (shape.n_layers, heads_of(context, part), width)
    sums = torch.zeros(0, *size, dtype=exact, device=device)
    counts = torch.zeros(0, dtype=torch.long, device=device)
    rows = context.task.backgrounds(context.vocabulary, prompts)
    # prompts of one length side by side: less padding, which costs as much as tokens
    rows = sorted(rows, key=lambda row: len(context.model.encoder.encode(row.base).ids))
    for batch in context.batches(rows):
        tokens = batch.base.tokens
        layers = context.engine.run(tokens, readings=readings, answer=False).outcome.readings
        places = [
            (slots.setdefault(("", 0) if every_slot else slot, len(slots)), row, column)
            for row, row_slots in enumerate(batch.base.slots)
            for column, slot in enumerate(row_slots)
        ]
        index, rows, at = torch.tensor(places, device=device).T.contiguous()
        more = len(slots) - len(sums)
        sums = torch.cat([sums, sums.new_zeros(more, *sums.shape[1:])])
        counts = torch.cat([counts, counts.new_zeros(more)])
        for layer, z in enumerate(layers):
            sums[:, layer].index_add_(0, index, z[rows, at].to(exact))
        counts += torch.bincount(index, minlength=len(slots))
    means = (sums / counts[:, None, None, None]).to(layers[0].dtype)
    prompt_counts = counts.tolist()
    return {slot: means[i] for slot, i in slots.items() if prompt_counts[i] >= LEAST_PROMPTS}


def by_slot(side: Side, sources: Sequence[Means]) -> LayerZ:
    """z of each slot, layer by layer; each row has its own source of means.

    Raises:
        MeasurementError: no mean for one of a row's slots.
    """
    rows, length = side.tokens.ids.shape
    stacked: dict[int, tuple[dict[Slot, int], Tensor]] = {}
    for slots, means in zip(side.slots, sources, strict=True):
        for slot in slots:
            if slot not in means:
                raise MeasurementError(f"{too_few(slot)}; raise ablation.prompts")
    first = next(iter(sources[0].values()))
    table = first.new_zeros(rows, length, *first.shape)
    for r, (slots, means) in enumerate(zip(side.slots, sources, strict=True)):
        if id(means) not in stacked:  # most often one source for all rows
            stacked[id(means)] = (
                dict(zip(means, range(len(means)), strict=True)),
                torch.stack([*means.values()]),
            )
        order, values = stacked[id(means)]
        table[r, : len(slots)] = values[[order[slot] for slot in slots]]
    return list(table.permute(2, 0, 1, 3, 4))


def sampled(context: MeasurementContext, batch: Batch, part: Ablated = "z") -> list[Means]:
    """z of one background prompt for each row, in the form of means."""
    first = int(batch.rows[0].id.rsplit("-", 1)[-1])
    rows = context.task.backgrounds(context.vocabulary, first + len(batch.rows), "resample")[first:]
    shape = context.model.shape
    side = context.side([row.base for row in rows])
    readings = [Reading(Site(layer, part)) for layer in range(shape.n_layers)]
    outcome = context.engine.run(side.tokens, readings=readings, answer=False).outcome
    z = torch.stack(outcome.readings)
    samples: list[Means] = []
    for r, slots in enumerate(side.slots):
        own = {slot: z[:, r, s] for s, slot in enumerate(slots)}
        for slot in batch.base.slots[r]:
            if slot not in own:
                # the other prompt has no such filler: take the nearest slot of that anchor
                near = [k for k in own if k[0] == slot[0]]
                if not near:
                    raise MeasurementError(
                        f"ablation: {{value: resample}}: a prompt has the anchor {slot[0]!r}, and "
                        "the prompt drawn to replace it has not; write ablation: {value: mean}"
                    )
                own[slot] = own[min(near, key=lambda k: abs(k[1] - slot[1]))]
        samples.append(own)
    return samples
