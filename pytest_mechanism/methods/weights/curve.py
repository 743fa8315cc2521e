"""What becomes of a capability and of its suppression while the model is trained, step by step.

Revival (reverse fine-tuning) and the attack curve are the same measurement with another diet
(`methods.training`): Jain et al., ICLR 2024 (arXiv 2311.12786), section 5 and appendix; for
attacks, accuracy or refusal after N steps of tampering.

Other than published:

- Reverse fine-tuning trains on the pre-training data, at a rate below that of the fine-tuning. Here
  it trains on the questions that must be refused, with their answers, at the rates of the spec.
- AdamW at a constant rate, without warm-up, decay or weight decay (`methods.training`); the paper
  warms up and decays.
- The paper's control (``Scr. + FT``) is a model trained from scratch on the same data. Here it is a
  checkpoint that the user gives; what it has never learned is the user's word.

Interrupted, it goes on from the last evaluation and gives the same numbers: rows are drawn from
streams named by their step, and weights, optimiser and what was seen are kept together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.curve import AllowedAnswers, CurveResult, TrainingCurve
from pytest_mechanism.measurements.recipe import Recipe, file_lines
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.refusal import refusals
from pytest_mechanism.methods.refusal.replies import answers, questions
from pytest_mechanism.methods.weights.training import Training, fresh
from pytest_mechanism.tasks.base import Row


def measure(
    context: MeasurementContext, request: TrainingCurve, inputs: Sequence[Any]
) -> CurveResult:
    """``correct@STEP`` and ``refused@STEP`` for each evaluation, on the same rows.

    Arguments: ``recipe`` (`Recipe`), ``watch`` (what is asked: ``capability``, where the task
    knows the answers to what must be refused, else ``forbidden``), ``rows``, ``stream``.

    """
    recipe = request.recipe
    rows = context.task.row_set(request.watch, context.vocabulary, request.rows, request.stream)
    refusals(context, rows[0].base)  # each can be said in the tokens that are looked at
    check_unseen(context, recipe, rows)
    beside = context.task.row_set(
        "allowed", context.vocabulary, request.allowed_rows, request.stream
    )

    asked = {"": questions(context, rows), "allowed-": questions(context, beside)}

    def look(copy: Any, step: int) -> dict[str, list[float]]:
        return {
            f"{which}{name}@{step}": column
            for which, some in asked.items()
            for name, column in answers(context, copy, some).items()
        }

    training = Training(
        context.model, context.task, context.vocabulary, recipe, fresh(context.model, recipe)
    )
    found = training.go_on(context.scratch) if context.scratch else None
    if found is None:
        start, seen = 0, look(training.copy, 0)
    else:
        start, seen = found
    for step in training.stops(start):
        seen |= look(training.copy, step)
        if context.scratch is not None:
            training.save(context.scratch, step, seen)
        context.tick(recipe.batch * recipe.every)
    return CurveResult(
        tuple(row.id for row in rows),
        tuple(row.cluster for row in rows),
        {n: np.asarray(column) for n, column in seen.items() if not n.startswith("allowed-")},
        losses=tuple(training.losses),
        allowed=counted(seen),
        diverged=training.diverged,
    )


def check_unseen(context: MeasurementContext, recipe: Recipe, rows: Sequence[Row]) -> None:
    """No line of a file that is trained on is judged on too.

    Raises:
        MeasurementError: some are.
    """
    if recipe.data_mix != "file":
        return
    judged = {folded(row.base.text) for row in rows}
    read = file_lines(recipe)
    both = [
        one.text
        for one in read
        if folded(context.task.training_prompt(context.vocabulary, one.text, one.reply or "").text)
        in judged
    ]
    if both:
        raise MeasurementError(
            f"data: {len(both)} of {len(read)} lines are questions that are judged on "
            f"({both[0][:60]!r}); a file to train on must not hold them"
        )


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def counted(seen: Mapping[str, list[float]]) -> dict[int, AllowedAnswers]:
    """Step -> counts of what must be answered."""
    counts: dict[int, AllowedAnswers] = {}
    for name, refused in seen.items():
        if name.startswith("allowed-refused@"):
            step = name.partition("@")[2]
            right = seen.get(f"allowed-correct@{step}")
            total = None if right is None else sum(right)
            counts[int(step)] = AllowedAnswers(total, sum(refused), len(refused))
    return counts
