"""Indirect object identification: who is given the thing?

    When Mary and John got a drink at the store, John decided to give it to -> Mary

Source: Wang et al. 2022 (arXiv 2211.00593), section 2 and appendix E. A prompt names the indirect
object (IO) once and the subject (S) twice; half of the rows name the IO first (ABBA), half the
subject (BABA). The corrupted prompt of a pair, and every prompt behind a mean, has three names that
the base does not have (ABC), so it names nobody twice. Names, places and objects that some
tokenizer splits are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from pytest_mechanism.tasks.writing.patterns import Columns, Word, parse_pattern
from pytest_mechanism.tasks.writing.slot_parameters import SlotTaskParameters
from pytest_mechanism.tasks.writing.slot_plan import Change, Plan, TextVariant
from pytest_mechanism.tasks.writing.slot_task import SlotTask
from pytest_mechanism.tasks.writing.word_lists import plain_table
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


class IoiParameters(SlotTaskParameters):
    """``task:`` for this family.

    Attributes:
        templates: how many of the eight sentences.
        order: ``ABBA`` (the indirect object first), ``BABA``, or ``both``, which take turns.
    """

    family: Literal["ioi"]
    templates: int = Field(default=len(TEMPLATES), ge=1, le=len(TEMPLATES))
    order: Literal["both", "ABBA", "BABA"] = "both"

    def task(self) -> Ioi:
        return Ioi(self)


class Ioi(SlotTask[IoiParameters]):
    """Rows of the task; see the module.

    ===========  ==========================================  =====================================
    variable     source                                      target
    ===========  ==========================================  =====================================
    io_name      another indirect object                     the source's indirect object
    s_position   two other names, in the other order         the base's subject: with the position
                 (``order: both`` only)                      of the other name moved, S-inhibition
                                                             suppresses the indirect object
    ===========  ==========================================  =====================================
    """

    family = "ioi"
    parameters = IoiParameters
    default_groups: ClassVar[Mapping[str, Mapping[str, Any]]] = {  # Wang et al. 2022, figure 2
        "name_movers": {"at": "last"},
        "s_inhibition": {"at": "last", "into": {"group": "name_movers", "via": "q"}},
        "induction": {"at": "S2", "into": {"group": "s_inhibition", "via": "v"}},
        "previous_token": {"at": "S1_next", "into": {"group": "induction", "via": "k"}},
    }
    positions = ("last", "IO", "S1", "S1_next", "S2", "place", "object")

    @property
    def easier(self) -> Sequence[Mapping[str, Any]]:
        """One sentence, in both orders: with one order, the place of the name would tell it."""
        return [{"templates": 1}] if self.settings.templates > 1 else []

    @cached_property
    def plan(self) -> Plan:
        order = self.settings.order
        orders: tuple[Order, ...] = ("ABBA", "BABA") if order == "both" else (order,)
        slots = {"IO": "names", "S1": "names", "place": "places", "object": "objects"}
        columns: Columns = dict.fromkeys(slots, ())
        io_name = Change(redraw=("IO",)), Word(slot="IO", source=True)
        s_position = Change(reorder=True, redraw=("IO", "S1")), Word(slot="S1")
        return Plan(
            tables={
                "names": plain_table(NAMES),
                "places": plain_table(PLACES),
                "objects": plain_table(GIFTS),
            },
            slots=slots,
            texts=tuple(
                TextVariant(
                    parse_pattern(sentence(layout, order), columns), Word(slot="IO"), layout
                )
                for layout in range(self.settings.templates)
                for order in orders
            ),
            corruption=Change(redraw=("IO", "S1", "S2")),
            variables={
                "io_name": io_name,
                **({"s_position": s_position} if order == "both" else {}),
            },
        )


def sentence(number: int, order: Order) -> str:
    """A template with its names in one of the orders."""
    before, verb, after = TEMPLATES[number]
    if order == "ABBA":
        return f"{before} {{IO}} and {{S1}} [[S1_next:{verb}]] {after}"
    return f"{before} {{S1}} [[S1_next:and]] {{IO}} {verb} {after}"
