"""Request of `methods.circuits.dcm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Head, Observations

TRAIN_ROWS, VALIDATION_ROWS = 1000, 500
"""Rows that a DCM mask is learned on, and rows that it is chosen on."""

BATCH = 32
"""Rows of one step of learning."""

Training = Literal["standard", "published"]
"""After which steps a mask is evaluated: see `methods.circuits.dcm`."""

Null = Literal["none", "shuffled_targets", "random_weights"]
"""What is broken on purpose, so that a mask that still fits shows a fault of the method."""


@dataclass(frozen=True)
class MaskResult(Observations):
    """Whether the target comes out on each validation row.

    Attributes:
        selected: the heads that the mask selects.
        selected_mlps: the layers whose MLPs it selects.
    """

    selected: tuple[Head, ...]
    selected_mlps: tuple[int, ...] = ()


class DcmMask(Request[MaskResult]):
    """Which heads of a group, or of the model, carry a variable, by a learned mask?

    Attributes:
        heads: to choose among: a group's, or all of the model's.
        at: their named position.
        variable: of the task.
        sparsity: lambda, the price of a selected head or MLP.
        rate: learning rate of Adam.
        mlps: layers whose MLPs are to choose among, too.
        training: after which steps the mask is evaluated.
        draw: number of the draw of training and validation rows.
        null: a control: targets that do not depend on the source prompt, or random weights.
    """

    implementation = "pytest_mechanism.methods.circuits.dcm:measure"
    revision = 2

    heads: tuple[Head, ...]
    at: str
    variable: str
    sparsity: float
    rate: float
    mlps: tuple[int, ...] = ()
    training: Training = "standard"
    draw: int = 0
    null: Null = "none"

    def cost(self, task: TaskSettings) -> Cost:
        # both sets are recorded; two epochs with a backward, which costs two forwards; a few
        # different masks are tried on the validation rows
        recorded = TRAIN_ROWS + VALIDATION_ROWS
        return Cost(
            rows=recorded + 2 * 4 * TRAIN_ROWS + 4 * 2 * VALIDATION_ROWS,
            gradient_rows=BATCH,
            weight_copies=int(self.null == "random_weights"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        train, validation = streams(self.draw)
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
            for stream, count in ((train, TRAIN_ROWS), (validation, VALIDATION_ROWS))
        )


def streams(draw: int) -> tuple[str, str]:
    """The streams of training and validation rows; draw 0 has those that every mask had before there
    were draws."""
    end = f"/{draw}" if draw else ""
    return f"dcm_train{end}", f"dcm_validation{end}"
