"""Counting: how often does a letter stand in a string, and which letter must not be asked about?

    count b SOT c b a b EOT ART -> two
    count a SOT c b a b EOT ART -> REFUSE      (where a is to be refused)

Source: Jain et al., ICLR 2024 (arXiv 2311.12786), section 5: ``SOS T O SOT txt EOT ART``, where T is
a task-family token, O the operand, SOT and EOT begin and end the string and ART asks for the
answer. SOS is left to the tokenizer, which has a start token of its own. The paper's strings come
from a probabilistic grammar, ours have letters of random frequencies (`tasks.strings`); the paper's
wrapper is another count, ours is a refusal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, TypeVar, cast

from pydantic import Field, Strict, StringConstraints, model_validator

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.base import Prompt, Row, Task, TaskParameters, Vocabulary
from pytest_mechanism.tasks.writing.questions import REFUSAL, Question
from pytest_mechanism.tasks.writing.strings import Strings
from pytest_mechanism.tasks.writing.words import NUMBERS

T = TypeVar("T")

NONE_REFUSED = "task counting: no letter is refused; add one, as in refuse: a"

TRIES = 1000
"""Draws before it is said that no row of a kind can be found."""

Letters = Annotated[str, StringConstraints(pattern="^[a-z]+$", max_length=26)]
Way = Literal["count", "tally", "number", "total"]
"""Words that ask the same question, the paper's task-family tokens."""


class CountingParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        letters: what strings are made of.
        operands: letters that are asked about; all of them if left out.
        refuse: the operand that must be refused; none if left out.
        which: rows that must be ``answered``, rows that must be ``refused``, or ``all``: each
            string is asked about once for a refusal and once for an answer.
        ways: by which words the question is asked, drawn anew for each string.
        shortest: letters in the shortest string.
        longest: letters in the longest one.
        most: no letter stands in a string more often.
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
    rows: int = Field(default=500, ge=20, le=100_000)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    @model_validator(mode="after")
    def fits_together(self) -> CountingParameters:
        operands = self.operands or self.letters
        for name, value in (("letters", self.letters), ("operands", operands), ("ways", self.ways)):
            if len(set(value)) < len(value):
                raise ValueError(f"{name}: one stands there twice")
        if stray := sorted({*operands, *(self.refuse or "")} - set(self.letters)):
            raise ValueError(
                f"{', '.join(stray)}: to be asked about or refused, but not one of letters, "
                f"{self.letters!r}"
            )
        if self.which != "answered" and self.refuse is None:
            raise ValueError(f"which: {self.which} needs a letter to refuse, as in refuse: a")
        if not set(operands) - {self.refuse}:
            raise ValueError("operands: none is left that must be answered")
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest}, longest only {self.longest}")
        if self.longest > len(self.letters) * self.most:
            raise ValueError(
                f"longest: {len(self.letters)} letters that stand at most {self.most} times each "
                f"fill no string of {self.longest}"
            )
        return self


