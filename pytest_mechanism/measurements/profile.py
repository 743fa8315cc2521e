"""Request of `methods.circuits.profile`."""

from __future__ import annotations

from pytest_mechanism.measurements.paths import Paths
from pytest_mechanism.measurements.request import Cost, NodeSets, TaskSettings


class EffectProfile(Paths):
    """How much of what the prompt does to the answer's logit goes through each sender's path?

    Attributes:
        senders: name -> heads and MLPs that are patched together.
    """

    implementation = "pytest_mechanism.methods.circuits.profile:measure"

    senders: NodeSets

    def cost(self, task: TaskSettings) -> Cost:
        forwards = 2 if self.via else 1
        into = f" into {self.via}" if self.via else ""
        return Cost(
            rows=self.rows * (3 + len(self.senders) * forwards),
            prompts=f"pairs of {self.stream}",
            prompt_count=2 * self.rows,
            parts=(f"profile at {self.at}{into}", len(self.senders), "members"),
        )
