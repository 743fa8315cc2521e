"""``equivalent``: two models' scores differ by less than a margin.

Two one-sided tests (TOST; Schuirmann 1987): the paired difference d of the two scores is shown to be
above -margin and to be below margin, each at the level 1 - confidence. That is the same as that the
two-sided interval of confidence 1 - 2 (1 - confidence), 90 % where the spec has 95 %, lies inside
(-margin, margin). Accuracies differ by whole rows, so their interval gets half a row more at each end (a
continuity correction): without it, models exactly at a margin of four rows of 200 pass in 9 % of draws. The interval
of log-probabilities has Student's t in place of z: over 17 contexts, models at the margin passed in 7 %. A
difference that is not significant is not equivalence: with few rows nothing is significant, and the
interval is wide.

With ``may_improve``, a model may be better by any amount: only that it is not worse by the margin is shown, at the
same level (non-inferiority). A fine-tune on the task itself is meant to be better at it.

Scores are accuracies, or with ``of: log_probability`` the mean log-probability of the answer, or with ``of:
logit_difference`` how much larger its logit is than those of the prompt's other options (Wang et al. 2022, section
2). The reference model must be better than guessing by more than the margin, or a model that guesses would count
as equivalent too; guessing is the control. Guesses among the options have the logarithm of chance, and a logit
difference of 0. A model that solves its task may still leave more than half of its probability to words that are no
option, and then guesses among the options have the higher log-probability; its logit difference shows what it knows.
Where rows have several right answers and the reference's own answers fit other rows more often than guesses do, these
are the control of accuracies.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import StrictBool, model_validator

from pytest_mechanism.claims.base import PairClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import (
    COLUMN,
    Of,
    above_chance,
    accuracy,
    chance_text,
    check_paired,
    performance,
    right_elsewhere,
    score,
)
from pytest_mechanism.fields.thresholds import EquivalenceMargin
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.statistics.honesty import beats
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Verdict

MOST_OF_ROWS = 0.25
"""The largest margin of accuracies, as of ``not_worse_than``."""

LEAST_CHANCE = 1e-9
"""A chance of 0 has no logarithm."""


class Equivalent(PairClaim):
    """Two models do the task equally well.

    Attributes:
        source: YAML ``from``: role of the reference model.
        to: role of the model that is compared with it.
        margin: the largest difference that counts as none; a share of rows, nats with ``of:
            log_probability``, or logits with ``of: logit_difference``.
        of: what is compared: accuracy, the answer's log-probability, or its logit difference.
        may_improve: whether the other model may be better by more than the margin.
    """

    summary: ClassVar[str] = "two models do the task equally well (equivalence test)"
    if_red: ClassVar[str] = (
        "the two models do not do the task equally well: one of them is better by more than the margin"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("margin",)
    added_later: ClassVar[tuple[str, ...]] = ("may_improve",)
    needs_groups: ClassVar[bool] = False

    kind: Literal["equivalent"]
    margin: EquivalenceMargin
    of: Of | Literal["logit_difference"] = "accuracy"
    may_improve: StrictBool = False

    @model_validator(mode="after")
    def check_margin(self) -> Equivalent:
        if self.of == "accuracy" and self.margin > MOST_OF_ROWS:
            raise ValueError(
                f"margin: of accuracies at most {MOST_OF_ROWS:g} (models that differ in a quarter of "
                "their rows are not equivalent by any measure)"
            )
        return self

    def refuted(self, verdict: Verdict) -> str:
        less = verdict.score is not None and verdict.score.value < 0
        if self.of != "accuracy":
            return f"{self.to} is {'less' if less else 'more'} sure of the right answers than {self.source}"
        return f"{self.to} answers {'fewer' if less else 'more'} questions right than {self.source}"

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        differences = self.of == "logit_difference"
        return tuple(
            performance(context, role, differences=differences) for role in (self.to, self.source)
        )

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        own, reference = (measure(m) for m in self.required_measurements(context))
        check_paired(own, reference)
        what, column = self.of.replace("_", "-"), COLUMN[self.of]
        how, theirs = context.sampling(reference), np.asarray(reference.values[column])
        one_sided = replace(how, confidence=2 * context.confidence - 1)
        guess = {
            "accuracy": context.task.chance,
            "log_probability": math.log(max(context.task.chance, LEAST_CHANCE)),
            "logit_difference": 0.0,
        }[self.of]
        lead, control = estimates.mean(theirs - guess, how), "guessing"
        other_rows = right_elsewhere(reference, column)
        if other_rows is not None and (share := float(np.mean(other_rows))) > guess:
            lead, control = estimates.difference(theirs, other_rows, how), "answers of other rows"
            guess = share
        gap = estimates.difference(own.values[column], theirs, one_sided)
        judged = score(
            context,
            f"{what} of {self.to} minus that of {self.source}",
            half_a_row_wider(gap)
            if self.of == "accuracy"
            else estimates.for_few_clusters(gap, one_sided.confidence),
            f"paired difference of {what} on the same rows; the interval of two one-sided tests",
            "higher" if self.may_improve else 0.0,
            Control(control, -lead.value),
        )
        judged = replace(judged, confidence=one_sided.confidence)
        claimed = f"differs by at most {self.margin:g}"
        if self.may_improve:
            claimed = f"is worse by at most {self.margin:g}"
        solved = above_chance(context, reference)
        if solved is None:
            return verdicts.reference_fails(
                f"the reference {self.source} is at chance "
                f"({verdicts.show(accuracy(context, reference))}, {chance_text(context, reference)}): "
                "being equivalent to it means nothing",
                claimed,
                (judged,),
            )
        verdict = verdicts.within(
            judged,
            -self.margin,
            math.inf if self.may_improve else self.margin,
            claimed=claimed,
            difference=not self.may_improve,
        )
        hint = ""
        if self.of == "log_probability" and lead.value < 0:
            hint = (
                "; it gives much of its probability to words that are no option, and of: logit_difference "
                "compares the options alone"
            )
        return beats(
            replace(verdict, chance=solved),
            f"{control} ({guess:.3f})",
            f"{control} would be equivalent too: {self.source} is better by {lead.value:.3f} "
            f"[{lead.interval[0]:.3f}, {lead.interval[1]:.3f}]{hint}",
            ahead=lead.interval[0] > self.margin,
        )


def half_a_row_wider(gap: Estimate) -> Estimate:
    """A difference of accuracies with a continuity correction; an exact interval needs none."""
    if gap.method == "exact":
        return gap
    low, high = gap.interval
    return replace(gap, interval=(low - 0.5 / gap.n, high + 0.5 / gap.n))
