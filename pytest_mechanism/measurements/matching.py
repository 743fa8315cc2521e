"""Request of `methods.circuits.matching`: which heads of two models do the same."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.measurements.request import Request, RowSet, rows_at
from pytest_mechanism.types import Observations


@dataclass(frozen=True)
class LayerMatch:
    """How the heads of one layer of two models agree.

    Attributes:
        layer: counted from 0.
        writes: [donor's head][recipient's head], agreement of what both write for their own z.
        codes: [head], agreement of what both models' matrices of the same head make of the donor's z.
    """

    layer: int
    writes: tuple[tuple[float, ...], ...]
    codes: tuple[float, ...]


@dataclass(frozen=True)
class MatchResult(Observations):
    """Which heads agree; the rows have no numbers of their own.

    Attributes:
        layers: every layer that was donated.
    """

    layers: tuple[LayerMatch, ...]


class HeadMatching(Request[MatchResult]):
    """Which head of the recipient writes what a head of the donor writes?

    Its input is an `ActivationDonation` on the donor, of all heads of the layers.

    Attributes:
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.matching:measure"

    rows: int
    stream: str

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, ()),)
