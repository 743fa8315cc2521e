"""How a copy of a model is fine-tuned, and on which rows (`methods.weights.training`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.tasks.base import Row, Task, Vocabulary
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.writing.instructions import Instruction, instructions

DataMix = Literal["capability", "allowed", "forbidden", "random", "file"]
"""What the copy is trained on: answers to what must be refused (``capability``), answers to what need not
be (``allowed``), refusals (``forbidden``), wrong answers to what must be refused (``random``), or the
lines of a file."""


@dataclass(frozen=True)
class Recipe:
    """How a copy is trained.

    Attributes:
        data_mix: what it is trained on.
        rate: learning rate of AdamW.
        steps: of training.
        every: steps between evaluations.
        seed: of the rows, and of LoRA's initial values.
        batch: rows in each step.
        lora: rank of LoRA's matrices, or None to train every weight.
        file: sha256 of the file, for the data mix ``file``.
    """

    data_mix: DataMix
    rate: float
    steps: int
    every: int
    seed: int
    batch: int
    lora: int | None = None
    file: str = ""

    @property
    def evaluation_steps(self) -> list[int]:
        """Steps after which the copy is evaluated, from 0 to the last."""
        return sorted({*range(0, self.steps, self.every), self.steps})


def training_rows(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """The rows of one step. No claim is judged on them."""
    stream = f"training-{recipe.seed}-{step}"
    if recipe.data_mix == "file":
        return file_rows(task, vocabulary, recipe, step)
    if recipe.data_mix == "random":
        rows = task.row_set("capability", vocabulary, recipe.batch, stream)
        return [wrong_answer(row, f"{stream}/wrong", task) for row in rows]
    return task.row_set(recipe.data_mix, vocabulary, recipe.batch, stream)


def file_lines(recipe: Recipe) -> Sequence[Instruction]:
    """The lines of the recipe's file."""
    return instructions(DataFile(sha256=recipe.file))


def file_rows(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """Rows of the file's lines, which are shuffled again after each pass."""
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


def wrong_answer(row: Row, seed: str, task: Task) -> Row:
    """The row with a wrong answer, drawn from the prompt's options."""
    options = [o for o in row.base.options if o not in (*row.base.correct_answers, *task.refusals)]
    if not options:
        raise MeasurementError(
            f"task {task.family} names no wrong answers, which random fine-tuning trains"
        )
    answer = random.Random(f"{seed}/{row.id}").choice(options)
    return replace(row, base=replace(row.base, answer=answer, reply="", accepted=()))
