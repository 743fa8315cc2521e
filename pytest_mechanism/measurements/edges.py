"""Request of `methods.circuits.edges`."""

from __future__ import annotations

from pytest_mechanism.measurements.paths import Paths
from pytest_mechanism.measurements.request import Cost, TaskSettings
from pytest_mechanism.nodes import Node

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Shares of the source at which gradients are taken, from the base: the five steps of EAP-IG (Hanna et al. 2024)."""


class EdgeAttribution(Paths):
    """An estimate of path patching by gradient, for every edge from a sender to a receiver.

    Attributes:
        senders: heads and MLPs.
    """

    implementation = "pytest_mechanism.methods.circuits.edges:measure"

    senders: tuple[Node, ...]

    def cost(self, task: TaskSettings) -> Cost:
        branches = 2 if self.via else 1
        # a backward pass for each receiver, through the few tokens of the first run
        return Cost(
            rows=self.rows * (2 + len(SHARES) * (3 * branches + len(self.receivers))),
            gradient_rows="batch",
            parts=(f"edges by gradient at {self.at}", len(self.senders), "senders"),
        )


def edge_name(sender: Node, receiver: Node | None) -> str:
    """``layer.head -> layer.head``, or ``layer.head -> logits``."""
    end = "logits" if receiver is None else f"{receiver[0]}.{receiver[1]}"
    return f"{sender[0]}.{sender[1]} -> {end}"
