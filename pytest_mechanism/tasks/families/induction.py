"""Induction: in a sequence of random words the first of a pair is repeated; what followed it?

    Words: flag coat letter beer disk hat coat -> letter

Source: Elhage et al. 2021 and Olsson et al. 2022 (arXiv 2209.11895), on repeated random tokens. The
words of a sequence are all different, and the repeated one is anywhere but first or last, so that
its place gives no hint. "Words:" precedes the sequence: a word at the very beginning of a text has
no space before it and may be several tokens there. In the corrupted prompt of a pair the first of
the two is another word, so that nothing is repeated.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from pytest_mechanism.errors import FieldError
from pytest_mechanism.tasks.writing.patterns import Columns, Word, parse_pattern
from pytest_mechanism.tasks.writing.slot_parameters import SlotTaskParameters
from pytest_mechanism.tasks.writing.slot_plan import Change, Plan, TextVariant
from pytest_mechanism.tasks.writing.slot_task import SlotTask
from pytest_mechanism.tasks.writing.word_lists import WordList, plain_table

BEGINNING = "Words:"


class InductionParameters(SlotTaskParameters):
    """``task:`` for this family.

    Attributes:
        words: the words of sequences.
        length: words in a sequence, without the repetition at its end.
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


class Induction(SlotTask[InductionParameters]):
    """Rows of the task; see the module.

    =========  =====================================  ==============================================
    variable   source                                 target
    =========  =====================================  ==============================================
    successor  another word after the first           the source's
    query      another word of the sequence is        that word's successor
               repeated
    =========  =====================================  ==============================================
    """

    family = "induction"
    parameters = InductionParameters
    default_groups: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "induction": {"at": "last"},
        "previous_token": {"at": "successor", "into": {"group": "induction", "via": "k"}},
    }
    positions = ("last", "first", "successor", "other", "other_successor")

    @cached_property
    def plan(self) -> Plan:
        fillers = [f"x{i}" for i in range(self.settings.length - 4)]
        slots = dict.fromkeys(("A", "B", "C", "D", *fillers), "words")
        columns: Columns = dict.fromkeys(slots, ())
        return Plan(
            tables={"words": plain_table([*self.settings.words.table])},
            slots=slots,
            texts=tuple(
                TextVariant(parse_pattern(text, columns), Word(slot="B")) for text in texts(fillers)
            ),
            corruption=Change(redraw=("first",)),
            variables={
                "successor": (Change(redraw=("B",)), Word(slot="B", source=True)),
                "query": (Change(put=(("again", Word(slot="C")),)), Word(slot="D")),
            },
        )


def texts(fillers: list[str]) -> list[str]:
    """Sequences with the queried pair at each place, and another pair anywhere."""
    rng = random.Random("induction/orders")
    sequences = []
    for place in range(len(fillers) + 1):
        blocks = ["{C:other} {D:other_successor}", *(f"{{{name}}}" for name in fillers[1:])]
        rng.shuffle(blocks)
        blocks.insert(place, "{A:first} {B:successor}")
        sequences.append(" ".join([BEGINNING, f"{{{fillers[0]}}}", *blocks, "{A:again}"]))
    return sequences
