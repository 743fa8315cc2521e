"""Greater than: when does what began in 1732 end?

    The war lasted from the year 1732 to the year 17 -> any of 33 to 99

Source: Hanna et al. 2023 (arXiv 2305.00586), section 2. Every year after the first is right, so
correctness is the likeliest token being one of them, and the log-probability is theirs together.
The corrupted prompt of a pair says 01 instead of the year, after which nearly any year is right;
so do the prompts behind a mean.

Chance is that of naming any year. Somebody who always says 99 is always right, so ``accuracy`` alone
is green on a model that never reads the year. Claim `encodes` with the variable ``year`` beside it:
its targets are none of the years that are right anyway, and on such a model it is red.

The year after the century is one token of two digits ("17" "32"), and so is the answer, without a
space. A tokenizer that writes numbers otherwise has no such tokens, and the task says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from pytest_mechanism.errors import FieldError, MechanismError
from pytest_mechanism.tasks.base import Prompt, Vocabulary
from pytest_mechanism.tasks.writing.drawn import Drawn, Tables
from pytest_mechanism.tasks.writing.drawn_parameters import DrawnParameters
from pytest_mechanism.tasks.writing.patterns import Word, parse_pattern
from pytest_mechanism.tasks.writing.plans import Change, Plan, Scene, Told
from pytest_mechanism.tasks.writing.words import EVENTS

TEXT = "The {noun} lasted from the year {century}{year} to the year {century:again}"
YEARS = tuple(f"{year:02}" for year in range(2, 99))
"""Of the base: 01 is the corruption's, and after 99 no year is right."""
FIRST = "01"
ANSWERS = tuple(f"{year:02}" for year in range(100))
LEAST = 20
"""Years that the tokenizers must keep whole."""

Century = Annotated[
    str,
    StringConstraints(pattern="^[1-9][0-9]$"),
    BeforeValidator(lambda given: str(given) if type(given) is int else given, str | int),
]


class GreaterThanParameters(DrawnParameters):
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
            what = "a century stands twice" if self.centuries else "names no century"
            raise FieldError(what, "centuries")
        return GreaterThan(self)


class GreaterThan(Drawn):
    """Rows of the task. See the module.

    ========  ===================  =================================================================
    variable  source               target
    ========  ===================  =================================================================
    year      an earlier year      the years after the source's that are not after the base's
    ========  ===================  =================================================================
    """

    family = "greater_than"
    parameters = GreaterThanParameters
    positions = ("last", "noun", "century", "year")
    unproven_without = "year"

    @cached_property
    def plan(self) -> Plan:
        tables = {"nouns": EVENTS, "centuries": self.settings.centuries, "years": YEARS}
        slots = {"noun": "nouns", "century": "centuries", "year": "years"}
        pattern = parse_pattern(TEXT, dict.fromkeys(slots, ()))
        return Plan(
            tables={name: {word: {} for word in words} for name, words in tables.items()},
            slots=slots,
            told=(Told(pattern, Word(slot="year")),),
            corrupted=Change(put=(("year", Word(FIRST)),)),
            variables={"year": (Change(redraw=("year",)), Word(slot="year", source=True))},
        )

    @property
    def chance(self) -> float:
        """How often any year is right."""
        return sum(99 - int(year) for year in YEARS) / len(YEARS) / len(ANSWERS)

    def tables(self, vocabulary: Vocabulary) -> Tables:
        """Nouns, centuries and years that every tokenizer keeps whole.

        Raises:
            MechanismError: two-digit numbers are no tokens of some tokenizer.
        """
        plan = self.plan
        centuries = vocabulary.whole(self.settings.centuries)
        if lost := [each for each in self.settings.centuries if each not in centuries]:
            raise MechanismError(
                f"task greater_than: the tokenizers do not keep the century {lost[0]} whole; the "
                "task is for tokenizers that write 1732 as 17 and 32"
            )
        whole = set(ANSWERS).intersection(*(vocabulary.whole(ANSWERS, c) for c in centuries))
        years = [year for year in YEARS if year in whole and max(whole) > year]
        if len(years) < LEAST or FIRST not in whole:
            raise MechanismError(
                f"task greater_than: after a century the tokenizers keep {len(whole)} of 100 "
                f"two-digit years whole, among them {len(years)} of those that can be asked about "
                f"({LEAST} are needed, and {FIRST}); the task is for tokenizers that write 1732 as "
                "17 and 32"
            )
        nouns = self.kept(vocabulary, "nouns", plan.tables["nouns"])
        if not nouns:
            raise MechanismError("task greater_than: the tokenizers keep no noun whole")
        table: Mapping[str, Mapping[str, str]] = {year: {} for year in years}
        return {
            "nouns": nouns,
            "centuries": plan.tables["centuries"],
            "years": table,
            "answers": {year: {} for year in sorted(whole)},
        }

    def prompt(self, tables: Tables, scene: Scene) -> Prompt:
        right = tuple(year for year in tables["answers"] if year > scene.words["year"])
        return replace(
            super().prompt(tables, scene),
            answer=right[0],
            accepted=right,
            options=tuple(tables["answers"]),
            joint="",
        )

    def targets(self, tables: Tables, variable: str, base: Scene, source: Scene) -> tuple[str, ...]:
        low, high = source.words["year"], base.words["year"]
        return tuple(year for year in tables["answers"] if low < year <= high)
