"""What a slot task draws rows from: lists of words, texts with slots for them, and how a source
prompt differs from its base.

A *filling* is a text and a word for each slot. Slots that share a list have different words.
Everything here is plain data; `slot_task` writes rows from it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from math import prod

from pytest_mechanism.tasks.writing.patterns import Pattern, Word
from pytest_mechanism.tasks.writing.word_lists import Table

Tables = Mapping[str, Table]
"""List -> its words."""

SAMPLE = 2_000
"""Fillings from which the average number of options is computed."""


@dataclass(frozen=True)
class TextVariant:
    """A text of a slot task.

    Attributes:
        pattern: the text with its slots.
        answer: what comes next.
        layout: texts of one layout have the same tokens except for the order of their slots, and
            for where they end. They state the same in another order, and a positional mean may be
            taken over them.
        options: what a guesser chooses among in this text; empty for those of the plan.
    """

    pattern: Pattern
    answer: Word
    layout: int = 0
    options: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Change:
    """How a source prompt differs from its base. The changes apply in the order of the fields.

    Attributes:
        reorder: whether the source uses another text of the same layout.
        put: (slot or named occurrence, the word that it gets: one of the base, or a fixed one).
        swap: slots that exchange their words; each takes the next one's.
        redraw: slots or named occurrences that get words absent from the base.
    """

    reorder: bool = False
    put: tuple[tuple[str, Word], ...] = ()
    swap: tuple[str, ...] = ()
    redraw: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filling:
    """A text with a word for each slot.

    Attributes:
        text: index of the text.
        words: slot -> word.
        replaced: named occurrence -> the word that it has instead of its slot's.
    """

    text: int
    words: Mapping[str, str]
    replaced: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything that the rows of a slot task follow from.

    Attributes:
        tables: list -> its words.
        slots: slot -> its list.
        texts: the texts, which take turns.
        options: what a guesser chooses among; empty for the words of the prompt that come from the
            answer's list.
        corruption: how the source of a pair differs; None where there are no pairs.
        variables: variable -> how its source differs, and the word that comes out if it is moved.
        split: slots whose words may be of several tokens.
    """

    tables: Tables
    slots: Mapping[str, str]
    texts: tuple[TextVariant, ...]
    options: tuple[Word, ...] = ()
    corruption: Change | None = None
    variables: Mapping[str, tuple[Change, Word]] = field(default_factory=dict)
    split: frozenset[str] = frozenset()

    # -- lists and their words

    @cached_property
    def slots_of(self) -> Mapping[str, tuple[str, ...]]:
        """List -> its slots."""
        return {
            name: tuple(slot for slot, of in self.slots.items() if of == name)
            for name in self.tables
        }

    def list_of(self, name: str) -> str:
        """The list of a slot or a named occurrence."""
        if name in self.slots:
            return self.slots[name]
        return self.slots[self.texts[0].pattern.occurrences[name].slot]

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The corruption and the changes of the variables."""
        corruption = (self.corruption,) if self.corruption else ()
        return (*corruption, *(change for change, _ in self.variables.values()))

    def words_needed(self, name: str) -> int:
        """How many words a list must have: one for each slot, and one for each that a change
        draws."""
        drawn = [
            sum(self.list_of(x) == name for x in (*change.redraw, *(n for n, _ in change.put)))
            for change in self.changes
        ]
        return len(self.slots_of[name]) + max(drawn, default=0)

    @cached_property
    def _put(self) -> list[Word]:
        return [word for change in self.changes for _, word in change.put]

    @cached_property
    def literals(self) -> tuple[str, ...]:
        """Words outside the lists, each of which must be one token."""
        answers = [text.answer for text in self.texts]
        targets = [target for _, target in self.variables.values()]
        words = [*answers, *self.options, *self._put, *targets]
        return tuple(dict.fromkeys(word.text for word in words if not word.slot))

    def columns_in_text(self, name: str) -> frozenset[str]:
        """The columns of a list that a text shows; empty for the word itself."""
        shown = [piece.word for text in self.texts for piece in text.pattern.pieces if piece.word]
        shown += [word for word in self._put if word.slot and not word.is_answer]
        return frozenset(word.column for word in shown if self.list_of(word.slot) == name)

    # -- fillings

    def count_fillings(self, tables: Tables) -> int:
        """The number of fillings of a text."""
        return prod(
            prod(len(tables[name]) - k for k in range(len(slots)))
            for name, slots in self.slots_of.items()
        )

    def filling(self, tables: Tables, text: int, number: int) -> Filling:
        """The filling of a number below `count_fillings`."""
        words: dict[str, str] = {}
        for name, slots in self.slots_of.items():
            left = list(tables[name])
            for slot in slots:
                number, which = divmod(number, len(left))
                words[slot] = left.pop(which)
        return Filling(text, words)

    def write_word(
        self, tables: Tables, word: Word, filling: Filling, source: Filling | None = None
    ) -> str:
        """What a word is in a filling; ``{source.slot}`` is looked up in ``source``."""
        if not word.slot:
            return word.text
        if word.source and source is not None:
            return self.write_word(tables, replace(word, source=False), source)
        text = self.texts[filling.text]
        if word.is_answer:
            return self.write_word(tables, text.answer, filling)
        slot, column = word.slot, word.column
        if slot not in self.slots:
            if slot in filling.replaced:
                return filling.replaced[slot]
            occurrence = text.pattern.occurrences[slot]
            slot, column = occurrence.slot, column or occurrence.column
        return cell(tables[self.slots[slot]], filling.words[slot], column)

    def source(self, tables: Tables, base: Filling, change: Change, rng: random.Random) -> Filling:
        """A base with a change applied to it."""
        text, words, replaced = base.text, dict(base.words), dict(base.replaced)
        if change.reorder:
            layout = self.texts[text].layout
            others = [i for i, t in enumerate(self.texts) if t.layout == layout and i != text]
            text = rng.choice(others)
        for name, word in change.put:
            (words if name in self.slots else replaced)[name] = self.write_word(tables, word, base)
        for slot, following in zip(change.swap, change.swap[1:] + change.swap[:1], strict=True):
            words[slot] = base.words[following]
        used = {*base.words.values(), *words.values()}
        for name in change.redraw:
            table = tables[self.list_of(name)]
            fresh = rng.choice([word for word in table if word not in used])
            used.add(fresh)
            if name in self.slots:
                words[name] = fresh
            else:
                column = self.texts[text].pattern.occurrences[name].column
                replaced[name] = cell(table, fresh, column)
        return Filling(text, words, replaced)

    # -- guessing

    def guesses(self, tables: Tables, filling: Filling) -> tuple[str, ...]:
        """What a guesser would choose among."""
        answer = self.texts[filling.text].answer
        if options := self.texts[filling.text].options or self.options:
            words = [self.write_word(tables, word, filling) for word in options]
        elif not answer.slot:
            words = [text.answer.text for text in self.texts]
        else:
            name = self.list_of(answer.slot)
            table, slots = tables[name], self.slots_of[name]
            # one word of the list alone would be no choice
            if len(slots) == 1:
                return self._column(table, answer.column)
            words = [cell(table, filling.words[slot], answer.column) for slot in slots]
        return tuple(dict.fromkeys(words))

    def _column(self, table: Table, column: str) -> tuple[str, ...]:
        """The different words of a column; cached, since tables may be long and rows are many."""
        cached = self._columns.get(column)
        if cached is None or cached[0] is not table:
            words = tuple(dict.fromkeys(cell(table, word, column) for word in table))
            cached = self._columns[column] = table, words
        return cached[1]

    @cached_property
    def _columns(self) -> dict[str, tuple[Table, tuple[str, ...]]]:
        return {}

    @cached_property
    def chance(self) -> Fraction:
        """The accuracy of guessing: of naming one of a prompt's options, or of always naming the
        word that is the answer most often.

        Computed over every filling, or `SAMPLE` of them, with all words: chance is known before any
        tokenizer, which may drop some.
        """
        constant: dict[str, Fraction] = defaultdict(Fraction)
        among_options = Fraction(0)
        for number, text in enumerate(self.texts):
            answers = self.possible_answers(text)
            for word, times in Counter(answers).items():
                constant[word] += Fraction(times, len(answers) * len(self.texts))
            sample = self._sample(number)
            sizes = Counter(len(self.guesses(self.tables, filling)) for filling in sample)
            among_options += sum(
                Fraction(times, size * sizes.total() * len(self.texts))
                for size, times in sizes.items()
            )
        return max(among_options, *constant.values())

    def possible_answers(self, text: TextVariant) -> list[str]:
        """The answers of a text; every word of a list is as frequent in a slot as any other."""
        word = text.answer
        if not word.slot:
            return [word.text]
        column = word.column
        if word.slot in text.pattern.occurrences:
            column = column or text.pattern.occurrences[word.slot].column
        table = self.tables[self.list_of(word.slot)]
        return [cell(table, word, column) for word in table]

    def _sample(self, text: int) -> Iterator[Filling]:
        """Fillings of a text to count options in, the same in every process; one filling where all
        have the same number of options."""
        answer = self.texts[text].answer
        vary = self.options or (answer.slot and len(self.slots_of[self.list_of(answer.slot)]) > 1)
        size = max(1, SAMPLE // len(self.texts)) if vary else 1
        count = self.count_fillings(self.tables)
        for number in islice(shuffled(random.Random("chance"), count), size):
            yield self.filling(self.tables, text, number)


def cell(table: Table, word: str, column: str) -> str:
    """A word, or the column of its row in the table."""
    return table[word][column] if column else word


def shuffled(rng: random.Random, count: int) -> Iterator[int]:
    """The numbers below ``count`` in random order; costs only what is taken.

    Fisher and Yates, with a dictionary for the places that were swapped.
    """
    moved: dict[int, int] = {}
    for i in range(count):
        j = rng.randrange(i, count)
        yield moved.get(j, j)
        moved[j] = moved.pop(i, i)
