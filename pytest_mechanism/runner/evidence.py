"""The prompts behind a red claim: the worst rows of what was measured for its verdict, base beside candidate.

Nothing is measured for it. A method keeps what the model said on each row (`Observations.texts`), the results of
the other model are taken from memory or from the store if they are there, and the prompts are written again by
the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_mechanism.causes import Cause
from pytest_mechanism.measurements.cells import CellResult
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.measurements.text_divergence import TextDivergence
from pytest_mechanism.runner.ranked_rows import (
    RANKINGS,
    Focus,
    Ranked,
    by_row,
    of_cell,
    of_change,
    rank,
)
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import Evidence, Example, Observations

SHOWN = 3
"""Prompts of a claim."""

LONGEST = 2000
"""Characters of a prompt that are kept, from its end, where the question is."""

ABOUT_ROWS = frozenset(
    {
        Cause.REFUTED,
        Cause.UNSETTLED,
        Cause.FELL_BEHIND,
        Cause.ACCURACY_LOSS,
        Cause.AT_CHANCE,
        Cause.CONTROL_AS_GOOD,
        Cause.REFERENCE_FAILS,
        Cause.NOT_COMPARABLE,
    }
)
"""Causes of a red claim that prompts can show."""

Peek = Callable[[Measurement], Observations | None]
"""The result of a measurement if it is known, without measuring anything."""

BEHAVIOUR = ("accuracy", "equivalent", "coverage")
"""Kinds whose finding is about plain answers. For others these only show that the model is not at chance."""


def speaks_of(request: Request[Any], claim: Any, cause: Cause | None) -> bool:
    """Whether the rows of a measurement can show why a claim is red."""
    if isinstance(request, Performance):
        return str(claim.kind) in BEHAVIOUR or cause in (Cause.AT_CHANCE, Cause.ACCURACY_LOSS)
    if isinstance(request, RefusalRate):
        return str(claim.kind) != "direction"
    if isinstance(request, Interchange):
        # where the patch must not change the answer, no row shows it
        return getattr(claim, "at_most", None) is None
    return True


def evidence(
    asked: Sequence[Measurement],
    role: str,
    reference: str,
    peek: Peek,
    rows: Callable[[Measurement], Sequence[Row]],
    focus: Focus,
) -> Evidence | None:
    """The worst prompts of a claim; None where nothing that it measured has any.

    Args:
        asked: what the claim measured.
        role: whose rows are shown.
        reference: role of the model beside it.
        peek: known results.
        rows: the rows of a measurement.
        focus: what the claim asks of them.
    """
    for measurement in asked:
        if isinstance(measurement.request, TextDivergence):
            return of_text(measurement, peek(measurement))
    for kind, _ in RANKINGS:
        found = [
            (measurement, result, ranked)
            for measurement in asked
            if measurement.on == role and isinstance(measurement.request, kind)
            if (result := peek(measurement)) is not None
            if (ranked := focused(measurement, result, reference, peek, focus)) is not None
            if np.isfinite(ranked.badness).any()
        ]
        if found:
            # of several sets of rows, such as what must be refused and what must not, the worse one
            worse = max(found, key=lambda one: float(np.isfinite(one[2].badness).mean()))
            return shown(*worse, asked, reference, peek, rows)
    return None


def of_text(measurement: Measurement, result: Observations | None) -> Evidence | None:
    """The lines on which two models differ most, each up to where they do."""
    if result is None:
        return None
    each = np.asarray(result.values["divergence"]) / np.asarray(result.values["predictions"])
    examples = tuple(
        Example(
            id=result.example_ids[i],
            prompt=result.texts["before"][i][-LONGEST:],
            expected=result.texts["next"][i],
            answers={
                measurement.inputs[0].on: result.texts["reference"][i],
                measurement.on: result.texts["answer"][i],
            },
            numbers={measurement.on: round(float(each[i]), 3)},
        )
        for i in map(int, np.argsort(-each, kind="stable")[:SHOWN])
    )
    what = (
        f"the worst {len(examples)} of {len(each):,} lines, up to where the models differ most, and their likeliest "
        "next words"
    )
    return Evidence(what, "KL divergence of the line, in nats a token", examples)


def focused(
    measurement: Measurement, result: Observations, reference: str, peek: Peek, focus: Focus
) -> Ranked | None:
    """The rows of a result, ranked by what the claim asks."""
    if (ranked := rank(measurement.request, result)) is None:
        return None
    if isinstance(result, CellResult):
        return of_cell(ranked, result, other_result(measurement, reference, peek), focus)
    if isinstance(measurement.request, Performance) and focus.against is not None:
        other = other_result(measurement, focus.against, peek)
        return ranked if other is None else of_change(ranked, result, other, focus)
    return ranked


def shown(
    measurement: Measurement,
    result: Observations,
    ranked: Ranked,
    asked: Sequence[Measurement],
    reference: str,
    peek: Peek,
    rows: Callable[[Measurement], Sequence[Row]],
) -> Evidence | None:
    """The worst rows of a result, with what both models said on them; of equally bad ones first those on which the
    models differ most."""
    beside = other_result(measurement, reference, peek)
    other = None if beside is None else rank(measurement.request, beside)
    numbers = {measurement.on: by_row(result, ranked.numbers)}
    apart = np.zeros(len(result.example_ids))
    if beside is not None and other is not None:
        numbers[reference] = by_row(beside, other.numbers)
        apart = np.array(
            [
                abs(numbers[measurement.on][x] - numbers[reference].get(x, 0.0))
                for x in result.example_ids
            ]
        )
    order = np.lexsort((-apart, -np.asarray(ranked.badness, float)))
    worst = [int(i) for i in order[:SHOWN] if np.isfinite(ranked.badness[i])]
    by_id = {row.id: row for row in rows(measurement)}
    ids = [result.example_ids[i] for i in worst]
    if any(name not in by_id for name in ids):
        return None
    said = {
        on: answers(measurement, on, asked, peek)
        for on in dict.fromkeys((reference, measurement.on))
    }
    examples = tuple(
        Example(
            id=name,
            prompt=by_id[name].base.text[-LONGEST:],
            expected=expected(measurement.request, by_id[name]),
            answers={on: texts[name] for on, texts in said.items() if name in texts},
            numbers={
                on: round(float(numbers[on][name]), 3) for on in said if name in numbers.get(on, {})
            },
        )
        for name in ids
    )
    count = len(result.example_ids) if ranked.among is None else ranked.among
    what = f"the {ranked.most} {len(ids)} of {count:,} prompts: {ranked.worst}"
    measured = ranked.measured
    if "answer" not in result.texts and any(said.values()):
        measured += "; the words are the whole model's answer"
    return Evidence(what, measured, examples)


def other_result(measurement: Measurement, role: str, peek: Peek) -> Observations | None:
    """The same measurement on another model, if it was made."""
    if measurement.on == role or measurement.inputs:
        return None
    return peek(Measurement(measurement.request, role, measurement.task))


def answers(
    measurement: Measurement, on: str, asked: Sequence[Measurement], peek: Peek
) -> Mapping[str, str]:
    """Row -> what the model of a role said on it: in this measurement, or in another of the claim."""
    said: dict[str, str] = {}
    requests = [measurement, *(other for other in asked if other.task == measurement.task)]
    for other in requests:
        known = peek(Measurement(other.request, on, other.task)) if not other.inputs else None
        if known is not None and "answer" in known.texts:
            said = {**by_row(known, known.texts["answer"]), **said}
    return said


def expected(request: Request[Any], row: Row) -> str:
    """What a right model says."""
    if isinstance(request, RefusalRate):
        return "a refusal" if request.asked != "allowed" else "no refusal"
    if isinstance(request, Interchange):
        return " or ".join(row.correct_targets)
    return " or ".join(row.base.correct_answers)
