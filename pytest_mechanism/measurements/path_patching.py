"""Request of `methods.circuits.path_patching`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pytest_mechanism.measurements.request import Cost, NodeSets, Request, RowSet, TaskSettings
from pytest_mechanism.types import Node

RANK_STREAM = "discover_rank"
"""Rows on which `discover` ranks heads. Claims are judged on others, so no interval is needed there."""


First = Annotated[int, Field(exclude_if=lambda first: first == 0)]
"""Number of the first row that is measured; rows before it have been measured. Results of requests without
it stay valid."""


class PathPatching(Request):
    """How much does the answer depend on what senders tell receivers?

    Attributes:
        senders: name -> heads and MLPs that are patched together.
        at: the senders' named position.
        receivers: heads or MLPs that read them; none for the logits.
        via: through which input of the receivers, ``input`` for MLPs; None for the logits.
        rows: how many pairs of prompts.
        stream: of random numbers.
        first: number of the first pair.
    """

    implementation = "pytest_mechanism.methods.circuits.path_patching:measure"

    senders: NodeSets
    at: str
    receivers: tuple[Node, ...] = ()
    via: Literal["q", "k", "v", "input"] | None = None
    rows: int
    stream: str
    first: First = 0

    def cost(self, task: TaskSettings) -> Cost:
        forwards = 2 if self.via else 1
        into = f" into {self.via}" if self.via else ""
        return Cost(
            rows=self.rows * (3 + len(self.senders) * forwards),
            prompts=f"pairs of {self.stream}",
            prompt_count=2 * self.rows,
            parts=(f"path patching at {self.at}{into}", len(self.senders), "heads"),
        )

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
