"""Do heads of two models write q and k in one code?

q and k of a head can be turned together, and its attention scores stay the same; but such a q means
something else to the other model's k. So where CMAP exchanges q alone or k alone (`cmap_inputs`), which then
meets the other of the recipient, the scores are compared on the first rows, over the tokens that a
position can attend to, each row's mean taken off:

    A = <donor's q, recipient's k>  (for k: <recipient's q, donor's k>)
    B = <donor's q, donor's k>
    agreement = 2 <A, B> / (|A|^2 + |B|^2)

Without the rotary embedding, which turns both models' vectors alike. Measured: 0.90 to 1.00 in the
embedded pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pytest_mechanism.measurements.cmap import HeadCode, Part
from pytest_mechanism.methods.circuits.cmap_inputs import (
    DonatedInputs,
    InputPlace,
    input_places,
    scored,
    shared_by,
)
from pytest_mechanism.methods.circuits.codes import agreement
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Side


def input_codes(
    context: MeasurementContext, side: Side, donated: DonatedInputs, parts: Sequence[Part]
) -> Iterator[HeadCode]:
    """How the recipient's k answers the donor's q, or the reverse; nothing if both are exchanged, or
    neither.

    Args:
        context: the recipient.
        side: the first rows.
        donated: the donor's inputs.
        parts: those that are exchanged.
    """
    exchanged = {"q", "k"} & {*parts}
    if len(exchanged) != 1:
        return
    part: Literal["q", "k"] = "q" if "q" in exchanged else "k"
    size = shared_by(context)
    own, theirs = scored(context, donated.placed, side), donated.first
    kv_heads = dict(input_places("k", donated.placed, size))
    for place, numbers in input_places("q", donated.placed, size):
        _, layer, name = place
        keys: InputPlace = ("k", layer, name)
        at = side.at(name)
        width = min(own[keys].shape[1], theirs[keys].shape[1])
        sees = torch.arange(width, device=at.device) <= at[:, :, None]
        own_q, own_k, their_q, their_k = (
            values[where].to(at.device) for values in (own, theirs) for where in (place, keys)
        )
        for number, head in enumerate(numbers):
            shared = kv_heads[keys].index(head // size)
            q, k = (own_q, their_k) if part == "k" else (their_q, own_k)
            a, b = (
                centred_scores(queries[:, :, number], of[:, :width, shared], sees)
                for queries, of in ((q, k), (their_q, their_k))
            )
            yield HeadCode(layer, head, name, round(agreement(a, b), 6), part=part)


def centred_scores(
    q: Float[Tensor, "rows places d_head"],
    k: Float[Tensor, "rows tokens d_head"],
    sees: Bool[Tensor, "rows places tokens"],
) -> Float[Tensor, "rows places tokens"]:
    """<q, k> over the tokens that each place can attend to, without their mean; 0 at the others. A
    softmax does not change with the mean."""
    scores = (q.double() @ k.double().transpose(1, 2)) * sees
    mean = scores.sum(-1, keepdim=True) / sees.sum(-1, keepdim=True)
    return (scores - mean) * sees
