"""Requests of `methods.weights.member_weights`: how far the weights of each member moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pytest_mechanism.measurements.request import Cost, Request, TaskSettings
from pytest_mechanism.types import Observations

Renamed = Annotated[tuple[tuple[int, int, int], ...], Field(exclude_if=lambda heads: not heads)]
"""(layer, head of the reference model, head of the other model that does its work)."""


@dataclass(frozen=True)
class ChangedRows:
    """A matrix with a row for each token, of which a few changed.

    Attributes:
        name: of the parameter.
        side: ``input`` of an embedding, ``output`` of an unembedding.
        count: how many rows changed.
        words: the tokens of those that changed most, as text.
    """

    name: str
    side: str
    count: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class MemberWeightResult(Observations):
    """How far the weights moved; there are no rows.

    Attributes:
        changes: name of a part -> |after - before| / |before| (Frobenius norms). Heads are ``2.1``, MLPs ``2.mlp``,
            layers ``layer 2``; everything else has the name of its parameter.
        reason: why some parts have no number; empty where all have.
        rows: embeddings of which a few rows changed.
    """

    changes: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    rows: tuple[ChangedRows, ...] = ()


class WeightDonation(Request):
    """The weights of the reference model, as they are computed with: merged and dequantised."""

    implementation = "pytest_mechanism.methods.weights.member_weights:donate"
    stored = False

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(weight_copies=1)


class MemberWeights(Request[MemberWeightResult]):
    """How far did the weights of each head, MLP and layer move?

    Its input is a `WeightDonation` on the reference model.

    Attributes:
        renamed: heads that changed places.
    """

    implementation = "pytest_mechanism.methods.weights.member_weights:measure"
    revision = 2

    renamed: Renamed = ()

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(weight_copies=1)
