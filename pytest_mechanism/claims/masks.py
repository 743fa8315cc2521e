"""Claims about the heads of a group that a DCM mask selects (`methods.circuits.dcm`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.fields.thresholds import MaskRate, Sparsity
from pytest_mechanism.measurements.dcm import DcmMask, MaskResult, Training
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import KINDS, MLP, Node, by_key
from pytest_mechanism.types import Head

PUBLISHED = {"mask_sparsity": 0.01, "mask_rate": 0.1}
"""Lambda and Adam's rate in the published code."""


class Masked(Claim):
    """A claim about all heads of a group, or about those that a DCM mask selects.

    Attributes:
        heads: ``all`` of the group, or ``learned``: those that the mask selects.
        mask_sparsity: lambda, the price of a selected head in logits; the paper has 0.01.
        mask_rate: learning rate of Adam; the paper has 0.1.
        mask_training: ``published`` evaluates the mask after the same steps as the published code, with
            the published lambda and rate; ``standard`` after every fourth step and the last.
    """

    added_later: ClassVar[tuple[str, ...]] = ("mask_sparsity", "mask_rate", "mask_training")

    heads: Literal["all", "learned"] = "all"
    mask_sparsity: Sparsity = PUBLISHED["mask_sparsity"]
    mask_rate: MaskRate = PUBLISHED["mask_rate"]
    mask_training: Training = "standard"

    def check_mask(self) -> None:
        """Check that settings of the mask are used only with a mask.

        Raises:
            ValueError: the claim has no mask.
        """
        others = {
            name: published
            for name, published in PUBLISHED.items()
            if getattr(self, name) != published
        }
        if self.heads == "all":
            for name in (*others, *self.mask_choices()):
                raise ValueError(f"{name} is a setting of the mask: needs heads: learned")
        if self.mask_training == "published":
            for name, published in others.items():
                raise ValueError(f"mask_training: published has {name}: {published:g}")

    def mask_choices(self) -> list[str]:
        """Further settings of the mask that differ from their defaults."""
        return ["mask_training"] if self.mask_training != "standard" else []

    def mask(
        self, context: ClaimContext, on: str, group: Group, variable: str, **options: Any
    ) -> Measurement[MaskResult]:
        """The mask over a group's heads and MLPs, learned on the model of role ``on``.

        Args:
            context: of the claim.
            on: role of the model.
            group: whose members, and whose position.
            variable: of the task.
            options: further fields of `DcmMask`, or other ``heads`` and ``mlps``.
        """
        heads, mlps = heads_and_mlps(context, on, group)
        fields = {
            "heads": heads,
            "mlps": mlps,
            "at": group.at,
            "variable": variable,
            "sparsity": self.mask_sparsity,
            "rate": self.mask_rate,
            "training": self.mask_training,
        }
        return context.measurement(DcmMask(**(fields | options)), on)


def heads_and_mlps(context: ClaimContext, on: str, group: Group) -> tuple[list[Head], list[int]]:
    """The heads of a group, with those of its attention outputs, and the layers of its MLPs."""
    nodes = context.nodes([(layer, part) for layer, part, _ in group.placed()], on)
    return [node for node in nodes if node[1] != MLP], [n for n, part in nodes if part == MLP]


def among(group: Group, mask: MaskResult) -> Group | None:
    """The group with what a mask selects alone; None if that is nothing."""
    selected: list[Node] = [*mask.selected, *((layer, MLP) for layer in mask.selected_mlps)]
    return only(group, selected)


def only(group: Group, members: Sequence[Node]) -> Group | None:
    """The group with these heads and MLPs alone; None if there are none."""
    if not members:
        return None
    nothing: dict[str, Any] = {key: {} for key in KINDS}
    return group.model_copy(update=nothing | by_key(members, group.at))
