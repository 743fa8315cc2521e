"""Numbers that are none: a model that overflows on some rows says NaN or infinity there.

The likeliest of NaN is some token or other, which may be counted as wrong as well as right. So
whatever a method gets out of a model is looked at, and the measurement fails in the end, saying on
which row. To look costs a GPU no wait; to tell costs one a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Outcome, Reading, Tokens


@dataclass
class Finite:
    """What was seen since it was last asked.

    Attributes:
        seen: by identity of a batch: the batch, and [R], True where something was not finite.
    """

    seen: dict[int, tuple[Tokens, Tensor]] = field(default_factory=dict)

    def look(self, tokens: Tokens, outcome: Outcome, readings: Sequence[Reading] = ()) -> Outcome:
        """At logits and readings of a batch; padding is nothing that a method looks at."""
        wrong = unsound(outcome.logits)
        for reading, found in zip(readings, outcome.readings, strict=True):
            places = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)[None]
            at = places if reading.at is None else reading.at.to(places.device)
            bad = unsound(found.flatten(2)).to(places.device)
            if bad.shape[1] == at.shape[1]:  # a family with other dimensions is refused elsewhere
                bad = bad & (at <= tokens.last[:, None])
            wrong = wrong | bad.any(1)
        self.note(tokens, wrong)
        return outcome

    def note(self, tokens: Tokens, wrong: Tensor) -> None:
        """That rows of a batch, [R], are True where something was not finite."""
        _, before = self.seen.get(id(tokens), (tokens, False))
        self.seen[id(tokens)] = (tokens, wrong.detach() | before)

    def clear(self) -> None:
        self.seen.clear()

    def wrong(self) -> list[list[int]]:
        """Ids of the rows that were not finite; forgets what was seen."""
        several = list(self.seen.values())
        self.clear()
        if not several or not torch.cat([flags for _, flags in several]).any():
            return []
        return [
            tokens.ids[row, : tokens.lengths[row]].tolist()
            for tokens, flags in several
            for row in flags.nonzero()[:, 0].tolist()
        ]


def unsound(values: Tensor) -> Tensor:
    """Without the last dimension: where some value is NaN or infinite. Their sum is then, too."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return ~values.detach().sum(-1, dtype=wide).isfinite()
