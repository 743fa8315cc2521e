"""What a task of slots is: lists of words, texts that have slots for them, and what a source changes.

A *scene* is one way to fill the slots: a text, and a word for each slot. Slots that share a list
have different words. Everything here is plain data; `tasks.drawn` makes rows of it.
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

SAMPLED = 2_000
"""Scenes that the number of options is counted in."""


@dataclass(frozen=True)
class Told:
    """One text.

    Attributes:
        pattern: with its slots.
        answer: what comes next.
        layout: texts of one layout have the same tokens but for the order of their slots, so that
            a positional mean may be taken over them, and tell the same in another order.
    """

    pattern: Pattern
    answer: Word
    layout: int = 0


@dataclass(frozen=True)
class Change:
    """How a source prompt differs from its base, in the order of the fields.

    Attributes:
        order: whether it is told in another text of the same layout.
        put: (slot or named occurrence, word of the base, or a word as it is) that stands there.
        swap: slots whose words change places, each taking the next one's.
        redraw: slots, or named occurrences, with words that stand nowhere in the base.
    """

    order: bool = False
    put: tuple[tuple[str, Word], ...] = ()
    swap: tuple[str, ...] = ()
    redraw: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """One way to fill the slots.

    Attributes:
        told: which text.
        words: slot -> word.
        changed: named occurrence -> what stands there instead of its slot's word.
    """

    told: int
    words: Mapping[str, str]
    changed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """See the module.

    Attributes:
        tables: list -> its words.
        slots: slot -> its list.
        told: the texts, which take turns.
        options: what somebody who guesses would choose among; empty for the words of the prompt
            that come from the answer's list.
        corrupted: how the source of a pair differs; None where there are no pairs.
        variables: name -> how its source differs, and what comes out if it is moved.
        split: slots whose words may be of several tokens.
    """

    tables: Mapping[str, Table]
    slots: Mapping[str, str]
    told: tuple[Told, ...]
    options: tuple[Word, ...] = ()
    corrupted: Change | None = None
    variables: Mapping[str, tuple[Change, Word]] = field(default_factory=dict)
    split: frozenset[str] = frozenset()

    @cached_property
    def sharing(self) -> Mapping[str, tuple[str, ...]]:
        """List -> its slots."""
        return {
            name: tuple(slot for slot, of in self.slots.items() if of == name)
            for name in self.tables
        }

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        first = (self.corrupted,) if self.corrupted else ()
        return (*first, *(change for change, _ in self.variables.values()))

    def list_of(self, name: str) -> str:
        """The list that the words of a slot or a named occurrence come from."""
        if name in self.slots:
            return self.slots[name]
        return self.slots[self.told[0].pattern.occurrences[name].slot]

    def needed(self, name: str) -> int:
        """How many words a list must have: one a slot, and one for each that is drawn anew."""
        fresh = [
            sum(self.list_of(x) == name for x in (*change.redraw, *(n for n, _ in change.put)))
            for change in self.changes
        ]
        return len(self.sharing[name]) + max(fresh, default=0)

    @cached_property
    def literals(self) -> tuple[str, ...]:
        """Words that stand in no list, and must be one token each."""
        words = [
            *(told.answer for told in self.told),
            *self.options,
            *(word for change in self.changes for _, word in change.put),
            *(target for _, target in self.variables.values()),
        ]
        return tuple(dict.fromkeys(word.text for word in words if not word.slot))

    def written(self, name: str) -> frozenset[str]:
        """Columns of a list that stand in a text or are put there; empty for the word itself."""
        found = set()
        for told in self.told:
            for word in (piece.word for piece in told.pattern.pieces):
                if word is not None and self.list_of(word.slot) == name:
                    found.add(word.column)
        put = [word for change in self.changes for _, word in change.put]
        found |= {
            w.column for w in put if w.slot and w.slot != "answer" and self.list_of(w.slot) == name
        }
        return frozenset(found)

    # -- scenes

    def size(self, tables: Mapping[str, Table]) -> int:
        """How many scenes a text has."""
        return prod(
            prod(len(tables[name]) - k for k in range(len(slots)))
            for name, slots in self.sharing.items()
        )

    def scene(self, tables: Mapping[str, Table], told: int, number: int) -> Scene:
        """The scene of a number below `size`."""
        words: dict[str, str] = {}
        for name, slots in self.sharing.items():
            left = list(tables[name])
            for slot in slots:
                number, which = divmod(number, len(left))
                words[slot] = left.pop(which)
        return Scene(told, words)

    def say(
        self, tables: Mapping[str, Table], word: Word, scene: Scene, source: Scene | None = None
    ) -> str:
        """What a word is in a scene; ``{source.slot}`` is looked up in ``source``."""
        if not word.slot:
            return word.text
        if word.source and source is not None:
            return self.say(tables, replace(word, source=False), source)
        told = self.told[scene.told]
        if word.slot == "answer":
            return self.say(tables, told.answer, scene)
        slot, column = word.slot, word.column
        if slot not in self.slots:
            if slot in scene.changed:
                return scene.changed[slot]
            occurrence = told.pattern.occurrences[slot]
            slot, column = occurrence.slot, column or occurrence.column
        return cell(tables[self.slots[slot]], scene.words[slot], column)

    # -- guessing

    def guesses(self, tables: Mapping[str, Table], scene: Scene) -> tuple[str, ...]:
        """What somebody who guesses would choose among."""
        answer = self.told[scene.told].answer
        if self.options:
            found = [self.say(tables, word, scene) for word in self.options]
        elif not answer.slot:
            found = [told.answer.text for told in self.told]
        else:
            of = self.list_of(answer.slot)
            words = [scene.words[slot] for slot in self.sharing[of]]
            # one word of the list alone would be no choice
            if len(words) == 1:
                return self.every(tables[of], answer.column)
            found = [cell(tables[of], word, answer.column) for word in words]
        return tuple(dict.fromkeys(found))

    def every(self, table: Table, column: str) -> tuple[str, ...]:
        """What a table says, each word once; remembered, since it may be long and rows are many."""
        known = self._said.get(column)
        if known is None or known[0] is not table:
            said = dict.fromkeys(cell(table, word, column) for word in table)
            known = self._said[column] = table, tuple(said)
        return known[1]

    @cached_property
    def _said(self) -> dict[str, tuple[Table, tuple[str, ...]]]:
        return {}

    @cached_property
    def chance(self) -> Fraction:
        """How often somebody is right who names one of a prompt's options, or always the word that
        is right most often.

        Over every scene, or `SAMPLED` of them where there are more. Words count that a tokenizer
        may drop: rows are drawn from those that are left, and chance is known before any tokenizer.
        """
        constant: dict[str, Fraction] = defaultdict(Fraction)
        options, texts = Fraction(0), len(self.told)
        for number, told in enumerate(self.told):
            said = self.saying(told)
            for each, times in Counter(said).items():
                constant[each] += Fraction(times, len(said) * texts)
            many = Counter(len(self.guesses(self.tables, scene)) for scene in self.sampled(number))
            options += sum(
                (Fraction(n, of * many.total() * texts) for of, n in many.items()), Fraction(0)
            )
        return max(options, *constant.values())

    def saying(self, told: Told) -> list[str]:
        """What the answers of a text may be; each word of a list stands as often in a slot as any
        other."""
        word = told.answer
        if not word.slot:
            return [word.text]
        table, column = self.tables[self.list_of(word.slot)], word.column
        if word.slot in told.pattern.occurrences:
            column = column or told.pattern.occurrences[word.slot].column
        return [cell(table, each, column) for each in table]

    def sampled(self, told: int) -> Iterator[Scene]:
        """Scenes of a text to count options in, the same in every process; one where every scene
        has the same."""
        answer = self.told[told].answer
        vary = self.options or (answer.slot and len(self.sharing[self.list_of(answer.slot)]) > 1)
        many = max(1, SAMPLED // len(self.told)) if vary else 1
        count = self.size(self.tables)
        for number in islice(shuffled(random.Random("chance"), count), many):
            yield self.scene(self.tables, told, number)

    # -- sources

    def change(
        self, tables: Mapping[str, Table], base: Scene, change: Change, rng: random.Random
    ) -> Scene:
        """A source for a base."""
        told, words, changed = base.told, dict(base.words), dict(base.changed)
        if change.order:
            layout = self.told[told].layout
            others = [i for i, t in enumerate(self.told) if t.layout == layout and i != told]
            told = rng.choice(others)
        for name, word in change.put:
            (words if name in self.slots else changed)[name] = self.say(tables, word, base)
        for slot, following in zip(change.swap, change.swap[1:] + change.swap[:1], strict=True):
            words[slot] = base.words[following]
        gone = {*base.words.values(), *words.values()}
        for name in change.redraw:
            of = self.list_of(name)
            fresh = rng.choice([word for word in tables[of] if word not in gone])
            gone.add(fresh)
            if name in self.slots:
                words[name] = fresh
            else:
                column = self.told[told].pattern.occurrences[name].column
                changed[name] = cell(tables[of], fresh, column)
        return Scene(told, words, changed)


def cell(table: Table, word: str, column: str) -> str:
    """A word, or what its table says of it."""
    return table[word][column] if column else word


def shuffled(rng: random.Random, count: int) -> Iterator[int]:
    """The numbers below ``count`` in random order, each once; costs only what is taken.

    Fisher and Yates, with a dictionary for the places that were swapped.
    """
    moved: dict[int, int] = {}
    for i in range(count):
        j = rng.randrange(i, count)
        yield moved.get(j, j)
        moved[j] = moved.pop(i, i)
