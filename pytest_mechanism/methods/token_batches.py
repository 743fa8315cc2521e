"""The rows of a task as batches of token ids, with their positions and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from pytest_mechanism.engine.interface import Positions, Tokens
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.tasks.base import Row


@dataclass(frozen=True, eq=False)
class Side:
    """The base prompts or the source prompts of a batch of rows.

    Attributes:
        tokens: the batch.
        positions: named position -> the last token of each of its words; rows with fewer words
            repeat their last one.
        slots: for each row, (anchor, offset) of each token.
        first_positions: named position -> the first token of each word.
    """

    tokens: Tokens
    positions: dict[str, Int[Tensor, "_ _"]]
    slots: tuple[tuple[tuple[str, int], ...], ...]
    first_positions: dict[str, Int[Tensor, "_ _"]] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, Positions]:
        """Token positions of every name that `at` accepts."""
        firsts = {f"{place}.first": at for place, at in self.first_positions.items()}
        return self.positions | firsts

    def at(self, name: str) -> Positions:
        """Token positions of a named position; ``name.first`` is the first token of a word.

        Raises:
            MeasurementError: these prompts have no such position.
        """
        known = self.places
        if (place := name.removesuffix(".last")) not in known:
            raise MeasurementError(
                f"the task's prompts have no position {name!r} here; valid: "
                f"{', '.join(sorted(self.positions))}"
            )
        return known[place]

    def token_at(self, name: str) -> Int[Tensor, " rows"]:
        """The token of a position that has one.

        Raises:
            MeasurementError: it has several, or there is none.
        """
        at = self.at(name)
        if at.shape[1] != 1:
            raise MeasurementError(
                f"position {name!r} has up to {at.shape[1]} tokens, a probe reads one; take "
                "another, such as last"
            )
        return at[:, 0]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows, ready for the model.

    Attributes:
        rows: as the task wrote them.
        base: the prompts that are answered.
        source: the prompts that activations come from, where the rows have one.
        answers: id of the base prompt's own answer.
        targets: id of the row's target.
        correct_answers: ids of every right answer, -1 where a row has fewer.
        correct_targets: ids of every right target, likewise.
    """

    rows: Sequence[Row]
    base: Side
    source: Side | None
    answers: Int[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    correct_answers: Int[Tensor, "rows answers"]
    correct_targets: Int[Tensor, "rows targets"]

    def require_source(self) -> Side:
        """The source prompts.

        Raises:
            MeasurementError: the rows have none.
        """
        if self.source is None:
            raise MeasurementError("these rows have no source prompt to patch from")
        return self.source


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Rows in parts of at most ``size``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def padded_positions(rows: Sequence[Sequence[int]]) -> Positions:
    """Positions of each row; a row with fewer repeats its last one, so an edit there is made twice
    with the same value."""
    most = max(map(len, rows))
    return torch.tensor([[*places, *[places[-1]] * (most - len(places))] for places in rows])
