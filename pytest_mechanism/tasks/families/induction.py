"""Induction: a sequence of random words, one of which comes again; what followed it?

    Words: flag coat letter beer disk hat coat -> letter

Source: Elhage et al. 2021 and Olsson et al. 2022 (arXiv 2209.11895), on repeated random tokens. The
words of a sequence are all different, and the one that comes again stands at any place but the
first and the last, so its successor's place is no hint. Something else stands before the first one:
a word at the very beginning has no space before it, and may be several tokens there. In the corrupted prompt of a pair the first
of the two is another word, so that nothing matches.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from pytest_mechanism.errors import FieldError
from pytest_mechanism.tasks.writing.drawn import Drawn
from pytest_mechanism.tasks.writing.drawn_parameters import DrawnParameters
from pytest_mechanism.tasks.writing.patterns import Word, parse_pattern
from pytest_mechanism.tasks.writing.plans import Change, Plan, Told
from pytest_mechanism.tasks.writing.word_lists import Table, WordList

BEGINNING = "Words:"


class InductionParameters(DrawnParameters):
    """``task:`` for this family.

    Attributes:
        words: what sequences are made of.
        length: words in a sequence, the repeated one at its end not among them.
    """

    family: Literal["induction"]
    words: WordList = WordList.model_validate("objects")
    length: int = Field(default=8, ge=5, le=60)

    def task(self) -> Induction:
        if len(self.words.table) <= self.length:
            raise FieldError(
                f"has {len(self.words.table)} words, {self.length + 1} are needed: {self.length} "
                "different ones in a sequence, and one for its source",
                "words",
            )
        return Induction(self)


class Induction(Drawn):
    """Rows of the task. See the module.

    =========  =====================================  ==============================================
    variable   source                                 target
    =========  =====================================  ==============================================
    successor  another word after the first           the source's
    query      another word of the sequence comes     that word's successor
               again
    =========  =====================================  ==============================================
    """

    family = "induction"
    parameters = InductionParameters
    chain: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "induction": {"at": "last"},
        "previous_token": {"at": "successor", "into": {"group": "induction", "via": "k"}},
    }
    positions = ("last", "first", "successor", "other", "other_successor")

    @cached_property
    def plan(self) -> Plan:
        table: Table = {word: {} for word in self.settings.words.table}
        fillers = [f"x{i}" for i in range(self.settings.length - 4)]
        slots = dict.fromkeys(("A", "B", "C", "D", *fillers), "words")
        columns: dict[str, tuple[str, ...]] = dict.fromkeys(slots, ())
        told = tuple(
            Told(parse_pattern(each, columns), Word(slot="B"), 0) for each in orders(fillers)
        )
        return Plan(
            tables={"words": table},
            slots=slots,
            told=told,
            corrupted=Change(redraw=("first",)),
            variables={
                "successor": (Change(redraw=("B",)), Word(slot="B", source=True)),
                "query": (Change(put=(("again", Word(slot="C")),)), Word(slot="D")),
            },
        )


def orders(fillers: list[str]) -> list[str]:
    """Sequences with the pair that is asked for at each place, and another pair anywhere."""
    rng = random.Random("induction/orders")
    found = []
    for place in range(len(fillers) + 1):
        blocks = ["{C:other} {D:other_successor}", *(f"{{{name}}}" for name in fillers[1:])]
        rng.shuffle(blocks)
        blocks.insert(place, "{A:first} {B:successor}")
        found.append(" ".join([BEGINNING, f"{{{fillers[0]}}}", *blocks, "{A:again}"]))
    return found
