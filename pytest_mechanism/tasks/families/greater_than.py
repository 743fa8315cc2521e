"""Greater than: an event began in 1732; in which year may it have ended?

    The war lasted from the year 1732 to the year 17 -> any of 33 to 99

Source: Hanna et al. 2023 (arXiv 2305.00586), section 2. Every year after the first is correct: an
answer is correct if the likeliest token is one of these years, and its log-probability is that of
all of them together. The corrupted prompt of a pair, and every prompt behind a mean, has 01 instead
of the year, after which nearly any year is correct.

Chance is the accuracy of naming any year. A model that always says 99 is always correct, so
``accuracy`` alone passes on a model that never reads the year. Use the claim `encodes` with the
variable ``year`` beside it: its targets are no correct answers of the base, and such a model fails.

The year after the century is one token of two digits ("17" "32"), and so is the answer, without a
space. The task refuses tokenizers that write numbers otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from pytest_mechanism.errors import FieldError
from pytest_mechanism.tasks.base import Prompt, Vocabulary
from pytest_mechanism.tasks.writing.patterns import Word, parse_pattern
from pytest_mechanism.tasks.writing.slot_parameters import SlotTaskParameters
from pytest_mechanism.tasks.writing.slot_plan import Change, Filling, Plan, Tables, TextVariant
from pytest_mechanism.tasks.writing.slot_task import SlotTask
from pytest_mechanism.tasks.writing.whole_words import whole_words
from pytest_mechanism.tasks.writing.word_lists import plain_table
from pytest_mechanism.tasks.writing.words import EVENTS

TEXT = "The {noun} lasted from the year {century}{year} to the year {century:again}"
YEARS = tuple(f"{year:02}" for year in range(2, 99))
"""Of the base: the corruption uses 01, and no year is correct after 99."""
FIRST = "01"
ANSWERS = tuple(f"{year:02}" for year in range(100))
MIN_YEARS = 20
"""Years that the tokenizers must keep whole."""

Century = Annotated[
    str,
    StringConstraints(pattern="^[1-9][0-9]$"),
    BeforeValidator(lambda value: str(value) if type(value) is int else value, str | int),
]


class GreaterThanParameters(SlotTaskParameters):
    """``task:`` for this family.

    Attributes:
        centuries: the first two digits of the years.
    """

    family: Literal["greater_than"]
    centuries: Annotated[tuple[Century, ...], Field(strict=False)] = (
        "11", "12", "13", "14", "15", "16", "17",
    )  # fmt: skip

    def task(self) -> GreaterThan:
        if not self.centuries or len({*self.centuries}) < len(self.centuries):
            problem = "names a century twice" if self.centuries else "names no century"
            raise FieldError(problem, "centuries")
        return GreaterThan(self)


class GreaterThan(SlotTask[GreaterThanParameters]):
    """Rows of the task; see the module.

    ========  ===================  =================================================================
    variable  source               target
    ========  ===================  =================================================================
    year      an earlier year      the years after the source's that are not after the base's
    ========  ===================  =================================================================
    """

    family = "greater_than"
    parameters = GreaterThanParameters
    positions = ("last", "noun", "century", "year")
    ignorable_variable = "year"

    @cached_property
    def plan(self) -> Plan:
        slots = {"noun": "nouns", "century": "centuries", "year": "years"}
        pattern = parse_pattern(TEXT, dict.fromkeys(slots, ()))
        return Plan(
            tables={
                "nouns": plain_table(EVENTS),
                "centuries": plain_table(self.settings.centuries),
                "years": plain_table(YEARS),
            },
            slots=slots,
            texts=(TextVariant(pattern, Word(slot="year")),),
            corruption=Change(put=(("year", Word(FIRST)),)),
            variables={"year": (Change(redraw=("year",)), Word(slot="year", source=True))},
        )

    @property
    def chance(self) -> float:
        """The accuracy of naming any year."""
        return sum(99 - int(year) for year in YEARS) / len(YEARS) / len(ANSWERS)

    def tables(self, vocabulary: Vocabulary) -> Tables:
        """The nouns, centuries and years that every tokenizer keeps whole.

        Raises:
            TaskError: two-digit numbers are no tokens of some tokenizer.
        """
        centuries = vocabulary.whole(self.settings.centuries)
        if lost := [century for century in self.settings.centuries if century not in centuries]:
            raise self.error(
                f"the tokenizers do not keep the century {lost[0]} whole; the task is for "
                "tokenizers that write 1732 as 17 and 32"
            )
        whole = set(ANSWERS).intersection(*(vocabulary.whole(ANSWERS, c) for c in centuries))
        years = [year for year in YEARS if year in whole and max(whole) > year]
        if len(years) < MIN_YEARS or FIRST not in whole:
            raise self.error(
                f"after a century the tokenizers keep {len(whole)} of 100 two-digit years whole, "
                f"{len(years)} of which can be years of a question ({MIN_YEARS} and {FIRST} are "
                "needed); the task is for tokenizers that write 1732 as 17 and 32"
            )
        nouns = whole_words(self.plan, vocabulary, "nouns")
        if not nouns:
            raise self.error("the tokenizers split every noun")
        return {
            "nouns": nouns,
            "centuries": self.plan.tables["centuries"],
            "years": plain_table(years),
            "answers": plain_table(sorted(whole)),
        }

    def prompt(self, tables: Tables, filling: Filling) -> Prompt:
        later = tuple(year for year in tables["answers"] if year > filling.words["year"])
        return replace(
            super().prompt(tables, filling),
            answer=later[0],
            accepted=later,
            options=tuple(tables["answers"]),
            joint="",
        )

    def targets(
        self, tables: Tables, variable: str, base: Filling, source: Filling
    ) -> tuple[str, ...]:
        low, high = source.words["year"], base.words["year"]
        return tuple(year for year in tables["answers"] if low < year <= high)
