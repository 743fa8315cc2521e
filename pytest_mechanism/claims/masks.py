"""Claims about the heads of a group that a DCM mask selects (`methods.circuits.dcm`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.fields.thresholds import MaskRate, Sparsity
from pytest_mechanism.measurements.dcm import DcmMask, MaskResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.types import Head, by_layer

PUBLISHED = {"mask_sparsity": 0.01, "mask_rate": 0.1}
"""Lambda and Adam's rate in the published code."""


class Masked(Claim):
    """A claim about all heads of a group, or about those that a DCM mask selects.

    Attributes:
        heads: ``all`` of the group, or ``learned``: those that the mask selects.
        mask_sparsity: lambda, the price of a selected head in logits; the paper has 0.01.
        mask_rate: learning rate of Adam; the paper has 0.1.
    """

    added_later: ClassVar[tuple[str, ...]] = ("mask_sparsity", "mask_rate")

    heads: Literal["all", "learned"] = "all"
    mask_sparsity: Sparsity = PUBLISHED["mask_sparsity"]
    mask_rate: MaskRate = PUBLISHED["mask_rate"]

    def check_mask(self) -> None:
        """Check that settings of the mask are used only with a mask.

        Raises:
            ValueError: the claim has no mask.
        """
        if self.heads == "all":
            for name, published in PUBLISHED.items():
                if getattr(self, name) != published:
                    raise ValueError(f"{name} is a setting of the mask: needs heads: learned")

    def mask(
        self, context: ClaimContext, on: str, group: Group, variable: str
    ) -> Measurement[MaskResult]:
        """The mask over a group's heads, learned on the model of role ``on``."""
        request = DcmMask(
            heads=group.members(),
            at=group.at,
            variable=variable,
            sparsity=self.mask_sparsity,
            rate=self.mask_rate,
        )
        return context.measurement(request, on)


def among(group: Group, heads: Sequence[Head]) -> Group | None:
    """The group with these heads alone; None if there are none."""
    layers = by_layer(heads)
    return group.model_copy(update={"heads": layers}) if layers else None
