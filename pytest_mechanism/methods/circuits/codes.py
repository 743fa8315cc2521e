"""Do heads of two models speak one code?

z of a head is a code that its own output matrix reads. Heads of a layer can change places, and z of a
head can be written in another basis (W_V times a rotation, W_O times its inverse), and the model
computes the same; z put from one into the other then says something else, or nothing. A fine-tune of
a model keeps the code. So before z of a head is exchanged by its index, the recipient reads the
donor's z, on the donor's own rows:

    A = what the recipient writes to the residual stream for the donor's z of head h at h,
    B = what the donor writes for it,
    agreement = 2 <A, B> / (|A|^2 + |B|^2), over rows and places,

1 where they are the same, near 0 where they have nothing to do with each other. Measured: 0.997 to
1.000 between the embedded pair, 0.78 to 1.00 after a training that hides a capability, 0.05 to 0.80
between two models trained from different random weights on one task.

Where a head's code is another one, its work may be done by another head, or by itself in another
code: then what the recipient's heads write for their own z is compared with B, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site
from pytest_mechanism.measurements.cmap import LEAST_AGREEMENT, HeadCode
from pytest_mechanism.methods.context import Batch, MeasurementContext

Place = tuple[int, str]
"""(layer, named position)."""


def writes(
    context: MeasurementContext, batch: Batch, z: Mapping[Place, tuple[Tensor, Sequence[int]]]
) -> dict[Place, Tensor]:
    """What heads write to the residual stream, [R, K, heads, d_model].

    Args:
        bench: the model whose output matrices read.
        batch: the rows.
        z: place -> ([R, K, heads, d], which heads they are).
    """
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
    found: dict[Place, list[Tensor]] = {}
    for owner, outcome in zip(owners, run.branches(branches), strict=True):
        found.setdefault(owner, []).append(outcome.readings[0][:, :, 0].float())
    # the first of each place has every head silent: what is left is the matrix' own offset
    return {
        place: torch.stack([own - silent for own in alone], dim=2)
        for place, (silent, *alone) in found.items()
    }


def agreement(one: Tensor, other: Tensor) -> float:
    """Of two sets of vectors of one shape; 0 where both are nothing."""
    a, b = one.double().cpu(), other.double().cpu()
    size = float(a.square().sum() + b.square().sum())
    return 2 * float((a * b).sum()) / size if size else 0.0


def own_writes(context: MeasurementContext, batch: Batch, place: Place) -> Tensor:
    """What every head of a layer writes at a position for its own z, [R, K, H, d_model]."""
    layer, name = place
    reading = Reading(Site(layer, "z"), batch.base.at(name))
    (z,) = context.engine.run(batch.base.tokens, readings=[reading], answer=False).outcome.readings
    return writes(context, batch, {place: (z, range(z.shape[2]))})[place]


def compared(
    context: MeasurementContext,
    batch: Batch,
    donated: Mapping[Place, tuple[Tensor, Sequence[int]]],
    written: Mapping[Place, Tensor],
) -> Iterator[HeadCode]:
    """How the recipient reads the donor's z of each head.

    Args:
        bench: the recipient.
        batch: the first rows.
        donated: the donor's z on them.
        written: what the donor's own matrices make of it.
    """
    read = writes(context, batch, donated)
    for place, (_, heads) in donated.items():
        layer, name = place
        for number, head in enumerate(heads):
            theirs = written[place][:, :, number]
            same = agreement(read[place][:, :, number], theirs)
            done_by = None
            if same < LEAST_AGREEMENT:
                own = own_writes(context, batch, place)
                likes = [agreement(own[:, :, j], theirs) for j in range(own.shape[2])]
                best = max(range(len(likes)), key=lambda j: (likes[j], j == head))
                if likes[best] >= LEAST_AGREEMENT:
                    done_by = best
            yield HeadCode(layer, head, name, round(same, 6), done_by)