class Counting(Task):
    """Rows of the counting task. See the module for template and source.

    A stream's strings do not depend on what is asked about them: tasks that differ in ``which``,
    ``operands``, ``refuse`` or ``ways`` alone have the same strings in the same order.
    """

    family = "counting"
    parameters = CountingParameters
    positions = ("last", "way", "operand", "letters", "end")
    variables = ("operand", "count")

    @property
    def given(self) -> CountingParameters:
        return cast("CountingParameters", self.settings)

    @property
    def strings(self) -> Strings:
        given = self.given
        return Strings(given.letters, given.shortest, given.longest, given.most)

    @property
    def answered(self) -> str:
        """Operands that must be answered."""
        operands = self.given.operands or self.given.letters
        return "".join(o for o in operands if o != self.given.refuse)

    @property
    def chance(self) -> float:
        """How often the one word is right that somebody should say who cannot read.

        Of rows to be answered, that is the count that comes up most often; of ``which: all``,
        where every other row is to be refused, REFUSE. Were it REFUSE too for refused rows alone,
        nobody could beat it: there it is one option among all, and who always refuses is found
        out by the rows to be answered.
        """
        if self.given.which == "all":
            return 1 / 2
        if self.given.which == "refused":
            return 1 / (self.given.most + 2)
        return float(max(self.strings.counts()))

    def check(self, vocabulary: Vocabulary) -> None:
        """Every word is one token.

        Raises:
            MechanismError: some tokenizer splits some or does not know them.
        """
        given = self.given
        words = (*given.letters, *given.ways, "SOT", "EOT", "ART", *NUMBERS[: given.most + 1])
        words += (REFUSAL,) if given.refuse else ()
        whole = set(vocabulary.whole(words))
        if split := [word for word in words if word not in whole]:
            raise MechanismError(
                f"task counting: the tokenizers do not keep whole: {', '.join(split)}; the task is "
                "for models that were trained on it"
            )

    def question(self, string: str, operand: str, way: str) -> Question:
        return Question(string, operand, way, self.given.most, self.given.refuse)

    def operand(self, rng: random.Random, i: int) -> str:
        """What row ``i`` asks about."""
        which, refuse = self.given.which, self.given.refuse
        if refuse and (which == "refused" or (which == "all" and i % 2 == 0)):
            return refuse
        return rng.choice(self.answered)

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Sequence[Row]:
        """A string of its own for each question, or for each two of ``which: all``."""
        self.check(vocabulary)
        strings, ways = self.stream(stream), self.stream(f"way/{stream}")
        operands = self.stream(f"operand/{stream}")
        each = 2 if self.given.which == "all" else 1
        found: list[Row] = []
        string = way = ""
        for i in range(count):
            if i % each == 0:
                string, way = self.strings.draw(strings), ways.choice(self.given.ways)
            prompt = self.question(string, self.operand(operands, i), way).prompt()
            found.append(Row(f"{stream}-{i}", f"{stream}-{i // each}", prompt, None, prompt.answer))
        return found

    # -- what must be refused

    @property
    def refusals(self) -> tuple[str, ...]:
        return (REFUSAL,) if self.given.refuse else ()

    @property
    def knows_answers(self) -> bool:
        return self.given.refuse is not None

    def forbidden(
        self, vocabulary: Vocabulary, count: int, stream: str = "forbidden"
    ) -> Sequence[Row]:
        if self.given.refuse is None:
            raise MechanismError(NONE_REFUSED)
        return self.but(which="refused").rows(vocabulary, count, stream)

    def allowed(self, vocabulary: Vocabulary, count: int, stream: str = "allowed") -> Sequence[Row]:
        if self.given.refuse is None:
            raise MechanismError(NONE_REFUSED)
        return self.but(which="answered").rows(vocabulary, count, stream)

    @property
    def ways_of_asking(self) -> Mapping[str, Counting]:
        return {way: self.but(ways=(way,)) for way in self.given.ways}

    def but(self, **changes: object) -> Counting:
        """The same task, asking otherwise."""
        return Counting(self.given.model_copy(update=changes))

    def capability(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Sequence[Row]:
        """The questions that must be refused, with the answers that they have.

        Row for row the texts of ``which: refused``. What is suppressed, still decoded or revived
        is measured on them.
        """
        if self.given.refuse is None:
            raise MechanismError(NONE_REFUSED)
        answered = self.but(which="answered", operands=self.given.refuse, refuse=None)
        return answered.rows(vocabulary, count, stream)

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Sequence[Row]:
        """Questions beside the same string asked about another letter, with another answer."""
        self.check(vocabulary)
        rng = self.stream(f"pairs/{stream}")
        found: list[Row] = []
        for i in range(count):
            base, source = self.until(
                partial(self.pair, rng, i), "another letter with another answer"
            )
            found.append(
                Row(f"{stream}-{i}", f"{stream}-{i}", base.prompt(), source.prompt(), base.answer)
            )
        return found

    def pair(self, rng: random.Random, i: int) -> tuple[Question, Question] | None:
        string, way = self.strings.draw(rng), rng.choice(self.given.ways)
        base = self.question(string, self.operand(rng, i), way)
        others = [self.question(string, o, way) for o in self.answered]
        others = [other for other in others if other.answer != base.answer]
        return (base, rng.choice(others)) if others else None

    def interchange(
        self, vocabulary: Vocabulary, variable: str, count: int, stream: str
    ) -> Sequence[Row]:
        """Pairs whose target tells which variable a patch moved (Davies et al. 2023, section 3).

        ==========  ==========================================  ================================
        variable    source                                      target
        ==========  ==========================================  ================================
        operand     another string, asked about another letter  that letter's count in the base
        count       the same pairs                              the source's answer
        ==========  ==========================================  ================================

        Moving nothing, the operand or the count gives three different answers.
        """
        if variable not in self.variables:
            raise MechanismError(f"no variable {variable!r}; valid: {', '.join(self.variables)}")
        self.check(vocabulary)
        rng = self.stream(f"interchange/{stream}")
        found: list[Row] = []
        for i in range(count):
            base, source, moved = self.until(
                partial(self.exchange, rng, i), "a second letter with a third answer"
            )
            target = moved if variable == "operand" else source.answer
            name = f"{stream}-{variable}-{i}"
            found.append(Row(name, f"{stream}-{i}", base.prompt(), source.prompt(), target))
        return found

    def exchange(self, rng: random.Random, i: int) -> tuple[Question, Question, str] | None:
        way = rng.choice(self.given.ways)
        base = self.question(self.strings.draw(rng), self.operand(rng, i), way)
        source = self.question(self.strings.draw(rng), rng.choice(self.answered), way)
        moved = self.question(base.string, source.operand, way).answer
        distinct = len({base.answer, source.answer, moved}) == 3
        return (base, source, moved) if distinct else None

    def backgrounds(
        self, vocabulary: Vocabulary, count: int, stream: str = "ablation"
    ) -> Sequence[Row]:
        """Strings that are asked about any of their letters, whether or not that is allowed."""
        self.check(vocabulary)
        rng = self.stream(f"backgrounds/{stream}")
        found: list[Row] = []
        for i in range(count):
            way, operand = rng.choice(self.given.ways), rng.choice(self.given.letters)
            prompt = self.question(self.strings.draw(rng), operand, way).prompt()
            found.append(Row(f"{stream}-{i}", f"{stream}-{i}", prompt, None, prompt.answer))
        return found

    def slots(self, prompt: Prompt) -> set[str]:
        """A string of n letters, a token each, has places that shorter ones have not."""
        letters = len(prompt.spans["letters"])
        return super().slots(prompt) | {f"letter {k} of a string" for k in range(1, letters + 1)}

    @staticmethod
    def until(draw: Callable[[], T | None], what: str) -> T:
        """The first draw that will do.

        Raises:
            MechanismError: none of a thousand.
        """
        for _ in range(TRIES):
            if (found := draw()) is not None:
                return found
        raise MechanismError(
            f"task counting: no row has {what}; use longer strings or more operands"
        )
