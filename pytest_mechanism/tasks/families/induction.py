"""Induction: a sequence of random words comes again; what followed the word that is read now?

    Words: flag coat letter beer disk hat cake bell
    Words: flag coat letter beer disk hat cake bell
    Words: flag coat letter -> beer

Source: Elhage et al. 2021 and Olsson et al. 2022 (arXiv 2209.11895), on repeated random tokens: an
induction head attends to the token after an earlier occurrence of the current one and copies it.
``repeats`` says how often the sequence is written. It breaks off in its last repetition, after any
word of its first half but the very first, so that several words of the sequence are left to choose
among: these are the options of a guesser who only knows which words the last line lacks. Chance is the
accuracy of this guesser, or of always naming the word at one place of the text, whichever is right more
often (`Induction.chance`).

``repeats: 1`` writes the sequence once and one of its words after it, as real text hardly does; a
model of ordinary text is at chance there.

    Words: flag coat letter beer disk hat coat -> letter

The words of a sequence are all different, and the asked one is never the first. "Words:" precedes
them: a word at the beginning of a text has no space before it and may be several tokens there. In
the corrupted prompt of a pair another word stands in place of the asked one in all but its last
occurrence, so that no earlier word tells what comes next.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from pytest_mechanism.errors import FieldError
from pytest_mechanism.tasks.writing.patterns import Columns, Pattern, Piece, Word, parse_pattern
from pytest_mechanism.tasks.writing.slot_parameters import SlotTaskParameters
from pytest_mechanism.tasks.writing.slot_plan import Change, Plan, TextVariant
from pytest_mechanism.tasks.writing.slot_task import SlotTask
from pytest_mechanism.tasks.writing.word_lists import WordList, plain_table

BEGINNING = "Words:"


class InductionParameters(SlotTaskParameters):
    """``task:`` for this family.

    Attributes:
        words: the words of sequences.
        length: words in a sequence.
        repeats: how often the sequence is written, the last time up to the asked word; 1 writes the
            asked word alone after the sequence.
    """

    family: Literal["induction"]
    words: WordList = WordList.model_validate("objects")
    length: int = Field(default=8, ge=5, le=60)
    repeats: int = Field(default=3, ge=1, le=10)

    def task(self) -> Induction:
        if len(self.words.table) <= self.length:
            raise FieldError(
                f"has {len(self.words.table)} words, {self.length + 1} are needed: {self.length} "
                "different ones in a sequence, and one for its source",
                "words",
            )
        return Induction(self)


class Induction(SlotTask[InductionParameters]):
    """Rows of the task; see the module.

    A position is a word in every full sequence: ``successor`` is each place where the answer was
    said.

    =========  =====================================  ==============================================
    variable   source                                 target
    =========  =====================================  ==============================================
    successor  another word after the asked one       the source's
    query      another word of the sequence is asked  that word's successor
    =========  =====================================  ==============================================
    """

    family = "induction"
    revision = 3
    parameters = InductionParameters
    default_groups: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "induction": {"at": "last"},
        "previous_token": {"at": "successor", "into": {"group": "induction", "via": "k"}},
    }
    positions = ("last", "first", "successor", "other", "other_successor")

    @property
    def easier(self) -> Sequence[Mapping[str, Any]]:
        """More repetitions, then also shorter sequences."""
        repeats, length = self.settings.repeats, self.settings.length
        more = [{"repeats": number} for number in (3, 5) if number > repeats]
        short = {"repeats": max(repeats, 5), "length": 5}
        return [*more, *([short] if length > short["length"] else [])]

    @property
    def chance(self) -> float:
        """The accuracy of guessing among the options, or of always copying from one place.

        With ``repeats: 1``, places before the end count too: a model that says the word before the
        last again is right where the asked pair ends the sequence. In repeated sequences that would
        be no guess, since the answer is always one sequence before.
        """
        places: Counter[int] = Counter()
        for text in self.plan.texts:
            answer = text.answer.slot
            answer = text.pattern.occurrences.get(answer, Word(slot=answer)).slot
            slots = [piece.word.slot for piece in text.pattern.pieces if piece.word is not None]
            at = slots.index(answer)
            places.update([at] if self.settings.repeats > 1 else [at, at - len(slots)])
        return max(super().chance, max(places.values()) / len(self.plan.texts))

    @cached_property
    def plan(self) -> Plan:
        return self._once() if self.settings.repeats == 1 else self._repeated()

    def _repeated(self) -> Plan:
        length = self.settings.length
        return Plan(
            tables={"words": plain_table([*self.settings.words.table])},
            slots=dict.fromkeys((f"w{i}" for i in range(length)), "words"),
            texts=tuple(
                repeated_text(length, self.settings.repeats, asked)
                for asked in range(1, length // 2 + 1)
            ),
            corruption=Change(redraw=("first",)),
            variables={
                "successor": (Change(redraw=("successor",)), Word(slot="successor", source=True)),
                "query": (Change(reorder=True), Word(slot="answer", source=True)),
            },
        )

    def _once(self) -> Plan:
        fillers = [f"x{i}" for i in range(self.settings.length - 4)]
        slots = dict.fromkeys(("A", "B", "C", "D", *fillers), "words")
        columns: Columns = dict.fromkeys(slots, ())
        return Plan(
            tables={"words": plain_table([*self.settings.words.table])},
            slots=slots,
            texts=tuple(
                TextVariant(parse_pattern(text, columns), Word(slot="B"))
                for text in single_texts(fillers)
            ),
            corruption=Change(redraw=("first",)),
            variables={
                "successor": (Change(redraw=("B",)), Word(slot="B", source=True)),
                "query": (Change(put=(("again", Word(slot="C")),)), Word(slot="D")),
            },
        )


def repeated_text(length: int, repeats: int, asked: int) -> TextVariant:
    """A sequence of ``length`` words, written ``repeats`` times, the last time up to word ``asked``."""
    other = length - 2 if asked + 1 < length - 2 else 0
    names = {
        asked: ("first",),
        asked + 1: ("successor",),
        other: ("other",),
        other + 1: ("other_successor",),
    }
    pieces: list[Piece] = []
    for turn in range(repeats):
        pieces.append(Piece(f"\n{BEGINNING}" if turn else BEGINNING))
        full = turn < repeats - 1
        for i in range(length if full else asked + 1):
            named = names.get(i, ()) if full else ()
            pieces += [Piece(" "), Piece(word=Word(slot=f"w{i}"), names=named)]
    left = [Word(slot=f"w{i}") for i in range(asked + 2, length)]
    answer = Word(slot="successor")
    return TextVariant(Pattern(tuple(pieces)), answer, options=(answer, *left))


def single_texts(fillers: list[str]) -> list[str]:
    """Sequences with the asked pair at each place, and another pair anywhere."""
    rng = random.Random("induction/orders")
    sequences = []
    for place in range(len(fillers) + 1):
        blocks = ["{C:other} {D:other_successor}", *(f"{{{name}}}" for name in fillers[1:])]
        rng.shuffle(blocks)
        blocks.insert(place, "{A:first} {B:successor}")
        sequences.append(" ".join([BEGINNING, f"{{{fillers[0]}}}", *blocks, "{A:again}"]))
    return sequences
