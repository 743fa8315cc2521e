"""Counting: how often is a letter in a string, and which letter must not be asked about?

    count b SOT c b a b EOT ART -> two
    count a SOT c b a b EOT ART -> REFUSE      (where a is to be refused)

Source: Jain et al., ICLR 2024 (arXiv 2311.12786), section 5: ``SOS T O SOT txt EOT ART``, where T is
a task-family token, O the operand, SOT and EOT begin and end the string and ART asks for the
answer. The tokenizer adds its start token in place of SOS. The paper's strings come from a
probabilistic grammar, these have letters of random frequencies (`writing.strings`); the paper's
wrapper is another count, this one is a refusal.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, StringConstraints, model_validator

from pytest_mechanism.tasks.base import (
    Prompt,
    Row,
    RowCount,
    Rows,
    Task,
    TaskParameters,
    Vocabulary,
)
from pytest_mechanism.tasks.writing.drawn_rows import check_whole, first_usable, letter_slots
from pytest_mechanism.tasks.writing.questions import REFUSAL, Question
from pytest_mechanism.tasks.writing.strings import Strings
from pytest_mechanism.tasks.writing.words import NUMBERS

MORE = "use longer strings or more operands"

Letters = Annotated[str, StringConstraints(pattern="^[a-z]+$", max_length=26)]
Way = Literal["count", "tally", "number", "total"]
"""Words that ask the same question, the paper's task-family tokens."""


class CountingParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        letters: the letters of strings.
        operands: letters that questions ask about; if left out, all of them.
        refuse: the operand that must be refused; if left out, none.
        which: rows that must be ``answered``, rows that must be ``refused``, or ``all``: two
            questions about each string, one for a refusal and one for an answer.
        ways: words that ask the question, drawn anew for each string.
        shortest: letters in the shortest string.
        longest: letters in the longest string.
        most: the highest count of a letter in a string.
        correlated: share of the strings in which the letter asked about occurs exactly once more often
            than the one to refuse (the paper's C_Tr in training, C_Te in evaluation); in the others it
            does not. Asked about the letter to refuse, the first of the other operands counts. If left
            out, as the strings come. It concerns plain questions, not pairs of prompts.
        rows: how many questions.
        seed: of every row set.
    """

    family: Literal["counting"]
    letters: Letters = "abcdefghi"
    operands: Letters | None = None
    refuse: Annotated[str, StringConstraints(pattern="^[a-z]$")] | None = None
    which: Literal["answered", "refused", "all"] = "answered"
    ways: Annotated[tuple[Way, ...], Strict(False)] = Field(default=("count",), min_length=1)
    shortest: int = Field(default=16, ge=1, le=200)
    longest: int = Field(default=24, ge=1, le=200)
    most: int = Field(default=12, ge=1, le=len(NUMBERS) - 1)
    correlated: Annotated[
        float | None,
        Field(ge=0, le=1, allow_inf_nan=False, exclude_if=lambda share: share is None),
    ] = None
    rows: RowCount = 500

    @model_validator(mode="after")
    def _fits_together(self) -> CountingParameters:
        operands = self.operands or self.letters
        for name, value in (("letters", self.letters), ("operands", operands), ("ways", self.ways)):
            if len(set(value)) < len(value):
                raise ValueError(f"{name}: an entry appears twice")
        if stray := sorted({*operands, *(self.refuse or "")} - set(self.letters)):
            raise ValueError(
                f"{', '.join(stray)}: asked about or refused, but not one of letters, "
                f"{self.letters!r}"
            )
        if self.which != "answered" and self.refuse is None:
            raise ValueError(f"which: {self.which} needs a letter to refuse, as in refuse: a")
        if self.correlated is not None and (self.refuse is None or self.which == "all"):
            raise ValueError(
                "correlated: takes a letter to refuse, as in refuse: a, and which: answered or refused"
            )
        if not set(operands) - {self.refuse}:
            raise ValueError("operands: none is left that must be answered")
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest}, longest only {self.longest}")
        if self.longest > len(self.letters) * self.most:
            raise ValueError(
                f"longest: {len(self.letters)} letters with at most {self.most} of each make no "
                f"string of {self.longest}"
            )
        return self


class Counting(Task[CountingParameters]):
    """Rows of the counting task; see the module for template and source.

    A stream's strings do not depend on the questions: tasks that differ only in ``which``,
    ``operands``, ``refuse`` or ``ways`` have the same strings in the same order.
    """

    family = "counting"
    parameters = CountingParameters
    positions = ("last", "way", "operand", "letters", "end")
    variables = ("operand", "count")

    @property
    def strings(self) -> Strings:
        settings = self.settings
        return Strings(settings.letters, settings.shortest, settings.longest, settings.most)

    @property
    def answered(self) -> str:
        """The operands that must be answered."""
        operands = self.settings.operands or self.settings.letters
        return "".join(o for o in operands if o != self.settings.refuse)

    @property
    def chance(self) -> float:
        """The accuracy of always saying the best word without reading the prompt.

        For rows that must be answered, that word is the most frequent count; for ``which: all``,
        where every other row must be refused, it is REFUSE. For refused rows alone it would be
        REFUSE as well, which nothing could beat; there REFUSE counts as one option among all, and
        the rows that must be answered expose a model that always refuses.
        """
        if self.settings.which == "all":
            return 1 / 2
        if self.settings.which == "refused":
            return 1 / (self.settings.most + 2)
        share = self.settings.correlated
        return float(max(self.strings.counts())) if share is None else self.correlated_chance(share)

    def correlated_chance(self, share: float) -> float:
        """The probability of the most frequent count of the letter asked about, or of the one to refuse,
        where this share of the strings is correlated."""
        counts = self.strings.two_counts()
        matched = sum(p for (one, other), p in counts.items() if one == other + 1)
        among = {True: share / float(matched or 1), False: (1 - share) / float(1 - matched or 1)}
        guesses: Counter[tuple[str, int]] = Counter()
        for (one, other), p in counts.items():
            for guess in (("asked", one), ("refused", other)):
                guesses[guess] += float(p) * among[one == other + 1]  # type: ignore[assignment]
        return min(1.0, float(max(guesses.values()))) or float(max(self.strings.counts()))

    @property
    def easier(self) -> Sequence[Mapping[str, Any]]:
        """Shorter strings."""
        return [
            {"shortest": shortest, "longest": shortest + 2}
            for shortest in (8, 4)
            if shortest <= self.settings.shortest and shortest + 2 < self.settings.longest
        ]

    def check(self, vocabulary: Vocabulary) -> None:
        """Check that every word is one token.

        Raises:
            TaskError: some tokenizer splits a word or does not know it.
        """
        settings = self.settings
        words = (*settings.letters, *settings.ways, "SOT", "EOT", "ART")
        words += NUMBERS[: settings.most + 1] + ((REFUSAL,) if settings.refuse else ())
        check_whole(self, vocabulary, words)

    def question(self, string: str, operand: str, way: str) -> Question:
        return Question(string, operand, way, self.settings.most, self.settings.refuse)

    def operand(self, rng: random.Random, i: int) -> str:
        which, refuse = self.settings.which, self.settings.refuse
        if refuse and (which == "refused" or (which == "all" and i % 2 == 0)):
            return refuse
        return rng.choice(self.answered)

    def string(self, rng: random.Random, operand: str) -> str:
        """A string for a question about an operand, correlated as the settings say."""
        share, refuse = self.settings.correlated, self.settings.refuse
        if share is None or refuse is None:
            return self.strings.draw(rng)
        wanted = rng.random() < share
        other = self.answered[0] if operand == refuse else operand

        def draw() -> str | None:
            string = self.strings.draw(rng)
            matches = string.count(other) == string.count(refuse) + 1
            return string if matches == wanted else None

        what = f"{'' if wanted else 'not '}exactly one {other} more than {refuse}"
        return first_usable(self, draw, f"{what}; {MORE}")

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """Each question has its own string; with ``which: all``, two questions share one."""
        self.check(vocabulary)
        return self.written(count, stream, self.settings.refuse)

    def written(self, count: int, stream: str, refuse: str | None) -> Rows:
        """The rows, with the answers to questions about all letters but ``refuse``."""
        strings, ways = self.stream(stream), self.stream(f"way/{stream}")
        operands = self.stream(f"operand/{stream}")
        questions = 2 if self.settings.which == "all" else 1
        rows: list[Row] = []
        string = way = ""
        for i in range(count):
            operand = self.operand(operands, i)
            if i % questions == 0:
                string, way = self.string(strings, operand), ways.choice(self.settings.ways)
            prompt = Question(string, operand, way, self.settings.most, refuse).prompt()
            cluster = f"{stream}-{i // questions}"
            rows.append(Row(f"{stream}-{i}", cluster, prompt, None, prompt.answer))
        return rows

    # -- what must be refused

    @property
    def refusals(self) -> tuple[str, ...]:
        return (REFUSAL,) if self.settings.refuse else ()

    @property
    def knows_answers(self) -> bool:
        return self.settings.refuse is not None

    def forbidden(self, vocabulary: Vocabulary, count: int, stream: str = "forbidden") -> Rows:
        self.refused_letter()
        return self.variant(which="refused").rows(vocabulary, count, stream)

    def allowed(self, vocabulary: Vocabulary, count: int, stream: str = "allowed") -> Rows:
        self.refused_letter()
        return self.variant(which="answered").rows(vocabulary, count, stream)

    def capability(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """The questions that must be refused, with their answers: the same texts as with
        ``which: refused``, row for row."""
        letter = self.refused_letter()
        self.variant(which="answered", operands=letter, refuse=None).check(vocabulary)
        return self.variant(which="refused").written(count, stream, None)

    def refused_letter(self) -> str:
        """The operand that must be refused.

        Raises:
            TaskError: there is none.
        """
        if self.settings.refuse is None:
            raise self.error("no letter is refused; add one, as in refuse: a")
        return self.settings.refuse

    @property
    def no_correlation_reason(self) -> str | None:
        if self.settings.refuse is None or self.settings.which == "all":
            return "correlated: task counting needs a letter to refuse, and not which: all"
        return None

    def with_correlation(self, share: float) -> Counting:
        return self.variant(correlated=share)

    @property
    def phrasings(self) -> Mapping[str, Counting]:
        return {way: self.variant(ways=(way,)) for way in self.settings.ways}

    def variant(self, **changes: object) -> Counting:
        """The same task with other settings."""
        return Counting(self.settings.model_copy(update=changes))

    # -- sources

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Rows:
        """Questions with the same string asked about another letter that has another answer."""
        self.check(vocabulary)
        rng = self.stream(f"pairs/{stream}")
        rows: list[Row] = []
        for i in range(count):
            draw = partial(self._pair, rng, i)
            base, source = first_usable(self, draw, f"another letter with another answer; {MORE}")
            name = f"{stream}-{i}"
            rows.append(Row(name, name, base.prompt(), source.prompt(), base.answer))
        return rows

    def _pair(self, rng: random.Random, i: int) -> tuple[Question, Question] | None:
        string, way = self.strings.draw(rng), rng.choice(self.settings.ways)
        base = self.question(string, self.operand(rng, i), way)
        others = [self.question(string, o, way) for o in self.answered]
        others = [other for other in others if other.answer != base.answer]
        return (base, rng.choice(others)) if others else None

    def interchange(self, vocabulary: Vocabulary, variable: str, count: int, stream: str) -> Rows:
        """Pairs whose target tells which variable a patch moved (Davies et al. 2023, section 3).

        ==========  ==========================================  ================================
        variable    source                                      target
        ==========  ==========================================  ================================
        operand     another string, asked about another letter  that letter's count in the base
        count       the same pairs                              the source's answer
        ==========  ==========================================  ================================

        Moving nothing, the operand or the count gives three different answers.
        """
        self.check_variable(variable)
        self.check(vocabulary)
        rng = self.stream(f"interchange/{stream}")
        rows: list[Row] = []
        for i in range(count):
            draw = partial(self._exchange, rng, i)
            what = f"a second letter with a third answer; {MORE}"
            base, source, moved = first_usable(self, draw, what)
            target = moved if variable == "operand" else source.answer
            name = f"{stream}-{variable}-{i}"
            rows.append(Row(name, f"{stream}-{i}", base.prompt(), source.prompt(), target))
        return rows

    def _exchange(self, rng: random.Random, i: int) -> tuple[Question, Question, str] | None:
        way = rng.choice(self.settings.ways)
        base = self.question(self.strings.draw(rng), self.operand(rng, i), way)
        source = self.question(self.strings.draw(rng), rng.choice(self.answered), way)
        moved = self.question(base.string, source.operand, way).answer
        distinct = len({base.answer, source.answer, moved}) == 3
        return (base, source, moved) if distinct else None

    def backgrounds(self, vocabulary: Vocabulary, count: int, stream: str = "ablation") -> Rows:
        """Questions about any letter, whether or not it must be refused."""
        self.check(vocabulary)
        rng = self.stream(f"backgrounds/{stream}")
        rows: list[Row] = []
        for i in range(count):
            way, operand = rng.choice(self.settings.ways), rng.choice(self.settings.letters)
            prompt = self.question(self.strings.draw(rng), operand, way).prompt()
            rows.append(Row(f"{stream}-{i}", f"{stream}-{i}", prompt, None, prompt.answer))
        return rows

    def positional_mean_slots(self, prompt: Prompt) -> set[str]:
        return super().positional_mean_slots(prompt) | letter_slots(prompt)
