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
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pytest_mechanism.tasks.base import (
    Prompt,
    Row,
    Rows,
    Task,
    Vocabulary,
)
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.tasks.writing.drawn_rows import (
    MORE,
    check_whole,
    correlated_string,
    first_usable,
    letter_slots,
)
from pytest_mechanism.tasks.writing.questions import REFUSAL, Question
from pytest_mechanism.tasks.writing.strings import Strings
from pytest_mechanism.tasks.writing.words import NUMBERS


class Counting(Task[CountingParameters]):
    """Rows of the counting task; see the module for template and source.

    Unless they are correlated, a stream's strings do not depend on the questions: tasks that differ only
    in ``which``, ``operands``, ``refuse`` or ``ways`` have the same strings in the same order.
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
        return self.strings.best_guess(self.settings.correlated)

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
        other = self.answered[0] if operand == refuse else operand
        return correlated_string(self, self.strings, rng, share, one=other, other=refuse)

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
