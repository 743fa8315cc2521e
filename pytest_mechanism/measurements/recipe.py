"""What a copy of a model is trained on, step by step (`methods.training`)."""

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

Diet = Literal["capability", "allowed", "forbidden", "random", "file"]
"""What is trained: the answers to what must be refused, to what need not be, the refusals
themselves, wrong answers to what must be refused, or the lines of a file."""


@dataclass(frozen=True)
class Recipe:
    """How a copy is trained.

    Attributes:
        diet: what it reads.
        rate: of AdamW.
        steps: of training.
        every: steps between evaluations.
        seed: of the rows, and of LoRA's first values.
        batch: rows a step.
        lora: rank of LoRA's matrices, or None to train every weight.
        file: sha256 of the file that is read, of the diet ``file``.
    """

    diet: Diet
    rate: float
    steps: int
    every: int
    seed: int
    batch: int
    lora: int | None = None
    file: str = ""

    @property
    def evaluated(self) -> list[int]:
        """Steps after which the copy is looked at: 0 and the last among them."""
        return sorted({*range(0, self.steps, self.every), self.steps})


def lesson(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """The rows of one step, none of which a claim is judged on."""
    stream = f"training-{recipe.seed}-{step}"
    if recipe.diet == "file":
        return lines(task, vocabulary, recipe, step)
    asked = "capability" if recipe.diet == "random" else recipe.diet
    rows = task.row_set(asked, vocabulary, recipe.batch, stream)
    return (
        [wrong(row, f"{stream}/wrong", task) for row in rows] if recipe.diet == "random" else rows
    )


def pool(recipe: Recipe) -> Sequence[Instruction]:
    """The lines of the recipe's file."""
    return instructions(DataFile(sha256=recipe.file))


def lines(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """Lines of a file, shuffled anew each time that all have been read."""
    read = pool(recipe)
    rows = []
    for i in range((step - 1) * recipe.batch, step * recipe.batch):
        turn, place = divmod(i, len(read))
        one = read[shuffled(len(read), recipe.seed, turn)[place]]
        prompt = task.training_prompt(vocabulary, one.text, one.reply or "")
        rows.append(Row(f"line-{i}", f"line-{i}", prompt, None, prompt.answer))
    return rows


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, turn: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"lines/{seed}/{turn}").shuffle(order)
    return tuple(order)


def wrong(row: Row, seed: str, task: Task) -> Row:
    """The row with another answer than its own, drawn from what a guesser would say."""
    options = [o for o in row.base.options if o not in (*row.base.correct_answers, *task.refusals)]
    if not options:
        raise MeasurementError(
            f"task {task.family} names no wrong answers, which random fine-tuning trains"
        )
    answer = random.Random(f"{seed}/{row.id}").choice(options)
    return replace(row, base=replace(row.base, answer=answer, reply="", accepted=()))
