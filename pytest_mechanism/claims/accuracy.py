"""``accuracy``: the model solves the task; or it is no worse than another one.

``not_worse_than`` is a non-inferiority test on the same rows: the lower bound of the paired
difference lies above ``-margin``. Where the other model is at chance the claim is inconclusive:
two random models are not worse than each other, and it means nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, StrictStr, model_validator

from pytest_mechanism.claims.base import Claim, ClaimContext, Measure, Roles, listed
from pytest_mechanism.claims.scoring import (
    above_chance,
    accuracy,
    check_paired,
    performance,
    score,
)
from pytest_mechanism.fields.thresholds import AtLeast, AtMost, Margin
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import PAIRED, UPPER_BOUND, exceeds_chance
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Measurement, Score, Verdict


class Accuracy(Claim):
    """The model's accuracy on the task's rows.

    Attributes:
        on: role or roles under test.
        at_least: the accuracy claimed.
        at_most: for capabilities that must be gone.
        not_worse_than: a role that it must not fall behind.
        margin: by how much it may.
    """

    summary: ClassVar[str] = "the model solves the task, or no worse than another one"
    if_red: ClassVar[str] = "the model answers the task's questions worse than claimed"
    thresholds: ClassVar[tuple[str, ...]] = ("at_least", "at_most", "margin")

    needs_groups: ClassVar[bool] = False

    kind: Literal["accuracy"]
    on: Roles = Field(default_factory=lambda: ["base", "ft"])
    at_least: AtLeast | None = None
    at_most: AtMost | None = None
    not_worse_than: StrictStr | None = None
    margin: Margin | None = None

    @model_validator(mode="after")
    def check_thresholds(self) -> Accuracy:
        if self.at_least is None and self.at_most is None and self.not_worse_than is None:
            raise ValueError("needs one of at_least, at_most, not_worse_than")
        if (self.not_worse_than is None) != (self.margin is None):
            raise ValueError("not_worse_than and margin go together")
        if self.not_worse_than in listed(self.on):
            raise ValueError(f"a model is never worse than itself ({self.not_worse_than})")
        return self

    def solved(self, context: ClaimContext, own: Score) -> Verdict:
        """The verdict on the bounds. A task that is solved is solved better than by guessing."""
        reached = verdicts.within(own, *verdicts.bounds(self.at_least, self.at_most))
        if self.at_least is None:
            return replace(reached, control=UPPER_BOUND, chance=UPPER_BOUND)
        guessing = exceeds_chance(own, context.task.chance)
        if reached.status != "pass" or guessing is not None:
            return replace(reached, control=guessing, chance=guessing)
        return verdicts.at_chance(
            f"accuracy {verdicts.show(own)} is not told apart from guessing "
            f"({context.task.chance:.3f}), whatever is claimed",
            reached.threshold,
            reached.scores,
        )

    def roles(self) -> tuple[str, ...]:
        return listed(self.on)

    def models(self, role: str) -> tuple[str, ...]:
        return (role, self.not_worse_than) if self.not_worse_than else (role,)

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return tuple(performance(context, role) for role in self.models(context.role))

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        seen = measure(performance(context, context.role))
        own = accuracy(context, seen)
        found: list[Verdict] = []
        if self.at_least is not None or self.at_most is not None:
            found.append(self.solved(context, own))
        if self.not_worse_than is not None and self.margin is not None:
            other = measure(performance(context, self.not_worse_than))
            check_paired(seen, other)
            name = f"accuracy minus that of {self.not_worse_than}"
            gap = score(
                context,
                name,
                estimates.difference(
                    seen.values["correct"], other.values["correct"], context.sampling(seen)
                ),
                "paired difference of accuracy on the same rows",
            )
            able = above_chance(context, other)
            verdict = replace(verdicts.at_least(gap, -self.margin), control=PAIRED, chance=able)
            if able is None:
                reference = accuracy(context, other, f"accuracy of {self.not_worse_than}")
                verdict = verdicts.reference_fails(
                    f"the reference {self.not_worse_than} is at chance "
                    f"({verdicts.show(reference)}, chance {context.task.chance:.3f}): "
                    "not being worse than it means nothing",
                    verdict.threshold,
                    (gap,),
                )
            found.append(verdict)
        together = verdicts.together(found)
        beside = () if own in together.scores else (own,)
        return replace(together, scores=(*together.scores, *beside))
