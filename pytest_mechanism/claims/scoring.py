"""From observations to scores, shared by the claim kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.statistics import estimates, honesty
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Control, Observations, Safeguard, Score

RANDOM_ROWS = 140
"""Rows on which random controls are measured: there are many controls, far from any threshold."""

Of = Literal["accuracy", "log_probability"]
COLUMN: Mapping[str, str] = {
    "accuracy": "correct",
    "log_probability": "log_probability",
    "logit_difference": "logit_difference",
}


def performance(context: ClaimContext, role: str, *, differences: bool = False) -> Measurement:
    """The accuracy of the whole model on the task's rows, and with ``differences`` its logit
    difference."""
    request = Performance(rows=context.rows, stream="rows", differences=differences)
    return context.measurement(request, role)


def score(
    context: ClaimContext,
    name: str,
    estimate: Estimate,
    metric: str,
    better: Literal["higher", "lower"] | float = "higher",
    control: Control | None = None,
    ablated: bool = False,
    about_circuit: bool = True,
) -> Score:
    """The score of an estimate, with the conditions under which it was measured.

    Args:
        context: of the claim.
        name: see `Score`.
        estimate: the estimate.
        metric: see `Score`.
        better: see `Score`.
        control: see `Score`.
        ablated: whether heads outside a circuit were ablated.
        about_circuit: whether this circuit is the spec's, which may name MLPs.
    """
    setting = replace(context.setting, fingerprints=dict(context.setting.fingerprints))
    if ablated:
        key = context.ablation.key(mlps=about_circuit and context.ablates_mlps)
        setting = replace(setting, ablation=key)
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


def accuracy(context: ClaimContext, observations: Observations, name: str = "accuracy") -> Score:
    """The share of rows whose most likely next token is the answer, with chance as its control: guessing,
    or the same answers on other rows, whichever is right more often."""
    control = Control("guessing among the prompt's options", context.task.chance)
    other_rows = right_elsewhere(observations)
    if other_rows is not None and (share := float(np.mean(other_rows))) > control.value:
        control = Control("the same answers on other rows", share)
    return score(
        context,
        name,
        estimates.proportion(observations.values["correct"], context.sampling(observations)),
        "share of rows whose most likely next token is the answer",
        control=control,
    )


def above_chance(
    context: ClaimContext, observations: Observations, column: str = "correct"
) -> Safeguard | None:
    """The safeguard of a model that does the task significantly better than guessing; else None.

    Where rows have several right answers, its answers must also be right more often than the same
    answers are on other rows (`methods.circuits.performance`): one that is always right shows nothing.
    """
    how = context.sampling(observations)
    estimate = estimates.proportion(observations.values[column], how)
    solved = honesty.exceeds_chance(estimate, context.task.chance)
    other_rows = right_elsewhere(observations, column)
    if solved is None or other_rows is None:
        return solved
    gap = estimates.difference(observations.values[column], other_rows, how)
    return honesty.exceeds_other_rows(gap, float(np.mean(other_rows)), solved)


def right_elsewhere(observations: Observations, column: str = "correct") -> Any:
    """How often each answer of the model is right on other rows; None where rows have one answer."""
    return observations.values.get("elsewhere") if column == "correct" else None


def guesses(
    context: ClaimContext, role: str, observations: Observations, column: str = "correct"
) -> str:
    """The sentence about a model that is not above chance."""
    return (
        f"{role} does not solve the task (accuracy {np.mean(observations.values[column]):.3f}, "
        f"{chance_text(context, observations, column)})"
    )


def chance_text(context: ClaimContext, observations: Observations, column: str = "correct") -> str:
    """Chance, and where rows have several answers, how often the model's are right on other rows."""
    text = f"chance {context.task.chance:.3f}"
    other_rows = right_elsewhere(observations, column)
    if other_rows is None:
        return text
    return f"{text}; the same answers given to other prompts: {np.mean(other_rows):.3f}"


def check_paired(*several: Observations) -> None:
    """Check that paired measurements have the same rows in the same order.

    A shorter one (a control) must have the first rows.

    Raises:
        MeasurementError: they have other rows.
    """
    first, *others = several
    for observations in others:
        rows = min(len(observations.example_ids), len(first.example_ids))
        if list(observations.example_ids[:rows]) != list(first.example_ids[:rows]):
            raise MeasurementError("the measurements to compare were made on different rows")
