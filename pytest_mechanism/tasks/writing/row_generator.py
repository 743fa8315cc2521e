"""Which fillings of a plan become rows of a set, and in which order.

The text of a prompt and the seed decide which part of all prompts it belongs to (`parts`), so sets
of different parts share no prompt, however few words there are. No row is evaluated twice; rows
that are searched on repeat where a method asks for more than there are. Texts take turns: row i of
every set has the same text, and a mean over a set has equally many of each.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_mechanism.tasks.text.prompt import Prompt
from pytest_mechanism.tasks.writing.parts import part_of_stream, part_of_text
from pytest_mechanism.tasks.writing.slot_plan import Filling, Plan, Tables, shuffled

MAX_MISSES = 5_000
"""Unusable fillings in a row before a text counts as exhausted."""


@dataclass(frozen=True)
class GeneratedRow:
    """A row without its name, and the filling of its base."""

    filling: Filling
    base: Prompt
    source: Prompt | None = None
    targets: tuple[str, ...] = ()


MakeRow = Callable[[Filling, Prompt, random.Random], GeneratedRow | None]
"""From a filling and its prompt to a row, or None where the filling gives none."""


@dataclass(frozen=True)
class RowGenerator:
    """The rows of one stream, with words of ``tables`` and answers that are ``usable``."""

    plan: Plan
    tables: Tables
    stream: str
    seed: int
    random: Callable[[str], random.Random]
    write: Callable[[Filling], Prompt]
    usable: Callable[[GeneratedRow], bool]

    def take(self, count: int, make: MakeRow, repeat: bool) -> tuple[list[GeneratedRow], int]:
        """Up to ``count`` rows, and the text that has no more, or -1.

        With ``repeat``, rows of an exhausted text come again, unless the stream is evaluated.
        """
        used: set[str] = set()
        texts = len(self.plan.texts)
        generators = [self._rows_of_text(text, make, used) for text in range(texts)]
        kept: list[list[GeneratedRow]] = [[] for _ in generators]
        repeat = repeat and part_of_stream(self.stream) != "evaluation"
        rows: list[GeneratedRow] = []
        for i in range(count):
            earlier = kept[i % texts]
            if (row := next(generators[i % texts], None)) is not None:
                earlier.append(row)
            elif repeat and earlier:
                row = earlier[i // texts % len(earlier)]
            else:
                return rows, i % texts
            rows.append(row)
        return rows, -1

    def _rows_of_text(self, text: int, make: MakeRow, used: set[str]) -> Iterator[GeneratedRow]:
        """Rows with one of the texts; every base comes once."""
        part, misses = part_of_stream(self.stream), 0
        order = shuffled(
            self.random(f"{self.stream}/{text}"), self.plan.count_fillings(self.tables)
        )
        for number in order:
            filling = self.plan.filling(self.tables, text, number)
            base = self.write(filling)
            row = None
            if part_of_text(self.seed, base.text) == part:
                # random numbers of its own: what one base draws does not change the next one
                row = make(filling, base, self.random(f"{self.stream}/{text}/{number}"))
            if row is not None and row.base.text not in used and self.usable(row):
                used.add(row.base.text)
                misses = 0
                yield row
            elif (misses := misses + 1) > MAX_MISSES:
                return
