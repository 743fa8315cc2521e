"""``accuracy``: the model solves the task, or is no worse than another model.

``not_worse_than`` is a non-inferiority test on the same rows: the lower bound of the paired
difference must be above ``-margin``. If the other model is at chance, the claim is inconclusive:
two random models are not worse than each other, and it means nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import StrictStr, model_validator

from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import (
    above_chance,
    accuracy,
    chance_text,
    check_paired,
    performance,
    score,
)
from pytest_mechanism.fields.thresholds import AtLeast, AtMost, Margin, need_order
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import PAIRED, UPPER_BOUND
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Observations, Score, Verdict


class Accuracy(PerRoleClaim):
    """The model's accuracy on the task's rows.

    Attributes:
        at_least: the least accuracy claimed.
        at_most: the largest accuracy claimed, for capabilities that must be gone.
        not_worse_than: a role that the model must not be worse than.
        margin: how much worse it may be.
    """

    summary: ClassVar[str] = "the model solves the task, or no worse than another one"
    if_red: ClassVar[str] = "the model answers the task's questions worse than claimed"
    thresholds: ClassVar[tuple[str, ...]] = ("at_least", "at_most", "margin")

    needs_groups: ClassVar[bool] = False

    kind: Literal["accuracy"]
    at_least: AtLeast | None = None
    at_most: AtMost | None = None
    not_worse_than: StrictStr | None = None
    margin: Margin | None = None

    @model_validator(mode="after")
    def check_thresholds(self) -> Accuracy:
        if self.at_least is None and self.at_most is None and self.not_worse_than is None:
            raise ValueError("needs one of at_least, at_most, not_worse_than")
        need_order(at_least=self.at_least, at_most=self.at_most)
        if (self.not_worse_than is None) != (self.margin is None):
            raise ValueError("not_worse_than and margin go together")
        if self.not_worse_than in self.roles():
            raise ValueError(f"a model is never worse than itself ({self.not_worse_than})")
        return self

    def models(self, role: str) -> tuple[str, ...]:
        return (role, self.not_worse_than) if self.not_worse_than else (role,)

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return tuple(performance(context, role) for role in self.models(context.role))

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        observations = measure(performance(context, context.role))
        own = accuracy(context, observations)
        parts: list[Verdict] = []
        if self.at_least is not None or self.at_most is not None:
            parts.append(self.bounded(context, own, observations))
        if self.not_worse_than is not None and self.margin is not None:
            other = measure(performance(context, self.not_worse_than))
            parts.append(not_worse(context, observations, other, self.not_worse_than, self.margin))
        verdict = verdicts.together(parts)
        further = () if own in verdict.scores else (own,)
        return replace(verdict, scores=(*verdict.scores, *further))

    def bounded(self, context: ClaimContext, own: Score, observations: Observations) -> Verdict:
        """The verdict on ``at_least`` and ``at_most``. A solved task is solved better than by guessing."""
        verdict = verdicts.within(own, *verdicts.bounds(self.at_least, self.at_most))
        if self.at_least is None:
            return replace(verdict, control=UPPER_BOUND, chance=UPPER_BOUND)
        guessing = above_chance(context, observations)
        if verdict.status != "pass" or guessing is not None:
            return replace(verdict, control=guessing, chance=guessing)
        return verdicts.at_chance(
            f"accuracy {verdicts.show(own)} is not significantly better than guessing "
            f"({chance_text(context, observations)}), whatever the claim asks for",
            verdict.threshold,
            verdict.scores,
        )


def not_worse(
    context: ClaimContext, own: Observations, other: Observations, role: str, margin: float
) -> Verdict:
    """The verdict on the paired difference from the model of ``role``."""
    check_paired(own, other)
    difference = estimates.difference(
        own.values["correct"], other.values["correct"], context.sampling(own)
    )
    metric = "paired difference of accuracy on the same rows"
    gap = score(context, f"accuracy minus that of {role}", difference, metric)
    solved = above_chance(context, other)
    verdict = replace(verdicts.at_least(gap, -margin), control=PAIRED, chance=solved)
    if solved is not None:
        return verdict
    reference = accuracy(context, other, f"accuracy of {role}")
    return verdicts.reference_fails(
        f"the reference {role} is at chance ({verdicts.show(reference)}, "
        f"{chance_text(context, other)}): not being worse than it means nothing",
        verdict.threshold,
        (gap,),
    )
