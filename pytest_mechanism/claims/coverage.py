"""``coverage``: the model is right about every word, not only on average.

A fault of one word hardly moves the accuracy: two labels of 26 that a model reads alike stand together in 6 % of the
contexts of entity tracking, and the accuracy falls by .02. So this claim sorts the rows into *cells*, one for each word
that an answer depends on (`Task.cells`): each object, each label, each place, each pair of labels. The score is the
accuracy of the worst cell, which is the one whose lower bound is lowest:

    worst = argmin over cells c of low(c),    low(c) = lower bound of the accuracy of c at confidence 1 - alpha / m

for m cells. The worst of many cells is a minimum, which is low by chance alone, so the interval is simultaneous
(Bonferroni; Dunn 1961): with confidence 1 - alpha it holds for all cells at once. A cell of few rows has a wide
interval, and the claim is inconclusive: rows that cannot show a fault do not pass. The reason says how many rows
``rows`` would need. A word that the task knows (`Task.all_cells`) and no row shows makes the claim inconclusive too.

Guessing is the control: a threshold below chance is met by a model that knows nothing of a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import StrictStr

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import above_chance, guesses, score
from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.fields.thresholds import AtLeast
from pytest_mechanism.measurements.cells import Cell, CellPerformance, CellResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.statistics.honesty import beats, doubted
from pytest_mechanism.tasks.base import RowCount, Task
from pytest_mechanism.types import Control, Verdict

SHOWN = 4
"""Cells below the threshold that the reason names."""

METRIC = "accuracy of the worst word, label or place; the interval holds for all of them at once (Bonferroni)"


@dataclass(frozen=True)
class Judged:
    """A cell with the accuracy of its rows."""

    cell: Cell
    accuracy: Estimate

    @property
    def name(self) -> str:
        return f"{self.cell.kind} {self.cell.name}"


class Coverage(PerRoleClaim):
    """The model is right about every word of the task.

    Attributes:
        at_least: the least accuracy claimed of every cell.
        of: kinds of cells; all of the task's where empty.
        rows: how many rows; those of the task where None.
    """

    summary: ClassVar[str] = "the model is right about every word, label and place of the task"
    if_red: ClassVar[str] = (
        "the model answers questions about the words, labels or positions that the reason names wrong: the accuracy "
        "of all rows together may hide it"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("at_least",)
    needs_groups: ClassVar[bool] = False
    counted: ClassVar[str] = "rows of the worst word, label or place"

    kind: Literal["coverage"]
    at_least: AtLeast
    of: tuple[StrictStr, ...] = ()
    rows: RowCount | None = None

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def measurement(self, context: ClaimContext) -> Measurement[CellResult]:
        request = CellPerformance(rows=self.rows or context.rows, stream="rows")
        return context.measurement(request, context.role)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return (self.measurement(context),)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        result = measure(self.measurement(context))
        threshold = f"is at least {self.at_least:g} for each"
        solved = above_chance(context, result)
        if solved is None:
            reason = (
                f"{guesses(context, context.role, result)}, so no word can be told from another"
            )
            return verdicts.at_chance(reason, threshold)
        chosen = self.chosen(result.cells)
        unseen = [f"{cell.kind} {cell.name}" for cell in chosen if not cell.rows]
        shown = [cell for cell in chosen if cell.rows]
        if not shown:
            raise MechanismError(f"no row shows any of {len(unseen)} words: {unseen[0]}, ...")
        cells = judged_cells(shown, result, context.sampling(result))
        worst = self.worst_first(cells)[0]
        control = Control("guessing among the prompt's options", context.task.chance)
        found = score(
            context,
            "accuracy of the worst word, label or place",
            worst.accuracy,
            METRIC,
            control=control,
        )
        found = replace(found, confidence=1 - (1 - context.confidence) / len(cells))
        called = context.task.cell_name
        what = f"worst of {len(cells)} {kinds_of(cells)}, {called(worst.cell.kind, worst.cell.name)}: accuracy"
        verdict = verdicts.within(found, self.at_least, math.inf, what, threshold)
        verdict = replace(
            verdict, reason=self.explained(verdict, cells, worst, len(result.clusters), called)
        )
        if unseen:
            verdict = doubted(verdict, Cause.UNSETTLED, in_no_row(unseen))
        return replace(
            beats(
                verdict,
                f"guessing ({context.task.chance:.3f})",
                f"guessing meets the threshold too (chance {context.task.chance:.3f})",
                ahead=self.at_least > context.task.chance,
            ),
            chance=solved,
        )

    def chosen(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of the kinds that the claim names.

        Raises:
            MechanismError: the task has no such kind, or no cells at all.
        """
        kinds = list(dict.fromkeys(cell.kind for cell in cells))
        if not kinds:
            raise MechanismError("the task names no words that its answers depend on (Task.cells)")
        for kind in self.of:
            if kind not in kinds:
                raise MechanismError(f"of: no cells of kind {kind!r}; {choices(kind, kinds)}")
        return [cell for cell in cells if not self.of or cell.kind in self.of]

    def worst_first(self, cells: Sequence[Judged]) -> list[Judged]:
        """The cells that are surely below the threshold; all cells where none is."""
        low = [judged for judged in cells if self.is_low(judged)]
        return sorted(low or cells, key=lambda judged: (judged.accuracy.interval[0], judged.name))

    def is_low(self, judged: Judged) -> bool:
        return judged.accuracy.interval[1] < self.at_least

    def explained(
        self,
        verdict: Verdict,
        cells: Sequence[Judged],
        worst: Judged,
        rows: int,
        called: Callable[[str, str], str],
    ) -> str:
        """The reason: the cells that are surely below the threshold, or how many rows would decide."""
        if self.is_low(worst):
            low = self.worst_first(cells)
            parts = [
                f"{called(cell.kind, cell.name)}: {verdicts.shown(seen.value, seen.interval)} right ({seen.n:,} "
                f"{'row' if seen.n == 1 else 'rows'})"
                for cell, seen in ((judged.cell, judged.accuracy) for judged in low[:SHOWN])
            ]
            more = f" and {len(low) - SHOWN} more" if len(low) > SHOWN else ""
            return (
                f"too often wrong about {'; '.join(parts)}{more}; claimed: at least {self.at_least:g} "
                f"(corrected for {len(cells)} comparisons)"
            )
        if verdict.status != "inconclusive":
            return verdict.reason
        first, _, _ = verdict.reason.partition("; ")
        if worst.accuracy.value <= self.at_least:
            return f"{first}; of {worst.accuracy.n:,} rows, too few to be sure that it is below"
        needed = self.rows_needed(worst, cells, rows)
        key = "rows: of the claim" if self.rows is not None else "rows: of the task"
        return (
            f"{first}; it stands in {worst.accuracy.n:,} of {rows:,} rows, about {needed:,} rows in all would decide "
            f"({key})"
        )

    def broken(self, context: ClaimContext, result: CellResult) -> tuple[str, tuple[int, ...]]:
        """The cell that the reason names first, with its rows."""
        shown = [cell for cell in self.chosen(result.cells) if cell.rows]
        cells = judged_cells(shown, result, context.sampling(result))
        worst = self.worst_first(cells)[0].cell
        return context.task.cell_name(worst.kind, worst.name), worst.rows

    def rows_needed(self, worst: Judged, cells: Sequence[Judged], rows: int) -> int:
        """Rows of the task with which the worst cell would meet the threshold, were its accuracy what was seen."""
        value, n = worst.accuracy.value, worst.accuracy.n
        gap = max(value - self.at_least, 1e-9)
        # the width of an interval shrinks with the root of its rows
        factor = max(1.0, ((value - worst.accuracy.interval[0]) / gap) ** 2)
        return verdicts.round_up(max(rows * factor, rows + rows / max(n, 1)))


