"""``faithfulness``: the circuit alone does what the whole model does.

F = (m(C) - m(0)) / (m(M) - m(0)), means over rows (metric ``normalised``), or the paper's ratio
m(C) / m(M) (metric ``ratio``; Prakash et al., section 3.2). m(0) has every head at every position
ablated and the MLPs alive. Too much is a failure as well as too little. A circuit kept alive only
where the answer stands is told the answer; then the worse of this and of all such places counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictInt, model_validator

from pytest_mechanism.claims.base import Claim, ClaimContext, Measure, Roles, listed
from pytest_mechanism.claims.circuits import circuit, random_circuits
from pytest_mechanism.claims.scoring import (
    COLUMN,
    Of,
    above_chance,
    check_paired,
    performance,
    score,
)
from pytest_mechanism.fields.thresholds import Faithful
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import beats_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Measurement, Observations, Score, Verdict

RANDOM_CIRCUITS = "random circuits of the same sizes"


class Faithfulness(Claim):
    """The spec's circuit, everything else ablated, against the full model.

    Attributes:
        on: role or roles under test.
        metric: ``normalised`` or ``ratio``.
        of: what is compared: accuracy, or the answer's log-probability.
        between: lowest and highest value claimed.
        random: how many random circuits of the same sizes are measured as control.
    """

    summary: ClassVar[str] = "the circuit alone does what the whole model does"
    if_red: ClassVar[str] = (
        "the named heads alone do not do the task as the model does: it does it with other parts, or the heads do something else now. Look for what the fine-tune changed, or discover the circuit anew"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("between",)
    ablates: ClassVar[bool] = True

    kind: Literal["faithfulness"]
    on: Roles = Field(default_factory=lambda: ["base", "ft"])
    metric: Literal["normalised", "ratio"] = "normalised"
    of: Of = "accuracy"
    between: tuple[Faithful, Faithful]
    random: Annotated[StrictInt, Field(ge=1, le=1000)] = 10

    @model_validator(mode="after")
    def in_order(self) -> Faithfulness:
        if self.between[0] >= self.between[1]:
            raise ValueError("between: the first number must be smaller than the second")
        if self.metric == "ratio" and self.of != "accuracy":
            raise ValueError("metric: ratio is one of accuracies; use normalised")
        return self

    def roles(self) -> tuple[str, ...]:
        return listed(self.on)

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return (
            performance(context, context.role),
            circuit(context, context.role),
            random_circuits(context, context.role, self.random),
        )

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, parts, chosen = (measure(m) for m in self.required_measurements(context))
        check_paired(full, parts, chosen)
        bound = verdicts.spell(*self.between)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{context.role} does not solve the task (accuracy "
                f"{np.mean(full.values['correct']):.3f}, chance {context.task.chance:.3f}), so there "
                "is nothing for a circuit to be faithful to",
                bound,
            )
        try:
            found = faithfulness_scores(
                context, full, parts, chosen, self.metric, self.of, self.between
            )
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(f"faithfulness has no value: {problem}", bound)
        judged = found[0]
        verdict = verdicts.within(judged, *self.between)
        for gap in over_random(context, parts, chosen, self.of):
            verdict = beats_control(verdict, RANDOM_CIRCUITS, gap, f"{RANDOM_CIRCUITS} do as well")
        return replace(verdict, scores=found, chance=solved)


def faithfulness_scores(
    context: ClaimContext,
    full: Observations,
    parts: Observations,
    chosen: Observations,
    metric: str,
    of: Of,
    asked: tuple[float, float],
) -> tuple[Score, ...]:
    """The judged faithfulness first, then the other metric's.

    Of the circuit with and without the hint of where the answer stands, the one that does worse
    against what is ``asked`` counts; of two that do alike, the one further from 1.

    Raises:
        UndefinedScoreError: the full model and the silent one are not told apart.
    """
    column = COLUMN[of]
    ceiling, floor = full.values[column], parts.values[f"empty_{column}"]
    draws = mean_draw(chosen, column)
    k, how = len(draws), context.sampling(full)

    def one(metric: str, part: str) -> estimates.Estimate:
        mine = parts.values[f"{part}_{column}"]
        if metric == "normalised":
            return estimates.normalised(mine, floor, ceiling, how)
        return estimates.of_means([mine, ceiling], lambda c, m: c / m, how)

    def control(metric: str) -> Control | None:
        try:
            if metric == "normalised":
                found = estimates.normalised(draws, floor[:k], ceiling[:k], how.first(k))
            else:
                found = estimates.of_means([draws, ceiling[:k]], lambda c, m: c / m, how.first(k))
        except estimates.UndefinedScoreError:
            return None
        return Control(RANDOM_CIRCUITS, found.value, found.interval)

    described = {
        "normalised": f"(m(C) - m(0)) / (m(M) - m(0)) of {of}, means over rows",
        "ratio": f"m(C) / m(M) of {of} (Prakash et al., section 3.2)",
    }
    variants = [p for p in ("circuit", "circuit_without_hint") if f"{p}_{column}" in parts.values]
    scores: list[Score] = []
    for each in (metric, *(m for m in described if m != metric)):
        name = "faithfulness" if each == "normalised" else "faithfulness ratio"
        found = [
            score(context, name, one(each, part), described[each], 1.0, control(each), ablated=True)
            for part in variants
        ]
        scores.append(max(found, key=lambda s: (badness(s, asked), abs(s.value - 1))))
    return tuple(scores)


def badness(found: Score, asked: tuple[float, float]) -> int:
    """2 where the score refutes what is asked, 1 where it does not settle it, 0 where it holds."""
    return {"fail": 2, "inconclusive": 1}.get(verdicts.within(found, *asked).status, 0)


def over_random(
    context: ClaimContext, parts: Observations, chosen: Observations, of: Of
) -> list[estimates.Estimate]:
    """By how much the circuit, with and without the hint of where the answer stands, does better
    than the mean random one on the same rows."""
    column = COLUMN[of]
    draws = mean_draw(chosen, column)
    k = len(draws)
    variants = (f"circuit_{column}", f"circuit_without_hint_{column}")
    return [
        estimates.difference(parts.values[name][:k], draws, context.sampling(parts).first(k))
        for name in variants
        if name in parts.values
    ]


def mean_draw(chosen: Observations, column: str) -> Sequence[float]:
    """Row by row, the mean over random circuits."""
    draws = [v for name, v in chosen.values.items() if name.endswith(column)]
    return list(map(float, np.mean(draws, axis=0)))
