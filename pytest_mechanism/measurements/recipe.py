"""The recipe by which a copy of a model is trained (`methods.weights.training`), and its training rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.descent import ADAMW, Descent
from pytest_mechanism.tasks.base import Row, Task, Vocabulary
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.writing.instructions import Instruction, instructions

DataMix = Literal["capability", "allowed", "forbidden", "random", "removal", "file"]
"""The training rows: prompts that must be refused with their answers (``capability``), other prompts
with answers (``allowed``), prompts that must be refused with refusals (``forbidden``) or with wrong
answers (``random``), prompts that must be refused with each other's answers and as many of ``allowed``
(``removal``: the capability goes, the others stay), or the lines of a file."""


@dataclass(frozen=True)
class Recipe:
    """How a copy is trained.

    Attributes:
        data_mix: the kind of training rows.
        rate: the learning rate; with a schedule, the highest.
        steps: number of optimiser steps.
        every: steps between evaluations.
        seed: of the training rows, and of LoRA's initial values.
        batch: rows in a step.
        lora: rank of LoRA's matrices, or None to train all weights.
        file: SHA-256 of the file, for the data mix ``file``.
        descent: optimiser, and schedule of the learning rate.
        correlated: share of the training texts in which the answers to what must be refused and to what
            must be answered go together (`Task.with_correlation`); None leaves the task as it is.
        first: recipe of an earlier training, at whose copy this one begins; None begins at the model.
    """

    data_mix: DataMix
    rate: float
    steps: int
    every: int
    seed: int
    batch: int
    lora: int | None = None
    file: str = ""
    descent: Annotated[Descent, Field(exclude_if=lambda descent: descent == ADAMW)] = ADAMW
    correlated: Annotated[float | None, Field(exclude_if=lambda share: share is None)] = None
    first: Annotated[Recipe | None, Field(exclude_if=lambda recipe: recipe is None)] = None

    @property
    def evaluated(self) -> list[int]:
        """Steps after which the copy is evaluated, with 0 and the last one."""
        return sorted({*range(0, self.steps, self.every), self.steps})


def training_rows(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """The training rows of one step; no claim is evaluated on them."""
    stream = f"training-{recipe.seed}-{step}"
    if recipe.correlated is not None:
        task = task.with_correlation(recipe.correlated)
    if recipe.data_mix == "file":
        return file_rows(task, vocabulary, recipe, step)
    if recipe.data_mix == "random":
        return wrong_rows(task, vocabulary, recipe.batch, stream)
    if recipe.data_mix == "removal":
        kept = recipe.batch // 2
        lost = unrelated_rows(task, vocabulary, recipe.batch - kept, stream)
        return [*lost, *(task.row_set("allowed", vocabulary, kept, stream) if kept else ())]
    return task.row_set(recipe.data_mix, vocabulary, recipe.batch, stream)


def wrong_rows(task: Task, vocabulary: Vocabulary, count: int, stream: str) -> Sequence[Row]:
    """Prompts that must be refused, with wrong answers."""
    rows = task.row_set("capability", vocabulary, count, stream)
    return [with_wrong_answer(row, f"{stream}/wrong", task) for row in rows]


def unrelated_rows(task: Task, vocabulary: Vocabulary, count: int, stream: str) -> Sequence[Row]:
    """Prompts that must be refused, each with the answer to another one.

    An answer that is never the right one tells which one is right: a copy that is trained long enough on
    such answers must know the right one to avoid it. Another prompt's answer tells nothing. Another prompt's
    whole reply may show the capability itself, so tasks with replies are refused.
    """
    rows = task.row_set("capability", vocabulary, count, stream)
    if any(row.base.reply for row in rows):
        raise MeasurementError(
            f"the answers of task {task.family} are whole replies, and a copy that learns another prompt's reply "
            "does not lose the capability; valid: tasks whose answer is a word"
        )
    others = task.row_set("capability", vocabulary, count, f"{stream}/answers")
    return [with_answer(r, other.base.answer) for r, other in zip(rows, others, strict=True)]


def file_lines(recipe: Recipe) -> Sequence[Instruction]:
    """The lines of the recipe's file."""
    return instructions(DataFile(sha256=recipe.file))


def file_rows(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """The training rows of one step from a file, which is shuffled again for each epoch."""
    lines = file_lines(recipe)
    rows = []
    for i in range((step - 1) * recipe.batch, step * recipe.batch):
        epoch, place = divmod(i, len(lines))
        line = lines[shuffled(len(lines), recipe.seed, epoch)[place]]
        prompt = task.training_prompt(vocabulary, line.text, line.reply or "")
        rows.append(Row(f"line-{i}", f"line-{i}", prompt, None, prompt.answer))
    return rows


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"lines/{seed}/{epoch}").shuffle(order)
    return tuple(order)


def with_wrong_answer(row: Row, seed: str, task: Task) -> Row:
    """The row with a random wrong answer, from the options of its prompt."""
    options = [o for o in row.base.options if o not in (*row.base.correct_answers, *task.refusals)]
    if not options:
        raise MeasurementError(
            f"task {task.family} has no wrong answers, which random fine-tuning needs"
        )
    return with_answer(row, random.Random(f"{seed}/{row.id}").choice(options))


def with_answer(row: Row, answer: str) -> Row:
    return replace(row, base=replace(row.base, answer=answer, reply="", accepted=()))
