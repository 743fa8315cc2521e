"""Requests of `methods.circuits.cmap`: activations of one model in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pytest_mechanism.measurements.request import (
    Cost,
    PlacedNode,
    Request,
    RowSet,
    TaskSettings,
    by_name,
    rows_at,
)
from pytest_mechanism.types import Observations

LEAST_AGREEMENT = 0.5
"""Agreement of heads that write z in the same code (`methods.circuits.codes`). Fine-tuning left 0.78
at the least that was measured; heads that have nothing to do with each other agree to about 0."""


CODE_ROWS = 32
"""Rows on which the codes of heads are compared."""

Part = Literal["q", "k", "v"]
"""An input of a head's attention."""

Parts = Annotated[tuple[Part, ...], Field(exclude_if=lambda parts: not parts)]
"""Inputs that are exchanged in place of z; none for z. Results of requests without it stay valid."""

Alone = Annotated[
    dict[str, tuple[PlacedNode, ...]],
    AfterValidator(by_name),
    Field(exclude_if=lambda sets: not sets),
]
"""Name -> heads and MLPs that are patched for themselves, beside the others."""


@dataclass(frozen=True)
class HeadCode:
    """How the recipient reads what the donor gives it for one head or MLP.

    Attributes:
        layer: of the head.
        head: its index, or ``mlp``.
        at: named position.
        agreement: of what both models' own output matrices write for it, 1 where it is the same; for an MLP, of both
            models' residual streams where it writes.
        done_by: index of the recipient's head in that layer that does the donor's head's work, where
            ``agreement`` is below `LEAST_AGREEMENT` and some head does.
        part: what was read: z, or q (or k) where it alone is exchanged; ``stream`` for an MLP.
    """

    layer: int
    head: int | Literal["mlp"]
    at: str
    agreement: float
    done_by: int | None = None
    part: Literal["z", "q", "k", "stream"] = "z"

    @property
    def agrees(self) -> bool:
        """Whether both heads write z in one code."""
        return self.agreement >= LEAST_AGREEMENT


@dataclass(frozen=True)
class CodeResult(Observations):
    """What the recipient answers, row by row.

    Attributes:
        codes: of every head that was donated.
    """

    codes: tuple[HeadCode, ...]


class ActivationDonation(Request):
    """The donor's activations, for a measurement on the recipient.

    Attributes:
        heads: whose z is recorded, and MLPs whose output is.
        rows: how many rows.
        stream: of random numbers.
        parts: inputs of the heads that are recorded as well.
    """

    implementation = "pytest_mechanism.methods.circuits.cmap:donate"
    revision = 2
    stored = False

    heads: tuple[PlacedNode, ...]
    rows: int
    stream: str
    parts: Parts = ()

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(rows=self.rows, prompts=self.stream, prompt_count=self.rows)

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, [at for _, _, at in self.heads]),)


class CrossModelPatching(Request[CodeResult]):
    """Does the recipient give the answer with the donor's activations?

    Its input is an `ActivationDonation` on the donor, of all these heads.

    Attributes:
        heads: whose z, or ``parts``, come from the donor, and MLPs whose output does.
        control: other heads and MLPs, patched instead; may be none.
        rows: how many rows.
        stream: of random numbers.
        parts: inputs of the heads that are exchanged in place of z.
        alone: further sets of heads and MLPs, each patched for itself.
    """

    implementation = "pytest_mechanism.methods.circuits.cmap:measure"
    revision = 3

    heads: tuple[PlacedNode, ...]
    control: tuple[PlacedNode, ...]
    rows: int
    stream: str
    parts: Parts = ()
    alone: Alone = Field(default_factory=dict)

    def patches(self) -> dict[str, tuple[PlacedNode, ...]]:
        """Name -> the heads and MLPs of each branch."""
        control = {"control": self.control} if self.control else {}
        return {"patched": self.heads, **control, **self.alone}

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (1 + len(self.patches())),
            prompts=self.stream,
            prompt_count=self.rows,
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        positions = [at for heads in self.patches().values() for _, _, at in heads]
        return (rows_at(self.rows, self.stream, positions),)


class HeadCodes(Request[CodeResult]):
    """Does the recipient read the donor's z as the donor does?

    Its input is an `ActivationDonation` on the donor.

    Attributes:
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.cmap:code"

    rows: int
    stream: str

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, ()),)
