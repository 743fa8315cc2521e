"""From observations to scores, shared by the claim kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pytest_mechanism.claims.base import ClaimContext
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.statistics import estimates, honesty
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Control, Measurement, Observations, Safeguard, Score

RANDOM_ROWS = 140
"""Rows on which random controls are measured: they are many and far from any bound."""

Of = Literal["accuracy", "log_probability"]
COLUMN: Mapping[str, str] = {"accuracy": "correct", "log_probability": "log_probability"}


def performance(context: ClaimContext, role: str) -> Measurement:
    """The whole model on the task's rows."""
    return context.measurement(Performance(rows=context.rows, stream="rows"), role)


def score(
    context: ClaimContext,
    name: str,
    estimate: Estimate,
    metric: str,
    better: Literal["higher", "lower"] | float = "higher",
    control: Control | None = None,
    ablated: bool = False,
) -> Score:
    """An estimate with everything that has to stand beside it."""
    setting = context.setting
    if ablated:
        setting = type(setting)(**{**vars(setting), "ablation": context.ablation.key()})
    return Score(
        name=name,
        value=estimate.value,
        interval=estimate.interval,
        confidence=context.confidence,
        n=estimate.n,
        clusters=estimate.clusters,
        standard_error=estimate.standard_error,
        metric=metric,
        better=better,
        setting=setting,
        control=control,
        method=estimate.method,
    )


def accuracy(context: ClaimContext, seen: Observations, name: str = "accuracy") -> Score:
    """Share of rows whose most likely next token is the answer, beside chance."""
    return score(
        context,
        name,
        estimates.proportion(seen.values["correct"], context.sampling(seen)),
        "share of rows whose most likely next token is the answer",
        control=Control("guessing among the prompt's options", context.task.chance),
    )


def above_chance(
    context: ClaimContext, observations: Observations, column: str = "correct"
) -> Safeguard | None:
    """The safeguard of a model that solves the task significantly better than guessing; else None.

    Nothing relative is claimed of a model at chance: what is a fraction of a guess?
    """
    accuracy = estimates.proportion(observations.values[column], context.sampling(observations))
    return honesty.exceeds_chance(accuracy, context.task.chance)


def check_paired(*several: Observations) -> None:
    """Rows are compared in pairs, so they must be the same rows in the same order.

    A shorter one (a control) must hold the first rows.

    Raises:
        MeasurementError: they are not.
    """
    for seen in several[1:]:
        k = min(len(seen.example_ids), len(several[0].example_ids))
        if list(seen.example_ids[:k]) != list(several[0].example_ids[:k]):
            raise MeasurementError("the measurements to compare were made on different rows")
