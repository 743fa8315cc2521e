"""``faithfulness``: the circuit alone does what the whole model does.

F = (m(C) - m(0)) / (m(M) - m(0)), means over rows (metric ``normalised``), or the paper's ratio
m(C) / m(M) (metric ``ratio``; Prakash et al., section 3.2). m(0) has every head ablated at every
position, and active MLPs. Too much is a failure as well as too little. A circuit that is active
only where the answer is in the prompt gets the answer from its author; then the worse of this
circuit and the one that is active at all such places counts.

m is the accuracy, the mean log-probability of the answer, or the mean logit difference: the logit of the
answer minus the mean logit of the prompt's other options (Wang et al. 2022, section 4, whose F(C) / F(M)
is ``of: logit_difference`` with ``metric: ratio``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictInt, model_validator

from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.circuits import (
    CIRCUIT,
    EMPTY,
    WITHOUT_ORACLE,
    circuit,
    random_circuits,
)
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import (
    COLUMN,
    above_chance,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.fields.thresholds import Faithful
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import KINDS
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import beats_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Observations, Score, Verdict

PRAKASH = "Prakash et al., section 3.2"
PUBLISHED_RATIO = {"logit_difference": "Wang et al. 2022, section 4"}

RANDOM_CIRCUITS = "random circuits of the same sizes"


class Faithfulness(PerRoleClaim):
    """The spec's circuit against the full model, with everything else ablated.

    Attributes:
        metric: ``normalised`` or ``ratio``.
        of: what is compared: accuracy, the answer's log-probability, or its logit difference.
        between: lowest and highest value claimed.
        random: how many random circuits of the same sizes are measured as control.
    """

    summary: ClassVar[str] = "the circuit alone does what the whole model does"
    if_red: ClassVar[str] = (
        "the named heads alone do not do the task as the model does: other parts do it, or the heads "
        "do something else now. Look for what the fine-tune changed, or discover the circuit again"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("between",)
    ablates: ClassVar[bool] = True

    kind: Literal["faithfulness"]
    metric: Literal["normalised", "ratio"] = "normalised"
    of: Literal["accuracy", "log_probability", "logit_difference"] = "accuracy"
    between: tuple[Faithful, Faithful]
    random: Annotated[StrictInt, Field(ge=1, le=1000)] = 10

    @model_validator(mode="after")
    def in_order(self) -> Faithfulness:
        if self.between[0] >= self.between[1]:
            raise ValueError("between: the first number must be smaller than the second")
        if self.metric == "ratio" and self.of == "log_probability":
            raise ValueError(
                "metric: ratio needs a measure with a zero: of: accuracy or logit_difference; use metric: "
                "normalised"
            )
        return self

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        differences = self.of == "logit_difference"
        return (
            performance(context, context.role, differences=differences),
            circuit(context, context.role, differences=differences),
            random_circuits(context, context.role, self.random, differences=differences),
        )

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, circuits, random = (measure(m) for m in self.required_measurements(context))
        check_paired(full, circuits, random)
        threshold = verdicts.spell(*self.between)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so there is nothing for a circuit to be "
                "faithful to",
                threshold,
            )
        try:
            scores = faithfulness_scores(
                context, full, circuits, random, self.metric, self.of, self.between
            )
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(f"faithfulness cannot be computed: {problem}", threshold)
        verdict = verdicts.within(scores[0], *self.between)
        if self.of == "logit_difference":
            scores = (*scores, *raw_differences(context, full, circuits))
        for gap in over_random(context, circuits, random, self.of):
            verdict = beats_control(verdict, RANDOM_CIRCUITS, gap, f"{RANDOM_CIRCUITS} do as well")
        return replace(verdict, scores=scores, chance=solved)


def faithfulness_scores(
    context: ClaimContext,
    full: Observations,
    circuits: Observations,
    random: Observations,
    metric: str,
    of: str,
    thresholds: tuple[float, float],
) -> tuple[Score, ...]:
    """The score of the judged metric, then that of the other one.

    Of the circuit with and without oracle positions, the one that does worse against the thresholds
    counts; of two that do equally well, the one further from 1.

    Raises:
        UndefinedScoreError: the full model and the fully ablated one do not differ significantly.
    """
    column = COLUMN[of]
    ceiling, floor = full.values[column], circuits.values[f"{EMPTY}_{column}"]
    draws = mean_draw(random, column)
    rows, how = len(draws), context.sampling(full)

    def estimate(metric: str, variant: str) -> estimates.Estimate:
        own = circuits.values[f"{variant}_{column}"]
        if metric == "normalised":
            return estimates.normalised(own, floor, ceiling, how)
        return estimates.of_means([own, ceiling], estimates.ratio, how)

    def control(metric: str) -> Control | None:
        own, first = ceiling[:rows], how.first(rows)
        try:
            if metric == "normalised":
                effect = estimates.normalised(draws, floor[:rows], own, first)
            else:
                effect = estimates.of_means([draws, own], estimates.ratio, first)
        except estimates.UndefinedScoreError:
            return None
        return Control(RANDOM_CIRCUITS, effect.value, effect.interval)

    def badness(candidate: Score) -> tuple[int, float]:
        status = verdicts.within(candidate, *thresholds).status
        return {"fail": 2, "inconclusive": 1}.get(status, 0), abs(candidate.value - 1)

    definitions = {
        "normalised": f"(m(C) - m(0)) / (m(M) - m(0)) of {of}, means over rows",
        "ratio": f"m(C) / m(M) of {of} ({PUBLISHED_RATIO.get(of, PRAKASH)})",
    }
    scores: list[Score] = []
    for name in (metric, *(other for other in definitions if other != metric)):
        title = "faithfulness" if name == "normalised" else "faithfulness ratio"
        candidates = [
            score(
                context,
                title,
                estimate(name, variant),
                definitions[name],
                1.0,
                control(name),
                ablated=True,
            )
            for variant in variants(circuits, column)
        ]
        scores.append(max(candidates, key=badness))
    return tuple(scores)


def raw_differences(
    context: ClaimContext, full: Observations, circuits: Observations
) -> tuple[Score, ...]:
    """The mean logit differences of the full model and of the circuit, in logits."""
    how = context.sampling(full)
    column = COLUMN["logit_difference"]
    means = {"full model": full.values[column], "circuit": circuits.values[f"{CIRCUIT}_{column}"]}
    return tuple(
        score(
            context,
            f"logit difference of the {name}",
            estimates.mean(values, how),
            "mean logit of the answer minus mean logit of the prompt's other options",
            ablated=name == "circuit",
        )
        for name, values in means.items()
    )


def variants(circuits: Observations, column: str) -> list[str]:
    """The spec's circuit, and the same without oracle positions if that is another one."""
    return [v for v in (CIRCUIT, WITHOUT_ORACLE) if f"{v}_{column}" in circuits.values]


def over_random(
    context: ClaimContext, circuits: Observations, random: Observations, of: str
) -> list[estimates.Estimate]:
    """How much better the circuit, with and without oracle positions, does than the mean random one."""
    column = COLUMN[of]
    draws = mean_draw(random, column)
    rows = len(draws)
    how = context.sampling(circuits).first(rows)
    return [
        estimates.difference(circuits.values[f"{variant}_{column}"][:rows], draws, how)
        for variant in variants(circuits, column)
    ]


def mean_draw(random: Observations, column: str) -> Sequence[float]:
    """The mean over random circuits, row by row."""
    draws = [values for name, values in random.values.items() if name.endswith(column)]
    return list(map(float, np.mean(draws, axis=0)))
