"""The whole model on the task's rows: is its answer right, and how likely is the right one?

    correct_i    = the likeliest token a_i is in A_i, the right answers of row i
    elsewhere_i  = share of the other rows j with a_i in A_j

Where rows have several right answers, one answer may be right on most rows, and a model that never
reads its prompt may be right as often as a model that does. The mean of ``elsewhere`` is the accuracy
of the same answers if they were given to other rows: the no-information rate of these answers.

Where the task judges whole replies, correct_i = the task's judge accepts the greedy reply to row i.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.refusal_score import HookedModel
from pytest_mechanism.methods.refusal.replies import prompt_batches, reply_columns
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: Performance, inputs: Sequence[Any]
) -> Observations:
    """``correct`` (argmax over the whole vocabulary is an answer), ``log_probability``, perhaps
    ``logit_difference``, and ``elsewhere`` where a row has several answers; ``correct`` alone where the
    task judges replies."""
    rows = context.task.row_set(request.asked, context.vocabulary, request.rows, request.stream)
    columns = Columns()
    if context.task.judges_replies:
        said: list[str] = []
        replies = reply_columns(context, HookedModel(context), prompt_batches(context, rows), said)
        columns.add("correct", torch.tensor(replies["correct"]))
        columns.add_texts("answer", said)
        return columns.observations(rows)
    given: list[int] = []
    right: list[set[int]] = []
    for batch in context.batches(rows):
        logits = context.engine.run(batch.base.tokens).outcome.logits
        others = context.other_options(batch.rows) if request.differences else None
        columns.add_answers("", logits, batch.correct_answers, others)
        given += logits.argmax(-1).tolist()
        right += [{*ids} - {-1} for ids in batch.correct_answers.tolist()]
    decode = context.model.encoder.tokenizer.decode
    columns.add_texts("answer", (decode([i], skip_special_tokens=False) for i in given))
    if len(rows) > 1 and any(len(answers) > 1 for answers in right):
        columns.add("elsewhere", torch.tensor(elsewhere(given, right), dtype=torch.float64))
    return columns.observations(rows)


def elsewhere(given: Sequence[int], right: Sequence[set[int]]) -> list[float]:
    """For each row, the share of the other rows on which its answer is right.

    Args:
        given: token that the model gives on each row.
        right: tokens that are right on each row.
    """
    counts = Counter(token for answers in right for token in answers)
    others = len(given) - 1
    return [
        (counts[token] - (token in answers)) / others
        for token, answers in zip(given, right, strict=True)
    ]
