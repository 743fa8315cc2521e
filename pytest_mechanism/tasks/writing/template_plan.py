"""From what a spec says of a template to its plan, with an error at the key that is at fault."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from pytest_mechanism.errors import FieldError, choices
from pytest_mechanism.tasks.families.template import Source, TemplateParameters, Wording
from pytest_mechanism.tasks.writing.patterns import (
    NAME,
    RESERVED,
    Pattern,
    Word,
    parse_pattern,
    parse_word,
)
from pytest_mechanism.tasks.writing.plans import Change, Plan, Told

T = TypeVar("T")
Where = tuple[str | int, ...]
Columns = Mapping[str, tuple[str, ...]]


MOST = {"texts": 200, "slots": 200, "variables": 100}
"""What a template may have of each: their combinations are looked at."""

PIECES = 1_000
"""Slots and named places that a text may have."""


def plan_of(given: TemplateParameters) -> Plan:
    """The plan of a template.

    Raises:
        FieldError: something that cannot be meant, with its key.
    """
    return _Reader(given).plan()


def at(where: Where, read: Callable[[], T]) -> T:
    """What ``read`` gives; its errors at a key."""
    try:
        return read()
    except ValueError as problem:
        raise FieldError(str(problem), *where) from None


class _Reader:
    def __init__(self, given: TemplateParameters) -> None:
        self.given = given
        several = {
            "texts": sum(map(len, given.texts)),
            "slots": len(given.slots),
            "variables": len(given.variables),
        }
        for key, count in several.items():
            if count > MOST[key]:
                raise FieldError(f"{count:,} of them; a template has at most {MOST[key]}", key)
        self.tables = {name: words.table for name, words in given.words.items()}
        self.slots = self.every_slot()
        self.columns: Columns = {slot: given.words[of].columns for slot, of in self.slots.items()}
        self.told = self.every_text()
        self.known: Columns = {**self.columns, **self.occurrences(self.told[0].pattern)}
        self.split = frozenset(self.split_slots())

    def occurrences(self, pattern: Pattern) -> Columns:
        return {name: self.columns[w.slot] for name, w in pattern.occurrences.items()}

    def plan(self) -> Plan:
        given = self.given
        for told in self.told:
            self.one_token(told.answer, ("answer",))
        options = tuple(
            at(("options", i), lambda text=text: parse_word(text, self.known))  # type: ignore[misc]
            for i, text in enumerate(given.options)
        )
        plan = Plan(
            tables=self.tables,
            slots=self.slots,
            told=self.told,
            options=options,
            corrupted=self.change(given.source, ("source",)) if given.source else None,
            variables=self.every_variable(),
            split=self.split,
        )
        for told in self.told:
            if options:
                self.among(plan, told.answer)
        for name, table in self.tables.items():
            slots, need = plan.sharing[name], plan.needed(name)
            if len(table) < need:
                more = f" and {need - len(slots)} for a source" if need > len(slots) else ""
                raise FieldError(
                    f"has {len(table)} words; {need} are needed, {len(slots)} for slot "
                    f"{', '.join(slots)}{more}",
                    "words",
                    name,
                )
        return plan

    # -- slots and texts

    def every_slot(self) -> dict[str, str]:
        given = self.given
        for slot, of in given.slots.items():
            if of not in given.words:
                raise FieldError(f"no list {of!r}; {choices(of, given.words)}", "slots", slot)
        taken = {*given.slots.values()}
        own = {name: name for name in given.words if name not in taken}
        if both := sorted({*own} & {*given.slots}):
            raise FieldError(
                f"no slot takes its words, and slot {both[0]} takes others", "words", both[0]
            )
        slots = {**given.slots, **own}
        for slot, of in slots.items():
            where: Where = ("slots", slot) if slot in given.slots else ("words", of)
            if not re.fullmatch(NAME, slot):
                raise FieldError(f"{slot!r} is no name of a slot: letters, digits and '_'", *where)
            if slot in RESERVED:
                raise FieldError(f"{slot!r} has a meaning of its own; choose another name", *where)
        return slots

    def every_text(self) -> tuple[Told, ...]:
        given = self.given
        if (given.text is None) == (not given.texts):
            raise FieldError("needs one of text, texts")
        groups = given.texts or ((Wording(text=str(given.text)),),)
        found: list[Told] = []
        for i, group in enumerate(groups):
            for j, wording in enumerate(group):
                where: Where = ("text",)
                if given.texts:
                    where = ("texts", i, j) if len(group) > 1 else ("texts", i)
                found.append(self.one_text(wording, where, i))
                if len(found) > 1:
                    self.alike(found[0].pattern, found[-1].pattern, where)
        return tuple(found)

    def one_text(self, wording: Wording, where: Where, layout: int) -> Told:
        if (pieces := wording.text.count("{") + wording.text.count("[[")) > PIECES:
            raise FieldError(
                f"has {pieces:,} slots and places; a text has at most {PIECES:,}", *where
            )
        pattern = at(where, lambda: parse_pattern(wording.text, self.columns))
        if missing := [slot for slot in self.slots if slot not in pattern.slots]:
            raise FieldError(
                f"slot {missing[0]} does not stand in it; a text has every slot", *where
            )
        answer = wording.answer if wording.answer is not None else self.given.answer
        if answer is None:
            raise FieldError("needs an answer: what comes next, as in answer: '{B}'", *where)
        known = {**self.columns, **self.occurrences(pattern)}
        said_at = where if wording.answer is not None else ("answer",)
        word = at(said_at, lambda: parse_word(answer, known))
        if word.slot == "answer":
            raise FieldError("{answer} cannot be its own answer", *said_at)
        return Told(pattern, word, layout)

    def alike(self, first: Pattern, other: Pattern, where: Where) -> None:
        """Texts have the same positions, of the same lists."""
        if {*first.names} != {*other.names}:
            raise FieldError(
                f"has the positions {', '.join(sorted(other.names))}; the first text has "
                f"{', '.join(sorted(first.names))}",
                *where,
            )
        for name in first.names:
            lists = [
                self.slots[p.occurrences[name].slot] if name in p.occurrences else None
                for p in (first, other)
            ]
            if lists[0] != lists[1]:
                raise FieldError(f"position {name} is no word of the list that it is of in the first text", *where)  # fmt: skip

    def split_slots(self) -> list[str]:
        for i, slot in enumerate(self.given.split):
            if slot not in self.slots:
                raise FieldError(f"unknown slot {slot!r}; {choices(slot, self.slots)}", "split", i)
        lists = {self.slots[slot] for slot in self.given.split}
        return [slot for slot, of in self.slots.items() if of in lists]

    # -- words

    def slot_of(self, name: str) -> str:
        if name in self.slots:
            return name
        return self.told[0].pattern.occurrences[name].slot

    def one_token(self, word: Word, where: Where) -> None:
        """What should come out is no word of several tokens."""
        if word.slot and word.slot != "answer" and self.slot_of(word.slot) in self.split:
            raise FieldError(
                f"{word.written} may be of several tokens (split), and an answer is one", *where
            )

    def among(self, plan: Plan, answer: Word) -> None:
        """The answer is one of the options."""
        if answer in plan.options or Word(slot="answer") in plan.options:
            return
        words = {word.text for word in plan.options if not word.slot}
        said = [answer.text]
        if answer.slot:
            table = self.tables[plan.list_of(answer.slot)]
            said = [row[answer.column] if answer.column else w for w, row in table.items()]
        if missing := [word for word in said if word not in words]:
            raise FieldError(f"the answer may be {missing[0]!r}, which is none of them", "options")

    # -- sources

    def change(self, given: Source, where: Where) -> Change:
        if not (given.text or given.set or given.swap or given.redraw):
            raise FieldError(
                "says no difference; needs one of redraw, set, swap, text: other", *where
            )
        named = [*given.set, *given.swap, *given.redraw]
        for key, names in (("set", given.set), ("swap", given.swap), ("redraw", given.redraw)):
            for name in names:
                if name not in self.known:
                    raise FieldError(
                        f"unknown slot {name!r}; {choices(name, self.known)}", *where, key
                    )
                if named.count(name) > 1:
                    raise FieldError(f"{name} is changed twice", *where, key)
        if given.text and min(Counter(told.layout for told in self.told).values()) < 2:
            raise FieldError(
                "other: needs every text in an inner list with another order of it, as in "
                "texts: [[first, second]]",
                *where,
                "text",
            )
        self.swappable(given.swap, (*where, "swap"))
        put = tuple(
            (name, self.put(name, text, (*where, "set", name))) for name, text in given.set.items()
        )
        return Change(bool(given.text), put, given.swap, given.redraw)

    def swappable(self, swap: tuple[str, ...], where: Where) -> None:
        if len(swap) == 1:
            raise FieldError("takes two slots or more, whose words change places", *where)
        for name in swap:
            if name not in self.slots:
                raise FieldError(f"{name} is one occurrence; slots change places", *where)
            if self.slots[name] != self.slots[swap[0]]:
                raise FieldError(
                    f"{name} and {swap[0]} take their words from different lists", *where
                )

    def put(self, name: str, text: str, where: Where) -> Word:
        word = at(where, lambda: parse_word(text, self.known))
        of = self.slots[self.slot_of(name)]
        if name in self.slots and self.columns[name]:
            alike = bool(word.slot) and word.slot != "answer" and not word.column
            alike = alike and self.slots[self.slot_of(word.slot)] == of
            if not alike and word.text not in self.tables[of]:
                raise FieldError(f"{word.written} is no word of {of}, which is a table", *where)
        return word

    def every_variable(self) -> dict[str, tuple[Change, Word]]:
        found = {}
        for name, variable in self.given.variables.items():
            where: Where = ("variables", name)
            if not re.fullmatch(NAME, name):
                raise FieldError(f"{name!r} is no name: letters, digits and '_'", *where)
            change = self.change(variable.source, (*where, "source"))
            target = at(
                (*where, "target"),
                lambda text=variable.target: parse_word(text, self.known, source=True),  # type: ignore[misc]
            )
            if all(target in (told.answer, Word(slot="answer")) for told in self.told):
                raise FieldError(
                    f"{target.written} is the base's own answer, which comes out anyway",
                    *where,
                    "target",
                )
            self.one_token(target, (*where, "target"))
            found[name] = (change, target)
        return found
