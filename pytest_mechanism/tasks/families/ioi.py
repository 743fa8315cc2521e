"""Indirect object identification: who is given the thing?

    When Mary and John got a drink at the store, John decided to give it to -> Mary

Source: Wang et al. 2022 (arXiv 2211.00593), section 2 and appendix E. The indirect object (IO) is
named once, the subject (S) twice; in half of the rows the IO is named first (ABBA), in half the
subject (BABA). The corrupted prompt of a pair has three names that are not the base's (ABC), so
nobody is named twice; so have the prompts behind a mean. Names, places and things that some
tokenizer splits are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from pytest_mechanism.tasks.writing.drawn import Drawn
from pytest_mechanism.tasks.writing.drawn_parameters import DrawnParameters
from pytest_mechanism.tasks.writing.patterns import Word, parse_pattern
from pytest_mechanism.tasks.writing.plans import Change, Plan, Told
from pytest_mechanism.tasks.writing.words import GIFTS, NAMES, PLACES

TEMPLATES = (  # before the two names, the word after them, and what follows
    ("Then,", "went", "to the {place}. {S1:S2} gave a {object} to"),
    ("Then,", "had", "a lot of fun at the {place}. {S1:S2} gave a {object} to"),
    ("Then,", "were", "working at the {place}. {S1:S2} decided to give a {object} to"),
    ("Then,", "were", "thinking about going to the {place}. {S1:S2} wanted to give a {object} to"),
    ("After", "went", "to the {place}, {S1:S2} gave a {object} to"),
    ("When", "got", "a {object} at the {place}, {S1:S2} decided to give it to"),
    ("While", "were", "working at the {place}, {S1:S2} gave a {object} to"),
    ("After the lunch,", "went", "to the {place}. {S1:S2} gave a {object} to"),
)

Order = Literal["ABBA", "BABA"]


class IoiParameters(DrawnParameters):
    """``task:`` for this family.

    Attributes:
        templates: how many of the eight sentences.
        order: ``ABBA`` (the indirect object first), ``BABA``, or ``both`` in turns.
    """

    family: Literal["ioi"]
    templates: int = Field(default=len(TEMPLATES), ge=1, le=len(TEMPLATES))
    order: Literal["both", "ABBA", "BABA"] = "both"

    def task(self) -> Ioi:
        return Ioi(self)


class Ioi(Drawn):
    """Rows of the task. See the module.

    ===========  ==========================================  =====================================
    variable     source                                      target
    ===========  ==========================================  =====================================
    io_name      another indirect object                     the source's indirect object
    s_position   two other names, in the other order         the base's subject: told that the
                 (``order: both`` only)                      other name stands twice, S-inhibition
                                                             turns against the indirect object
    ===========  ==========================================  =====================================
    """

    family = "ioi"
    parameters = IoiParameters
    chain: ClassVar[Mapping[str, Mapping[str, Any]]] = {  # Wang et al. 2022, figure 2
        "name_movers": {"at": "last"},
        "s_inhibition": {"at": "last", "into": {"group": "name_movers", "via": "q"}},
        "induction": {"at": "S2", "into": {"group": "s_inhibition", "via": "v"}},
        "previous_token": {"at": "S1_next", "into": {"group": "induction", "via": "k"}},
    }
    positions = ("last", "IO", "S1", "S1_next", "S2", "place", "object")
    orders: ClassVar[tuple[Order, ...]] = ("ABBA", "BABA")

    @cached_property
    def plan(self) -> Plan:
        both = self.settings.order == "both"
        orders = self.orders if both else (self.settings.order,)
        tables = {"names": NAMES, "places": PLACES, "objects": GIFTS}
        slots = {"IO": "names", "S1": "names", "place": "places", "object": "objects"}
        columns: dict[str, tuple[str, ...]] = dict.fromkeys(slots, ())
        told = tuple(
            Told(parse_pattern(sentence(layout, order), columns), Word(slot="IO"), layout)
            for layout in range(self.settings.templates)
            for order in orders
        )
        io_name = Change(redraw=("IO",)), Word(slot="IO", source=True)
        s_position = Change(order=True, redraw=("IO", "S1")), Word(slot="S1")
        return Plan(
            tables={name: {word: {} for word in words} for name, words in tables.items()},
            slots=slots,
            told=told,
            corrupted=Change(redraw=("IO", "S1", "S2")),
            variables={"io_name": io_name, **({"s_position": s_position} if both else {})},
        )


def sentence(number: int, order: Order) -> str:
    """A template in one of its orders."""
    before, verb, after = TEMPLATES[number]
    if order == "ABBA":
        return f"{before} {{IO}} and {{S1}} [[S1_next:{verb}]] {after}"
    return f"{before} {{S1}} [[S1_next:and]] {{IO}} {verb} {after}"
