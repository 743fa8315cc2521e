"""Which heads of two models do the same, whatever their index.

Heads of a layer can change places, and z of a head can be written in another basis; the model computes the
same (`methods.circuits.codes`, which has the formula of agreement). Here all pairs of heads of a layer are compared
on the same prompts, over all positions of the circuit together:

    writes[h][g] = agreement of what the donor's head h writes for its own z with what the recipient's head g
                   writes for its own
    codes[h]     = agreement of what the recipient's head h writes for the donor's z of head h with what the donor
                   writes for it

Who does whose work is a question of `writes`, in which a rotation of z that the output matrix undoes does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.measurements.matching import HeadMatching, LayerMatch, MatchResult
from pytest_mechanism.methods.circuits.cmap import Donation, same_rows
from pytest_mechanism.methods.circuits.codes import head_writes, own_writes
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext


def measure(
    context: MeasurementContext, request: HeadMatching, inputs: Sequence[Any]
) -> MatchResult:
    """How the heads of each layer agree; no columns.

    Args:
        context: the recipient.
        request: how many rows.
        inputs: the donor's `Donation`.
    """
    donation: Donation = inputs[0]
    rows = same_rows(context, donation, request)
    batch = context.batch(rows)
    z = donation.first_rows(len(rows), context.model.device)
    read = head_writes(context, batch, z)
    layers: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for place in z:
        donor = donation.written[place].to(context.model.device)
        own = own_writes(context, batch, place)
        layers.setdefault(place[0], []).append((donor, read[place], own))
    matches = tuple(match(layer, places) for layer, places in layers.items())
    return Columns().result(MatchResult, rows, layers=matches)


def match(layer: int, places: Sequence[tuple[Tensor, Tensor, Tensor]]) -> LayerMatch:
    """How the heads of a layer agree, over its positions.

    Args:
        layer: which.
        places: for each position what the donor wrote, what the recipient makes of the donor's z, and what it
            writes for its own, each [rows, places, heads, d_model].
    """
    donor, read, own = (flat([one[i] for one in places]) for i in range(3))
    products, sizes = donor @ own.T, donor.square().sum(-1)[:, None] + own.square().sum(-1)
    writes = 2 * products / sizes.clamp(min=1e-30)
    both = donor.square().sum(-1) + read.square().sum(-1)
    codes = 2 * (donor * read).sum(-1) / both.clamp(min=1e-30)
    return LayerMatch(
        layer,
        tuple(tuple(round(x, 6) for x in row) for row in writes.tolist()),
        tuple(round(x, 6) for x in codes.tolist()),
    )


def flat(places: Sequence[Float[Tensor, "_ _ heads d_model"]]) -> Float[Tensor, "heads _"]:
    """What each head writes, at all positions in a row, in float64."""
    return torch.cat([one.double().cpu().transpose(0, 2).flatten(1) for one in places], dim=1)
