"""Greater than: an event began in 1732; in which year may it have ended?

    The war lasted from the year 1732 to the year 17 -> any of 33 to 99      (two digits a token)
    The war lasted from the year 1732 to the year 173 -> any of 3 to 9       (the last digit a token)

Source: Hanna et al. 2023 (arXiv 2305.00586), section 2. Every year after the first is correct: an
answer is correct if the likeliest token is one of these years, and its log-probability is that of
all of them together. The corrupted prompt of a pair, and every prompt behind a mean, has the least
year instead (01, or 0), after which nearly any is correct.

The tokenizers of the run decide which form is written, the same for all its checkpoints. GPT-2's
makes two tokens of two digits, and the paper's form is chosen. Most of today's tokenizers write digit
by digit, or three digits and a rest: then the prompt gives all but the last digit. In both forms one token is
compared with one token, the end has to be later and not only as late, and a model that copies the
year that it read is wrong. The next digit after the century would be no such test: copying the
decade would be right nine times in ten.

`GreaterThan.chance` is the accuracy of naming any year. But a model that always says 99 (or 9) is
always correct. So `accuracy`, and every claim that asks whether the model does the task, compares
with the model's own answers too: those that it gives to other prompts must be right less often
(`methods.circuits.performance`), and for that model they are not. The claim `encodes` with the
variable ``year`` shows more: its targets are no correct answers of the base.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from pytest_mechanism.errors import FieldError
from pytest_mechanism.tasks.base import Prompt, Vocabulary
from pytest_mechanism.tasks.text.vocabulary import unrecorded
from pytest_mechanism.tasks.writing.patterns import Word, parse_pattern
from pytest_mechanism.tasks.writing.slot_parameters import SlotTaskParameters
from pytest_mechanism.tasks.writing.slot_plan import Change, Filling, Plan, Tables, TextVariant
from pytest_mechanism.tasks.writing.slot_task import SlotTask
from pytest_mechanism.tasks.writing.whole_words import whole_words
from pytest_mechanism.tasks.writing.word_lists import Table, plain_table
from pytest_mechanism.tasks.writing.words import EVENTS

TEXT = "The {noun} lasted from the year {century}{year} to the year {century:again}"


@dataclass(frozen=True)
class Form:
    """Which part of a year is compared: the last token of it.

    Attributes:
        decades: what stands between the century and that part.
        years: that part in a base prompt. The least is the corruption's, and nothing is after the
            greatest.
        least: of the corruption.
        answers: every value.
        enough: how many of ``years`` the tokenizers must keep whole.
        century_is_token: whether the century must be one token.
        example: how tokenizers write a year.
    """

    decades: tuple[str, ...]
    years: tuple[str, ...]
    least: str
    answers: tuple[str, ...]
    enough: int
    century_is_token: bool
    example: str

    @property
    def chance(self) -> float:
        """The accuracy of naming any value."""
        later = sum(answer > year for year in self.years for answer in self.answers)
        return later / len(self.years) / len(self.answers)

    @property
    def table(self) -> Table:
        """The years, each with the corruption's beside it."""
        return {year: {LEAST: self.least} for year in self.years}

    def before(self, centuries: Iterable[str]) -> list[str]:
        """What precedes the compared part."""
        return [century + decade for century in centuries for decade in self.decades]

    def problem(self, centuries: tuple[str, ...], vocabulary: Vocabulary) -> str:
        """Why the tokenizers do not write years in this form; empty if they do."""
        if self.century_is_token:
            whole = vocabulary.whole(centuries)
            if lost := [century for century in centuries if century not in whole]:
                return f"the century {lost[0]} is not one token"
        values = self.whole(centuries, vocabulary)
        years = self.usable_years(values)
        if len(years) < self.enough or self.least not in values:
            before = self.before(centuries)[0]
            return (
                f"after a beginning such as {before}, {len(values)} of {len(self.answers)} endings "
                f"are one token, {len(years)} of which can be asked about ({self.enough} and "
                f"{self.least} are needed)"
            )
        return ""

    def whole(self, centuries: tuple[str, ...], vocabulary: Vocabulary) -> list[str]:
        """The values that are one token after everything that may precede them."""
        each = (vocabulary.whole(self.answers, before) for before in self.before(centuries))
        return sorted({*self.answers}.intersection(*each))

    def usable_years(self, values: Iterable[str]) -> list[str]:
        """The years that are whole and have a later value."""
        values = {*values}
        return [year for year in self.years if year in values and max(values) > year]


