"""Request of `methods.circuits.cells`: is the answer right, and which words does each row depend on?"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Observations


@dataclass(frozen=True)
class Cell:
    """The rows that depend on one word, or on one place, of a task.

    Attributes:
        kind: what kind of word (``label``), as the task calls it (`Task.cells`).
        name: the word.
        rows: indices of the rows; none where no row shows the word.
    """

    kind: str
    name: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class CellResult(Observations):
    """Whether each answer is right.

    Attributes:
        cells: every cell; where the task does not know all its words, those that the rows show.
    """

    cells: tuple[Cell, ...]


class CellPerformance(Request[CellResult]):
    """Does the whole model give the answer, and which words does a row depend on?

    Attributes:
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.cells:measure"
    revision = 2

    rows: int
    stream: str

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(rows=self.rows, prompts=self.stream, prompt_count=self.rows)

    def row_sets(self) -> tuple[RowSet, ...]:
        return (RowSet("rows", self.rows, self.stream, one_token_answers=True),)
