"""From observations to scores, shared by the claim kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pytest_mechanism.claims.base import Case
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.catalogue import PERFORMANCE
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Control, Measurement, Observations, Score

RANDOM_ROWS = 140
"""Rows on which random controls are measured: they are many and far from any bound."""

Of = Literal["accuracy", "log_probability"]
COLUMN: Mapping[str, str] = {"accuracy": "correct", "log_probability": "log_probability"}


def performance(case: Case, role: str) -> Measurement:
    """The whole model on the task's rows."""
    return case.ask(PERFORMANCE, role, rows=case.rows, stream="rows")


def score(
    case: Case,
    name: str,
    estimate: Estimate,
    metric: str,
    better: Literal["higher", "lower"] | float = "higher",
    control: Control | None = None,
    ablated: bool = False,
) -> Score:
    """An estimate with everything that has to stand beside it."""
    setting = case.setting
    if ablated:
        setting = type(setting)(**{**vars(setting), "ablation": case.ablation.key()})
    return Score(
        name=name,
        value=estimate.value,
        interval=estimate.interval,
        confidence=case.confidence,
        n=estimate.n,
        clusters=estimate.clusters,
        standard_error=estimate.standard_error,
        metric=metric,
        better=better,
        setting=setting,
        control=control,
        method=estimate.method,
    )


def accuracy(case: Case, seen: Observations, name: str = "accuracy") -> Score:
    """Share of rows whose most likely next token is the answer, beside chance."""
    return score(
        case,
        name,
        estimates.proportion(seen.values["correct"], case.sampling(seen)),
        "share of rows whose most likely next token is the answer",
        control=Control("guessing among the prompt's options", case.task.chance),
    )


def above_chance(case: Case, seen: Observations, column: str = "correct") -> bool:
    """Whether the model solves the task better than guessing, with confidence. Nothing relative is
    claimed of a model at chance: what is a fraction of a guess?"""
    found = estimates.proportion(seen.values[column], case.sampling(seen))
    return found.interval[0] > case.task.chance


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
