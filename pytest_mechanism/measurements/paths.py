"""What the requests about paths from senders to receivers have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pytest_mechanism.measurements.request import Request, RowSet
from pytest_mechanism.nodes import Node

RANK_STREAM = "discover_rank"
"""Rows on which `discover` ranks heads. Claims are judged on others, so no interval is needed there."""

First = Annotated[int, Field(exclude_if=lambda first: first == 0)]
"""Number of the first row that is measured; rows before it have been measured. Results of requests without
it stay valid."""


class Paths(Request):
    """Pairs of prompts, and the receivers of the paths. Subclasses add the senders.

    Attributes:
        at: the senders' named position.
        receivers: heads or MLPs that read the senders; none for the logits.
        via: through which input of the receivers, ``input`` for MLPs; None for the logits.
        rows: how many pairs of prompts.
        stream: of random numbers.
        first: number of the first pair.
    """

    at: str
    receivers: tuple[Node, ...] = ()
    via: Literal["q", "k", "v", "input"] | None = None
    rows: int
    stream: str
    first: First = 0

    def row_sets(self) -> tuple[RowSet, ...]:
        return (ranked_pairs(self.first + self.rows, self.stream, self.at),)


def ranked_pairs(rows: int, stream: str, at: str) -> RowSet:
    """Pairs of prompts, at whose position ``at`` heads are patched."""
    return RowSet(
        "pairs",
        rows,
        stream,
        (at,),
        one_token_answers=True,
        behind_interval=stream != RANK_STREAM,
    )
