"""Training curves: a capability and its suppression while a copy of the model is trained.

Jain et al., ICLR 2024 (arXiv 2311.12786), section 5 and appendix. For a copy M_t after t steps
(`methods.weights.training`), over the rows x with the answers y:

    correct@t = mean over x of [the greedy reply of M_t to x begins with y]
    refused@t = mean over x of [the greedy reply of M_t to x begins with a refusal]

Revival (reverse fine-tuning) and attack curves are the same measurement with other data mixes.

Other than published:

- The paper's reverse fine-tuning trains on the pre-training data, at a learning rate below that of
  the fine-tuning. Here it trains on the prompts that must be refused, with their answers, at the
  learning rates of the spec.
- By default AdamW has a constant learning rate; the paper warms up and decays, which the recipe may name
  (`measurements.descent`). There is no weight decay.
- The paper's control (``Scr. + FT``) is a model trained from scratch on the same data. Here it is a
  checkpoint of the user, who knows that it never had the capability.

An interrupted training resumes from the last evaluation and gives the same numbers: each step draws
its rows from its own stream, and weights, optimiser and measured columns are saved together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.curve import AllowedAnswers, CurveResult, TrainingCurve
from pytest_mechanism.measurements.recipe import Recipe, file_lines
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.refusal_score import refusal_ids
from pytest_mechanism.methods.refusal.replies import prompt_batches, reply_columns
from pytest_mechanism.methods.weights.trained_copies import trained_copy
from pytest_mechanism.methods.weights.training import Training, trainable_copy
from pytest_mechanism.tasks.base import Row

ALLOWED = "allowed-"
"""Prefix of the columns of prompts that must be answered."""


def measure(
    context: MeasurementContext, request: TrainingCurve, inputs: Sequence[Any]
) -> CurveResult:
    """Columns ``correct@STEP`` and ``refused@STEP`` of each evaluation, on the same rows."""
    recipe = request.recipe
    rows = context.task.row_set(request.watch, context.vocabulary, request.rows, request.stream)
    refusal_ids(context, rows[0].base)  # raises if a refusal is longer than the replies
    check_no_overlap(context, recipe, rows)
    allowed = context.task.row_set(
        "allowed", context.vocabulary, request.allowed_rows, request.stream
    )
    batches = {"": prompt_batches(context, rows), ALLOWED: prompt_batches(context, allowed)}

    def evaluate(copy: Any, step: int) -> dict[str, list[float]]:
        return {
            f"{prefix}{name}@{step}": column
            for prefix, prompts in batches.items()
            for name, column in reply_columns(context, copy, prompts).items()
        }

    plain = None if recipe.first is None else trained_copy(context, recipe.first)
    training = Training(
        context.model,
        context.task,
        context.vocabulary,
        recipe,
        trainable_copy(context.model, recipe, plain),
    )
    resumed = training.resume(context.scratch) if context.scratch else None
    start, columns = resumed or (0, evaluate(training.copy, 0))
    for step in training.evaluations(start):
        columns |= evaluate(training.copy, step)
        if context.scratch is not None:
            training.save(context.scratch, step, columns)
        context.tick(3 * recipe.batch * recipe.every)  # a backward costs two forwards
    return CurveResult(
        tuple(row.id for row in rows),
        tuple(row.cluster for row in rows),
        {n: np.asarray(column) for n, column in columns.items() if not n.startswith(ALLOWED)},
        losses=tuple(training.losses),
        allowed=allowed_counts(columns),
        diverged=training.diverged,
    )


def check_no_overlap(context: MeasurementContext, recipe: Recipe, rows: Sequence[Row]) -> None:
    """Checks that a file of training rows has none of the evaluated rows.

    Raises:
        MeasurementError: it has some.
    """
    if recipe.data_mix != "file":
        return
    evaluated = {normalised(row.base.text) for row in rows}
    task, vocabulary = context.task, context.vocabulary
    lines = file_lines(recipe)
    overlap = [
        line.text
        for line in lines
        if normalised(task.training_prompt(vocabulary, line.text, line.reply or "").text)
        in evaluated
    ]
    if overlap:
        raise MeasurementError(
            f"data: {len(overlap)} of {len(lines)} lines are also evaluated ({overlap[0][:60]!r}); "
            "remove them from the file"
        )


def normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def allowed_counts(columns: Mapping[str, list[float]]) -> dict[int, AllowedAnswers]:
    """Step -> counts of replies to the prompts that must be answered."""
    counts: dict[int, AllowedAnswers] = {}
    for name, refused in columns.items():
        if name.startswith(f"{ALLOWED}refused@"):
            step = name.partition("@")[2]
            right = columns.get(f"{ALLOWED}correct@{step}")
            total = None if right is None else sum(right)
            counts[int(step)] = AllowedAnswers(total, sum(refused), len(refused))
    return counts
