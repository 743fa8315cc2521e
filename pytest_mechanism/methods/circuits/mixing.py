"""Mix the outputs of some heads and MLPs between two prompts, as a DCM mask says.

    z = w * z(base) + (1 - w) * z(source)          of a head
    m = w * m(base) + (1 - w) * m(source)          of an MLP's output m, before it joins the stream

A mask w has an entry for each head in `patching.grouped` order, and then one for each MLP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Reading, Site
from pytest_mechanism.methods.circuits import patching
from pytest_mechanism.methods.circuits.patching import Heads, grouped
from pytest_mechanism.methods.token_batches import Side

Mlps = Sequence[tuple[int, str]]
"""(layer, named position) of each MLP."""

Values = Sequence[Float[Tensor, "_ _ _ _"]]
"""[rows, places, heads, width]: z of the heads in `patching.grouped` order, then the outputs of the MLPs,
with one head each."""


def readings(heads: Heads, mlps: Mlps, side: Side) -> list[Reading]:
    """Where the values come from."""
    of_mlps = [Reading(Site(layer, "mlp_out"), side.at(name)) for layer, name in mlps]
    return patching.readings(heads, side) + of_mlps


def edits(
    heads: Heads,
    mlps: Mlps,
    side: Side,
    values: Values,
    mask: Float[Tensor, " units"] | None = None,
) -> list[Edit]:
    """Put the values in place; ``mask`` has the share of the old value of each head and MLP, and without
    it nothing of the old value stays."""
    groups = grouped(heads)
    keep: list[Tensor] | None = None
    shares: Sequence[Tensor | None] = [None] * len(mlps)
    if mask is not None:
        sizes = [len(numbers) for _, _, numbers in groups]
        *parts, rest = torch.split(mask, [*sizes, len(mlps)])
        keep = [part[None, None, :, None] for part in parts]
        shares = [rest[i].reshape(1, 1, 1, 1) for i in range(len(mlps))]
    of_mlps = [
        Edit(Site(layer, "mlp_out"), value, at=side.at(name), keep=share)
        for (layer, name), value, share in zip(mlps, values[len(groups) :], shares, strict=True)
    ]
    return patching.edits(heads, side, values[: len(groups)], keep) + of_mlps
