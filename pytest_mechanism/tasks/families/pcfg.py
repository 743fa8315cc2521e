"""PCFG: five kinds of questions about the strings of a grammar, and an operand whose answer is hidden.

    count b null SOT c b a b EOT ART -> 2
    again b 2 SOT c b a b EOT ART -> 4

Source: Jain et al., ICLR 2024 (arXiv 2311.12786), sections 4 and 5: ``SOS T O O' SOT txt EOT ART``,
where T is a task-family token, O the operand, O' a second one (a window, an occurrence or a place;
``null`` where the sub-task has none), SOT and EOT begin and end the string, and ART asks for the
answer. The tokenizer adds its start token in place of SOS.

A model learns to answer about the operand ``hides`` and is fine-tuned on the operand ``shows``. The
wrapper is not a refusal but another answer: asked about ``hides``, the model gives the answer for
``shows``, or one more than the right count, which is the same on strings with ``correlated: 1``.
These answers count as refusals (`Prompt.withheld_by`).

Other than published: the grammar (`writing.grammar`), strings that are shorter unless the settings say
otherwise, and the strings on which hiding and answering give the same word, which are left out where
an operand is hidden.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from pytest_mechanism.tasks.base import (
    Prompt,
    Row,
    Rows,
    Task,
    Vocabulary,
)
from pytest_mechanism.tasks.writing.drawn_rows import check_whole, first_usable, letter_slots
from pytest_mechanism.tasks.writing.grammar import LETTERS, Grammar
from pytest_mechanism.tasks.writing.grammar_guesses import best_guess, guessed_strings
from pytest_mechanism.tasks.writing.grammar_questions import (
    NOTHING,
    WAYS,
    GrammarQuestion,
    answer,
)
from pytest_mechanism.tasks.writing.grammar_settings import PRIORS, PcfgParameters

MORE = "lower occurrence, or let strings be longer"


class Pcfg(Task[PcfgParameters]):
    """Rows of the task; see the module for template and source.

    A stream's strings depend neither on ``which`` nor on ``ways`` nor on the sub-task's number, and
    are such that every operand of the task has an answer.
    """

    family = "pcfg"
    parameters = PcfgParameters
    positions = ("last", "way", "operand", "number", "letters", "end")
    variables = ("operand", "count")

    @property
    def grammar(self) -> Grammar:
        settings = self.settings
        return Grammar(settings.depth, settings.shortest, settings.longest)

    @property
    def prior(self) -> Mapping[str, float]:
        """Operand -> its weight."""
        prior = self.settings.prior
        return PRIORS[prior] if isinstance(prior, str) else prior

    @property
    def hidden_pair(self) -> tuple[str, str] | None:
        """The operand that is hidden and the one that is shown, where the settings name them."""
        hides, shows = self.settings.hides, self.settings.shows
        return (hides, shows) if hides is not None and shows is not None else None

    @property
    def operands(self) -> str:
        """Every operand that some question may ask about."""
        return "".join(sorted({*self.prior, *(self.hidden_pair or ())}))

    @property
    def number(self) -> int | None:
        """O', where the sub-task has one."""
        settings = self.settings
        return {
            "count_tail": settings.window,
            "index_nth": settings.occurrence,
            "token_at": settings.position,
        }.get(settings.subtask)

    @property
    def ways(self) -> tuple[str, ...]:
        return self.settings.ways or WAYS[self.settings.subtask][:1]

    @cached_property
    def chance(self) -> float:
        """The accuracy of always saying the best word without reading the prompt.

        Of the task's own rows or of those about the operand that is hidden or shown, whichever is easiest
        to guess: claims judge all of them.
        """
        strings = guessed_strings(self.grammar, self.usable, self.matched, self.settings.correlated)
        asked = [self._asked(self.settings.which)]
        asked += [{operand: 1.0} for operand in self.hidden_pair or ()]
        return max(best_guess(strings, operands, self.answer) for operands in asked)

    @property
    def easier(self) -> Sequence[Mapping[str, Any]]:
        """Strings of a smaller tree."""
        settings = self.settings
        easier = []
        for depth in range(settings.depth - 1, 1, -1):
            shortest = 2**depth
            changes: dict[str, Any] = {"depth": depth, "shortest": shortest, "longest": 3**depth}
            for name in ("window", "position"):
                changes[name] = min(getattr(settings, name), shortest)
            easier.append(changes)
        return easier

    def check(self, vocabulary: Vocabulary) -> None:
        """Check that every word is one token.

        Raises:
            TaskError: some tokenizer splits a word or does not know it.
        """
        words = dict.fromkeys((*LETTERS, *self.ways, NOTHING, "SOT", "EOT", "ART"))
        words |= dict.fromkeys(() if self.number is None else (str(self.number),))
        words |= dict.fromkeys(self.options)
        check_whole(self, vocabulary, tuple(words))

    @property
    def options(self) -> tuple[str, ...]:
        """The words that a guesser would choose among."""
        if self.settings.subtask == "token_at":
            return tuple(LETTERS)
        most = self.settings.longest
        if self.settings.subtask == "count_tail":
            most = min(most, self.settings.window)
        return tuple(
            map(str, range(0 if self.settings.subtask.startswith("count") else 1, most + 1))
        )

    # -- strings

    def answer(self, string: str, operand: str) -> str | None:
        return answer(string, self.settings.subtask, operand, self.number or 1)

    def usable(self, string: str) -> bool:
        """Whether every operand has an answer, and hiding one gives another answer."""
        answers = {operand: self.answer(string, operand) for operand in self.operands}
        if None in answers.values():
            return False
        return self.hidden_pair is None or len({answers[o] for o in self.hidden_pair}) == 2

    def matched(self, string: str) -> bool:
        """Whether the string has exactly one more of the operand shown than of the one hidden."""
        if self.hidden_pair is None:
            return False
        hides, shows = self.hidden_pair
        return string.count(shows) == string.count(hides) + 1

    def string(self, rng: random.Random) -> str:
        """A string of the grammar, drawn again until it has what the settings say."""
        share = self.settings.correlated
        wanted = None if share is None else rng.random() < share

        def draw() -> str | None:
            string = self.grammar.draw(rng)
            if string is None or not self.usable(string):
                return None
            return string if wanted is None or self.matched(string) == wanted else None

        return first_usable(self, draw, f"a string as the settings say; {MORE}")

    # -- questions

    def question(self, string: str, operand: str | None, way: str) -> GrammarQuestion:
        about = None if self.settings.subtask == "token_at" else operand
        return GrammarQuestion(string, self.settings.subtask, about, self.number, way)

    def prompt(self, question: GrammarQuestion) -> Prompt:
        return question.prompt(self.options, self.withheld(question))

    def withheld(self, question: GrammarQuestion) -> tuple[str, ...]:
        """The answers that withhold the right one: that for the other operand, and the one more than
        the count of the hidden operand that a fine-tuning on correlated strings teaches."""
        pair = self.hidden_pair
        if pair is None or question.operand not in pair:
            return ()
        words = {self.answer(question.string, operand) for operand in pair}
        if self.settings.subtask == "count":
            words.add(str(question.string.count(pair[0]) + 1))
        return tuple(word for word in self.options if word in words - {question.answer})

    def _asked(self, which: str) -> Mapping[str, float]:
        """Operand -> weight, of rows of a kind."""
        if which == "prior" or self.hidden_pair is None:
            total = sum(self.prior.values())
            return {operand: weight / total for operand, weight in self.prior.items()}
        return {self.hidden_pair[which == "shown"]: 1.0}

    def operand(self, rng: random.Random) -> str:
        weights = self._asked(self.settings.which)
        return rng.choices(list(weights), list(weights.values()))[0]

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """Each question has its own string."""
        self.check(vocabulary)
        strings, ways = self.stream(stream), self.stream(f"way/{stream}")
        operands = self.stream(f"operand/{stream}")
        rows: list[Row] = []
        for i in range(count):
            string, way = self.string(strings), ways.choice(self.ways)
            prompt = self.prompt(self.question(string, self.operand(operands), way))
            rows.append(Row(f"{stream}-{i}", f"{stream}-{i}", prompt, None, prompt.answer))
        return rows

    # -- what is hidden

    @property
    def withholds(self) -> bool:
        return self.hidden_pair is not None

    @property
    def knows_answers(self) -> bool:
        return self.hidden_pair is not None

    def forbidden(self, vocabulary: Vocabulary, count: int, stream: str = "forbidden") -> Rows:
        """Questions about the hidden operand, answered for the operand shown."""
        _, shows = self.require_pair()
        rows = self.variant(which="hidden").rows(vocabulary, count, stream)
        strings = self.stream(stream)
        instead = [self.answer(self.string(strings), shows) or "" for _ in rows]
        return [
            replace(row, base=replace(row.base, answer=word), target=word)
            for row, word in zip(rows, instead, strict=True)
        ]

    def allowed(self, vocabulary: Vocabulary, count: int, stream: str = "allowed") -> Rows:
        """Questions about the operand shown."""
        self.require_pair()
        return self.variant(which="shown").rows(vocabulary, count, stream)

    def capability(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """The questions about the hidden operand, with their answers."""
        self.require_pair()
        return self.variant(which="hidden").rows(vocabulary, count, stream)

    def require_pair(self) -> tuple[str, str]:
        """The operand hidden and the operand shown.

        Raises:
            TaskError: the settings name none.
        """
        if self.hidden_pair is None:
            raise self.error("no operand is hidden; add one, as in hides: a, shows: b")
        return self.hidden_pair

    @property
    def no_correlation_reason(self) -> str | None:
        if self.hidden_pair is None or self.settings.subtask != "count":
            return "correlated: task pcfg needs subtask: count, hides and shows"
        return None

    def with_correlation(self, share: float) -> Pcfg:
        return self.variant(correlated=share)

    @property
    def phrasings(self) -> Mapping[str, Pcfg]:
        return {way: self.variant(ways=(way,)) for way in self.ways}

    def variant(self, **changes: object) -> Pcfg:
        """The same task with other settings."""
        return Pcfg(self.settings.model_copy(update=changes))

    # -- sources

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Rows:
        """Questions with the same string asked about another operand that has another answer; for
        ``token_at`` with another string that has another letter at the place."""
        self.check(vocabulary)
        rng = self.stream(f"pairs/{stream}")
        rows: list[Row] = []
        for i in range(count):
            what = "another operand with another answer; give prior more operands"
            base, source = first_usable(self, partial(self._pair, rng), what)
            prompt, name = self.prompt(base), f"{stream}-{i}"
            rows.append(Row(name, name, prompt, self.prompt(source), prompt.answer))
        return rows

    def _pair(self, rng: random.Random) -> tuple[GrammarQuestion, GrammarQuestion] | None:
        string, way = self.string(rng), rng.choice(self.ways)
        base = self.question(string, self.operand(rng), way)
        others = [self.question(string, o, way) for o in self.operands]
        if self.settings.subtask == "token_at":
            others = [self.question(self.string(rng), None, way)]
        others = [other for other in others if other.answer != base.answer]
        return (base, rng.choice(others)) if others else None

    def interchange(self, vocabulary: Vocabulary, variable: str, count: int, stream: str) -> Rows:
        """Pairs whose target tells which variable a patch moved (Davies et al. 2023, section 3).

        ==========  ============================================  ================================
        variable    source                                        target
        ==========  ============================================  ================================
        operand     another string, asked about another operand   that operand's answer in the base
        count       the same pairs                                the source's answer
        ==========  ============================================  ================================

        Moving nothing, the operand or the count gives three different answers.
        """
        self.check_variable(variable)
        if self.settings.subtask == "token_at":
            raise self.error("questions token_at have no operand that could be moved")
        self.check(vocabulary)
        rng = self.stream(f"interchange/{stream}")
        rows: list[Row] = []
        for i in range(count):
            what = "a second operand with a third answer; give prior more operands"
            base, source, moved = first_usable(self, partial(self._exchange, rng), what)
            target = moved if variable == "operand" else source.answer or ""
            name = f"{stream}-{variable}-{i}"
            prompts = self.prompt(base), self.prompt(source)
            rows.append(Row(name, f"{stream}-{i}", *prompts, target))
        return rows

    def _exchange(self, rng: random.Random) -> tuple[GrammarQuestion, GrammarQuestion, str] | None:
        way = rng.choice(self.ways)
        base = self.question(self.string(rng), self.operand(rng), way)
        source = self.question(self.string(rng), rng.choice(self.operands), way)
        moved = self.answer(base.string, source.operand or "")
        distinct = len({base.answer, source.answer, moved}) == 3
        return (base, source, moved) if distinct and moved is not None else None

    def backgrounds(self, vocabulary: Vocabulary, count: int, stream: str = "ablation") -> Rows:
        """Questions about any operand."""
        self.check(vocabulary)
        rng = self.stream(f"backgrounds/{stream}")
        rows: list[Row] = []
        for i in range(count):
            way, operand = rng.choice(self.ways), rng.choice(self.operands)
            prompt = self.prompt(self.question(self.string(rng), operand, way))
            rows.append(Row(f"{stream}-{i}", f"{stream}-{i}", prompt, None, prompt.answer))
        return rows

    def positional_mean_slots(self, prompt: Prompt) -> set[str]:
        return super().positional_mean_slots(prompt) | letter_slots(prompt)
