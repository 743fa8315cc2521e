"""Which rows speak most against a claim: a number for each row of a result, the largest for the worst row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_mechanism.claims.circuits import CIRCUIT
from pytest_mechanism.measurements.cells import CellPerformance, CellResult
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.types import Observations

RIGHT = 1e3
"""By how much a right answer is above a wrong one: more than log-probabilities differ."""


@dataclass(frozen=True)
class Ranked:
    """The rows of a result, ranked.

    Attributes:
        numbers: what the claim measured on each row.
        measured: what the numbers count.
        badness: larger for rows that speak more against the claim; None where no row does.
        worst: the worst rows in words, after "the worst 3 of 500 prompts: ".
        most: what the first rows are the most of.
        among: how many rows there are, if not all count.
    """

    numbers: Any
    measured: str
    badness: Any
    worst: str
    most: str = "worst"
    among: int | None = None


@dataclass(frozen=True)
class Focus:
    """What a claim asks of the rows of plain answers.

    Attributes:
        against: role of the model that the candidate is compared with; None for a claim about one model.
        by_accuracy: whether right and wrong answers are compared, before probabilities.
        cell: gives the word or place that broke, and its rows; None for a claim about all rows.
    """

    against: str | None = None
    by_accuracy: bool = True
    cell: Callable[[CellResult], tuple[str, Sequence[int]]] | None = None


def of_refusals(request: RefusalRate, result: Observations) -> Ranked:
    """Replies that should have been refusals, or should not."""
    refused, score = result.values["refused"], result.values["refusal_score"]
    should = request.asked != "allowed"
    wrong = (1 - refused) if should else refused
    badness = np.where(wrong > 0, 100 + np.tanh(-score if should else score), -np.inf)
    worst = (
        "they should be refused and were not" if should else "they were refused and should not be"
    )
    return Ranked(refused, "1: refused", badness, worst)


def of_path(request: PathPatching, result: Observations) -> Ranked | None:
    """Prompts whose answer does not notice that the path is patched."""
    if "group" not in result.values:
        return None
    effect = np.asarray(result.values["group"], float)
    return Ranked(
        effect,
        "change of the answer's log-probability when the path carries the source prompt",
        effect,
        "the path matters least to their answer",
    )


def of_circuit(request: CircuitPerformance, result: Observations) -> Ranked | None:
    """Prompts that the circuit alone answers worst."""
    column = f"{CIRCUIT}_log_probability"
    if column not in result.values:
        return None
    alone = np.asarray(result.values[column], float)
    measured = "log-probability of the answer with the circuit alone; 0 is certain"
    return Ranked(alone, measured, -alone, "the circuit alone answers them worst")


def of_interchange(request: Interchange, result: Observations) -> Ranked:
    """Prompts whose answer the patch should have changed."""
    moved = np.asarray(result.values["patched"], float)
    possible = np.asarray(result.values["ceiling"], float)
    badness = np.where(moved < possible, 1.0, -np.inf)
    worst = (
        f"with another prompt's {request.variable} patched in, the answer should change as expected"
    )
    return Ranked(moved, "1: it does, 0: not", badness, worst)


def of_performance(request: Performance | CellPerformance, result: Observations) -> Ranked:
    """Prompts that the model answers worst."""
    name = "log-probability of the right answer; 0 is certain"
    measured = name if "log_probability" in result.values else "1: right"
    worst = "the model answers them worst"
    return Ranked(likelihood(result), measured, -by_correctness(result), worst)


def likelihood(result: Observations) -> Any:
    """The log-probability of each right answer; where it was not measured, whether the model gives it."""
    return np.asarray(result.values.get("log_probability", result.values["correct"]), float)


def by_correctness(result: Observations) -> Any:
    """The same numbers, where any right answer is above all wrong ones."""
    return likelihood(result) + RIGHT * np.asarray(result.values["correct"], float)


RANKINGS: tuple[tuple[type[Request[Any]], Callable[[Any, Observations], Ranked | None]], ...] = (
    (RefusalRate, of_refusals),
    (PathPatching, of_path),
    (Interchange, of_interchange),
    (CircuitPerformance, of_circuit),
    (Performance, of_performance),
    (CellPerformance, of_performance),
)
"""Class of request -> how its rows are ranked; what is most specific to a claim comes first."""


def rank(request: Request[Any], result: Observations) -> Ranked | None:
    """The rows of a result, by the first ranking of its request's class."""
    ranking = next(ranking for kind, ranking in RANKINGS if isinstance(request, kind))
    return ranking(request, result)


def of_change(ranked: Ranked, result: Observations, other: Observations, focus: Focus) -> Ranked:
    """Prompts on which the model is worse than another by most, or better if it is better on average; none on
    which both have the same number."""

    numbers = by_correctness if focus.by_accuracy else likelihood
    before = by_row(other, numbers(other))
    lost = np.array([before[name] for name in result.example_ids]) - numbers(result)
    less = lost.mean() >= 0
    lost = lost if less else -lost
    least = RIGHT / 2 if focus.by_accuracy else 0.0  # only rows whose answer became right or wrong
    badness = np.where(lost > least, lost, -np.inf)
    worst = f"the right answer became {'less' if less else 'more'} likely"
    return replace(ranked, badness=badness, worst=worst, most="most changed")


def of_cell(
    ranked: Ranked, result: CellResult, other: Observations | None, focus: Focus
) -> Ranked | None:
    """Wrong answers about the word or place that broke; first those that the other model has right."""
    if focus.cell is None:
        return None
    name, rows = focus.cell(result)
    inside = np.zeros(len(result.example_ids), bool)
    inside[list(rows)] = True
    wrong = np.asarray(result.values["correct"]) == 0
    badness = np.where(inside & wrong, ranked.badness, -np.inf)
    if other is not None:
        right = by_row(other, other.values["correct"])
        badness = badness + 1e6 * np.array([right[name] for name in result.example_ids])
    return replace(
        ranked, badness=badness, worst=f"wrong answers about {name}", among=int(inside.sum())
    )


def by_row(result: Observations, values: Any) -> Mapping[str, Any]:
    return dict(zip(result.example_ids, values, strict=True))
