"""Rows on which a model gives NaN or infinity, such as one that overflows in half precision.

The argmax of NaN is an arbitrary token, which may count as wrong or as right. So the engines check
every outcome, and the measurement fails in the end, naming the row. A check does not make the
program wait for a GPU; only `NonFiniteRows.take`, once a measurement, does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pytest_mechanism.engine.interface import Outcome, Reading, Tokens


@dataclass
class NonFiniteRows:
    """The rows found since the last `take`.

    Attributes:
        by_batch: identity of a batch -> the batch, and which of its rows were not finite.
    """

    by_batch: dict[int, tuple[Tokens, Bool[Tensor, " _"]]] = field(default_factory=dict)

    def check(self, tokens: Tokens, outcome: Outcome, readings: Sequence[Reading] = ()) -> Outcome:
        """Check the logits and readings of a batch, except at padding; returns the outcome."""
        bad_rows = not_finite(outcome.logits)
        for reading, values in zip(readings, outcome.readings, strict=True):
            everywhere = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)[None]
            at = everywhere if reading.at is None else reading.at.to(everywhere.device)
            bad = not_finite(values.flatten(2)).to(everywhere.device)
            if bad.shape[1] == at.shape[1]:  # the self-check refuses families of other shapes
                bad = bad & (at <= tokens.last[:, None])
            bad_rows = bad_rows | bad.any(1)
        self.mark(tokens, bad_rows)
        return outcome

    def mark(self, tokens: Tokens, bad_rows: Bool[Tensor, " rows"]) -> None:
        """Add rows of a batch."""
        _, known = self.by_batch.get(id(tokens), (tokens, False))
        self.by_batch[id(tokens)] = (tokens, bad_rows.detach() | known)

    def clear(self) -> None:
        self.by_batch.clear()

    def take(self) -> list[list[int]]:
        """Token ids of the rows that were not finite; forgets them."""
        batches = list(self.by_batch.values())
        self.clear()
        if not batches or not torch.cat([bad_rows for _, bad_rows in batches]).any():
            return []
        return [
            tokens.ids[row, : tokens.lengths[row]].tolist()
            for tokens, bad_rows in batches
            for row in bad_rows.nonzero()[:, 0].tolist()
        ]


def not_finite(values: Float[Tensor, "*shape last"]) -> Bool[Tensor, "*shape"]:
    """Where NaN or infinity stands in the last dimension: their sum is NaN or infinite, too."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return ~values.detach().sum(-1, dtype=wide).isfinite()
