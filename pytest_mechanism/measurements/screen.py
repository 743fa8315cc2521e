"""Request of `methods.circuits.screen`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pytest_mechanism.measurements.paths import Paths
from pytest_mechanism.measurements.request import Cost, TaskSettings
from pytest_mechanism.types import Head

STEPS = ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6))
"""Shares of the source at which gradients are taken, with their weights: Simpson's rule."""


class AttributionPatching(Paths):
    """An estimate of path patching by gradient, of many senders at once.

    Attributes:
        heads: the senders.
        mlps: layers whose MLPs are senders, too.
    """

    implementation = "pytest_mechanism.methods.circuits.screen:measure"
    revision = 2

    heads: tuple[Head, ...]
    # left out of data while empty, so that results of heads alone stay valid
    mlps: Annotated[tuple[int, ...], Field(exclude_if=lambda layers: not layers)] = ()

    def cost(self, task: TaskSettings) -> Cost:
        branches = 2 if self.via else 1
        return Cost(
            rows=self.rows * (2 + branches * 3 * len(STEPS)),
            gradient_rows="batch",
            parts=(
                f"screening by gradient at {self.at}",
                len(self.heads) + len(self.mlps),
                "senders" if self.mlps else "heads",
            ),
        )
