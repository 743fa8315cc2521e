"""Request of `methods.circuits.dcm`."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Head, Observations

TRAIN_ROWS, VALIDATION_ROWS = 1000, 500
"""Rows that a DCM mask is learned on, and rows that it is chosen on."""

BATCH = 32
"""Rows of one step of learning."""


@dataclass(frozen=True)
class MaskResult(Observations):
    """Whether the target comes out on each validation row.

    Attributes:
        selected: the heads that the mask selects.
    """

    selected: tuple[Head, ...]


class DcmMask(Request[MaskResult]):
    """Which heads of a group carry a variable, by a learned mask?

    Attributes:
        heads: of the group.
        at: their named position.
        variable: of the task.
        sparsity: lambda, the price of a selected head.
        rate: learning rate of Adam.
    """

    implementation = "pytest_mechanism.methods.circuits.dcm:measure"

    heads: tuple[Head, ...]
    at: str
    variable: str
    sparsity: float
    rate: float

    def cost(self, task: TaskSettings) -> Cost:
        # both sets are recorded; two epochs with a backward, which costs two forwards; a few
        # different masks are tried on the validation rows
        recorded = TRAIN_ROWS + VALIDATION_ROWS
        return Cost(
            rows=recorded + 2 * 4 * TRAIN_ROWS + 4 * 2 * VALIDATION_ROWS, gradient_rows=BATCH
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return tuple(
            RowSet(
                "interchange",
                count,
                stream,
                (self.at,),
                self.variable,
                one_token_answers=True,
                behind_interval=False,
            )
            for stream, count in (("dcm_train", TRAIN_ROWS), ("dcm_validation", VALIDATION_ROWS))
        )