def kinds_of(cells: Sequence[Judged]) -> str:
    """The kinds of cells, in the plural: ``labels, places and pairs of labels``."""
    kinds = [judged.cell.kind.partition(" ") for judged in cells]
    *others, last = dict.fromkeys(f"{noun}s{gap}{rest}" for noun, gap, rest in kinds)
    return f"{', '.join(others)} and {last}" if others else last


def in_no_row(words: Sequence[str]) -> str:
    """Why rows that are all right do not pass: words of the task that none of them shows."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    verb = "stands" if len(words) == 1 else "stand"
    return f"{', '.join(words[:SHOWN])}{more} {verb} in no row; more rows would show every word"


def judged_cells(cells: Sequence[Cell], result: CellResult, how: Sampling) -> list[Judged]:
    """The accuracy of every cell, with an interval that holds for all cells at once."""
    correct, clusters = np.asarray(result.values["correct"]), list(result.clusters)
    confidence = 1 - (1 - how.confidence) / len(cells)
    return [
        Judged(
            cell,
            cell_accuracy(
                correct[list(cell.rows)],
                Sampling([clusters[i] for i in cell.rows], confidence, how.seed),
            ),
        )
        for cell in cells
    ]


def cell_accuracy(correct: Any, how: Sampling) -> Estimate:
    """The accuracy of a cell. Where all its rows agree, or stand in one context, the rows of a context count once:
    they show no spread between contexts, from which an interval could be taken."""
    found = estimates.proportion(correct, how)
    groups = len({*how.clusters})
    alike = groups == 1 or correct.min() == correct.max()
    if groups == len(correct) or not alike:
        return found
    low, high = estimates.exact_bounds(groups, how.confidence)
    return replace(
        found,
        interval=(low if correct.min() == 1 else 0.0, high if correct.max() == 0 else 1.0),
    )
