"""Do heads of two models write z in one code?

z of a head is a code that its own output matrix reads. Heads of a layer can change places, and z of a
head can be written in another basis (W_V times a rotation, W_O times its inverse), and the model
computes the same; but such a z means something else, or nothing, in the other model. Fine-tuning
keeps the code. So before z is exchanged by the index of a head, the recipient reads the donor's z on
the donor's own rows:

    A = what the recipient writes to the residual stream for the donor's z of head h at h
    B = what the donor writes for it
    agreement = 2 <A, B> / (|A|^2 + |B|^2), over rows and places

It is 1 where both are the same and near 0 where they are unrelated. Measured: 0.997 to 1.000 in the
embedded pair, 0.78 to 1.00 after a training that hides a capability, 0.05 to 0.80 between two models
trained from different random weights on one task.

Where a head's code differs, another head may do its work, or the same head in another code: then B is
also compared with what the recipient's heads write for their own z.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site
from pytest_mechanism.measurements.cmap import LEAST_AGREEMENT, HeadCode
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Batch

Place = tuple[int, str]
"""(layer, named position)."""

PlacedZ = Mapping[Place, tuple[Float[Tensor, "_ _ _ d_head"], Sequence[int]]]
"""place -> z of some heads, [rows, places, heads, d_head], and which heads they are."""

Writes = Mapping[Place, Float[Tensor, "_ _ _ d_model"]]
"""place -> what these heads write to the residual stream, [rows, places, heads, d_model]."""


def head_writes(context: MeasurementContext, batch: Batch, z: PlacedZ) -> Writes:
    """What the model's output matrices make of z, head by head."""
    run = context.engine.run(batch.base.tokens)
    branches, owners = [], []
    for (layer, name), (values, heads) in z.items():
        at = batch.base.at(name)
        rows, places, _, width = values.shape
        for number in (None, *range(len(heads))):
            alone = values.new_zeros(rows, places, context.model.shape.n_heads, width)
            if number is not None:
                alone[:, :, heads[number]] = values[:, :, number]
            reading = Reading(Site(layer, "attn_out"), at)
            branches.append(Branch([Edit(Site(layer, "z"), alone, at=at)], [reading], answer=False))
            owners.append((layer, name))
    outputs: dict[Place, list[Tensor]] = {}
    for owner, outcome in zip(owners, run.branches(branches), strict=True):
        outputs.setdefault(owner, []).append(outcome.readings[0][:, :, 0].float())
    # the first of each place has all heads ablated: what is left is the matrix' own bias
    return {
        place: torch.stack([output - bias for output in of_heads], dim=2)
        for place, (bias, *of_heads) in outputs.items()
    }


def agreement(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    """2 <A, B> / (|A|^2 + |B|^2); 0 where both are 0."""
    a, b = a.double().cpu(), b.double().cpu()
    size = float(a.square().sum() + b.square().sum())
    return 2 * float((a * b).sum()) / size if size else 0.0


def own_writes(
    context: MeasurementContext, batch: Batch, place: Place
) -> Float[Tensor, "rows places heads d_model"]:
    """What every head of a layer writes at a position for its own z."""
    layer, name = place
    reading = Reading(Site(layer, "z"), batch.base.at(name))
    (z,) = context.engine.run(batch.base.tokens, readings=[reading], answer=False).outcome.readings
    return head_writes(context, batch, {place: (z, range(z.shape[2]))})[place]


def compare_codes(
    context: MeasurementContext, batch: Batch, donor_z: PlacedZ, donor_writes: Writes
) -> Iterator[HeadCode]:
    """How the recipient reads the donor's z of each head.

    Args:
        context: the recipient.
        batch: the first rows.
        donor_z: the donor's z on them.
        donor_writes: what the donor's own matrices make of it.
    """
    recipient_writes = head_writes(context, batch, donor_z)
    for place, (_, heads) in donor_z.items():
        layer, name = place
        own = None
        for number, head in enumerate(heads):
            b = donor_writes[place][:, :, number]
            of_head = agreement(recipient_writes[place][:, :, number], b)
            done_by = None
            if of_head < LEAST_AGREEMENT:
                own = own_writes(context, batch, place) if own is None else own
                of_own = [agreement(own[:, :, other], b) for other in range(own.shape[2])]
                best = max(range(len(of_own)), key=lambda other: (of_own[other], other == head))
                if of_own[best] >= LEAST_AGREEMENT:
                    done_by = best
            yield HeadCode(layer, head, name, round(of_head, 6), done_by)