LEAST = "least"
"""The column of the corruption's year."""

TWO_DIGITS = Form(
    decades=("",),
    years=tuple(f"{year:02}" for year in range(2, 99)),
    least="01",
    answers=tuple(f"{year:02}" for year in range(100)),
    enough=20,
    century_is_token=True,
    example="1732 as 17 and 32",
)
LAST_DIGIT = Form(
    decades=tuple("0123456789"),
    years=tuple("12345678"),
    least="0",
    answers=tuple("0123456789"),
    enough=8,
    century_is_token=False,
    example="2 at the end of 1732 as a token of its own",
)
FORMS = (TWO_DIGITS, LAST_DIGIT)

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

    @property
    def easier(self) -> Sequence[Mapping[str, Any]]:
        """One century, from which texts have many years."""
        return [{"centuries": ("17",)}] if self.settings.centuries != ("17",) else []

    @cached_property
    def plan(self) -> Plan:
        slots = {"noun": "nouns", "century": "centuries", "year": "years"}
        pattern = parse_pattern(TEXT, dict.fromkeys(slots, ()))
        least = Word(slot="year", column=LEAST)
        return Plan(
            tables={
                "nouns": plain_table(EVENTS),
                "centuries": plain_table(self.settings.centuries),
                "years": TWO_DIGITS.table,
            },
            slots=slots,
            texts=(TextVariant(pattern, Word(slot="year")),),
            corruption=Change(put=(("year", least),)),
            variables={"year": (Change(redraw=("year",)), Word(slot="year", source=True))},
        )

    @property
    def chance(self) -> float:
        """The accuracy of naming any year, in the form where it is higher: chance is known before
        any tokenizer."""
        return max(form.chance for form in FORMS)

    def form(self, vocabulary: Vocabulary) -> Form:
        """The first form in which every tokenizer writes the years.

        Raises:
            TaskError: there is none.
        """
        problems = []
        for form in FORMS:
            if not (problem := form.problem(self.settings.centuries, unrecorded(vocabulary))):
                return form
            problems.append(problem)
        raise self.error(
            f"the tokenizers of the run have to write {' or '.join(f.example for f in FORMS)}, all "
            f"of them alike; they do not: {'; '.join(problems)}"
        )

    def tables(self, vocabulary: Vocabulary) -> Tables:
        """The nouns, beginnings of years and years that every tokenizer keeps whole.

        Raises:
            TaskError: the tokenizers write years in no known form, or in different ones.
        """
        form, centuries = self.form(vocabulary), self.settings.centuries
        values = form.whole(centuries, vocabulary)
        nouns = whole_words(self.plan, vocabulary, "nouns")
        if not nouns:
            raise self.error("the tokenizers split every noun")
        return {
            "nouns": nouns,
            "centuries": plain_table(form.before(centuries)),
            "years": {year: form.table[year] for year in form.usable_years(values)},
            "answers": plain_table(values),
        }

    def prompt(self, tables: Tables, filling: Filling) -> Prompt:
        answers = tuple(tables["answers"])  # in order
        later = answers[bisect_right(answers, filling.words["year"]) :]
        return replace(
            super().prompt(tables, filling),
            answer=later[0],
            accepted=later,
            options=answers,
            joint="",
        )

    def targets(
        self, tables: Tables, variable: str, base: Filling, source: Filling
    ) -> tuple[str, ...]:
        low, high = source.words["year"], base.words["year"]
        return tuple(year for year in tables["answers"] if low < year <= high)
