"""From the settings of a template to its plan, with errors at the key at fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_mechanism.errors import FieldError, choices
from pytest_mechanism.tasks.writing.patterns import (
    ANSWER,
    RESERVED,
    Columns,
    Pattern,
    Word,
    is_name,
    parse_pattern,
    parse_word,
)
from pytest_mechanism.tasks.writing.slot_plan import Change, Plan, TextVariant
from pytest_mechanism.tasks.writing.template_settings import Source, TemplateSettings, Wording

Keys = tuple[str | int, ...]
"""Keys from ``task:`` to a value."""

LIMITS = {"texts": 200, "slots": 200, "variables": 100}
"""How many a template may have: their combinations are examined."""

MAX_PIECES = 1_000
"""Slots and marked places of a text."""


def plan_of(settings: TemplateSettings) -> Plan:
    """The plan of a template; a FieldError names the key at fault."""
    return _PlanReader(settings).plan()


@contextmanager
def errors_at(*keys: str | int) -> Iterator[None]:
    """Context in which a ValueError becomes a FieldError at a key."""
    try:
        yield
    except ValueError as problem:
        raise FieldError(str(problem), *keys) from None


class _PlanReader:
    def __init__(self, settings: TemplateSettings) -> None:
        self.settings = settings
        counts = {
            "texts": sum(map(len, settings.texts)),
            "slots": len(settings.slots),
            "variables": len(settings.variables),
        }
        for key, count in counts.items():
            if count > LIMITS[key]:
                raise FieldError(f"{count:,} of them; a template has at most {LIMITS[key]}", key)
        self.tables = {name: words.table for name, words in settings.words.items()}
        self.slots = self._slots()
        self.columns: Columns = {s: settings.words[of].columns for s, of in self.slots.items()}
        self.texts = self._texts()
        self.names: Columns = self._with_occurrences(self.texts[0].pattern)
        self.split = self._split()

    def plan(self) -> Plan:
        settings = self.settings
        for text in self.texts:
            self._check_one_token(text.answer, "answer")
        options = []
        for i, option in enumerate(settings.options):
            with errors_at("options", i):
                options.append(parse_word(option, self.names))
        plan = Plan(
            tables=self.tables,
            slots=self.slots,
            texts=self.texts,
            options=tuple(options),
            corruption=self._change(settings.source, "source") if settings.source else None,
            variables=self._variables(),
            split=self.split,
        )
        if options:
            for text in self.texts:
                self._check_is_option(plan, text.answer)
        for name, table in self.tables.items():
            slots, need = plan.slots_of[name], plan.words_needed(name)
            if len(table) < need:
                source = f" and {need - len(slots)} for a source" if need > len(slots) else ""
                raise FieldError(
                    f"has {len(table)} words; {need} are needed, {len(slots)} for slot "
                    f"{', '.join(slots)}{source}",
                    "words",
                    name,
                )
        return plan

    # -- slots

    def _slots(self) -> dict[str, str]:
        settings = self.settings
        for slot, of in settings.slots.items():
            if of not in settings.words:
                raise FieldError(f"no list {of!r}; {choices(of, settings.words)}", "slots", slot)
        taken = {*settings.slots.values()}
        own = {name: name for name in settings.words if name not in taken}
        if both := sorted({*own} & {*settings.slots}):
            raise FieldError(
                f"no slot takes its words, and slot {both[0]} takes others", "words", both[0]
            )
        slots = {**settings.slots, **own}
        for slot, of in slots.items():
            keys: Keys = ("slots", slot) if slot in settings.slots else ("words", of)
            if not is_name(slot):
                raise FieldError(
                    f"{slot!r} is not a valid name of a slot: letters, digits and '_'", *keys
                )
            if slot in RESERVED:
                raise FieldError(f"{slot!r} has a meaning of its own; choose another name", *keys)
        return slots

    def _with_occurrences(self, pattern: Pattern) -> Columns:
        """The columns of all slots and of a text's named occurrences."""
        occurrences = {name: self.columns[w.slot] for name, w in pattern.occurrences.items()}
        return {**self.columns, **occurrences}

    def _slot_of(self, name: str) -> str:
        return name if name in self.slots else self.texts[0].pattern.occurrences[name].slot

    def _split(self) -> frozenset[str]:
        for i, slot in enumerate(self.settings.split):
            if slot not in self.slots:
                raise FieldError(f"unknown slot {slot!r}; {choices(slot, self.slots)}", "split", i)
        lists = {self.slots[slot] for slot in self.settings.split}
        return frozenset(slot for slot, of in self.slots.items() if of in lists)

    # -- texts

    def _texts(self) -> tuple[TextVariant, ...]:
        settings = self.settings
        if (settings.text is None) == (not settings.texts):
            raise FieldError("needs one of text, texts")
        groups = settings.texts or ((Wording(text=str(settings.text)),),)
        texts: list[TextVariant] = []
        for i, group in enumerate(groups):
            for j, wording in enumerate(group):
                keys: Keys = ("text",)
                if settings.texts:
                    keys = ("texts", i, j) if len(group) > 1 else ("texts", i)
                texts.append(self._text(wording, keys, i))
                self._check_same_positions(texts[0].pattern, texts[-1].pattern, keys)
        return tuple(texts)

    def _text(self, wording: Wording, keys: Keys, layout: int) -> TextVariant:
        pieces = wording.text.count("{") + wording.text.count("[[")
        if pieces > MAX_PIECES:
            raise FieldError(
                f"has {pieces:,} slots and places; a text has at most {MAX_PIECES:,}", *keys
            )
        with errors_at(*keys):
            pattern = parse_pattern(wording.text, self.columns)
        if missing := [slot for slot in self.slots if slot not in pattern.slots]:
            raise FieldError(f"lacks slot {missing[0]}; a text has every slot", *keys)
        answer = wording.answer if wording.answer is not None else self.settings.answer
        if answer is None:
            raise FieldError("needs an answer: what comes next, as in answer: '{B}'", *keys)
        answer_keys = keys if wording.answer is not None else ("answer",)
        with errors_at(*answer_keys):
            word = parse_word(answer, self._with_occurrences(pattern))
            if word.is_answer:
                raise ValueError("{answer} cannot be its own answer")
        return TextVariant(pattern, word, layout)

    def _check_same_positions(self, first: Pattern, other: Pattern, keys: Keys) -> None:
        """Texts have the same positions, with words of the same lists."""
        if {*first.names} != {*other.names}:
            raise FieldError(
                f"has the positions {', '.join(sorted(other.names))}; the first text has "
                f"{', '.join(sorted(first.names))}",
                *keys,
            )
        for name in first.names:
            lists = {
                self.slots[p.occurrences[name].slot] if name in p.occurrences else None
                for p in (first, other)
            }
            if len(lists) > 1:
                raise FieldError(
                    f"position {name} takes its word from another list than in the first text",
                    *keys,
                )

    # -- words

    def _check_one_token(self, word: Word, *keys: str | int) -> None:
        """Answers and targets cannot have several tokens."""
        if word.slot and not word.is_answer and self._slot_of(word.slot) in self.split:
            raise FieldError(
                f"{word.written} may be of several tokens (split), and an answer is one", *keys
            )

    def _check_is_option(self, plan: Plan, answer: Word) -> None:
        """The answer is one of the options."""
        if answer in plan.options or Word(slot=ANSWER) in plan.options:
            return
        answers = [answer.text]
        if answer.slot:
            table = self.tables[plan.list_of(answer.slot)]
            answers = [row[answer.column] if answer.column else w for w, row in table.items()]
        options = {word.text for word in plan.options if not word.slot}
        if missing := [word for word in answers if word not in options]:
            raise FieldError(f"the answer may be {missing[0]!r}, which is none of them", "options")

    # -- sources and variables

    def _change(self, source: Source, *keys: str | int) -> Change:
        if not (source.text or source.set or source.swap or source.redraw):
            raise FieldError(
                "names no difference; needs one of redraw, set, swap, text: other", *keys
            )
        changed = Counter([*source.set, *source.swap, *source.redraw])
        parts = {"set": source.set, "swap": source.swap, "redraw": source.redraw}
        for key, names in parts.items():
            for name in names:
                if name not in self.names:
                    raise FieldError(
                        f"unknown slot {name!r}; {choices(name, self.names)}", *keys, key
                    )
                if changed[name] > 1:
                    raise FieldError(f"{name} is changed twice", *keys, key)
        if source.text and min(Counter(text.layout for text in self.texts).values()) < 2:
            raise FieldError(
                "other: needs every text in an inner list with another order of it, as in "
                "texts: [[first, second]]",
                *keys,
                "text",
            )
        self._check_swap(source.swap, *keys, "swap")
        put = [(name, self._put(name, word, *keys)) for name, word in source.set.items()]
        return Change(bool(source.text), tuple(put), source.swap, source.redraw)

    def _check_swap(self, swap: tuple[str, ...], *keys: str | int) -> None:
        if len(swap) == 1:
            raise FieldError("takes two slots or more, which exchange their words", *keys)
        for name in swap:
            if name not in self.slots:
                raise FieldError(f"{name} is one occurrence; only slots can be swapped", *keys)
            if self.slots[name] != self.slots[swap[0]]:
                raise FieldError(
                    f"{name} and {swap[0]} take their words from different lists", *keys
                )

    def _put(self, name: str, text: str, *keys: str | int) -> Word:
        with errors_at(*keys, "set", name):
            word = parse_word(text, self.names)
            table = self.slots[self._slot_of(name)]
            if name in self.slots and self.columns[name] and word.text not in self.tables[table]:
                plain = word.slot and not word.is_answer and not word.column
                if not plain or self.slots[self._slot_of(word.slot)] != table:
                    raise ValueError(f"{word.written} is not a word of {table}, which is a table")
        return word

    def _variables(self) -> dict[str, tuple[Change, Word]]:
        variables = {}
        for name, variable in self.settings.variables.items():
            keys: Keys = ("variables", name)
            if not is_name(name):
                raise FieldError(f"{name!r} is not a valid name: letters, digits and '_'", *keys)
            change = self._change(variable.source, *keys, "source")
            with errors_at(*keys, "target"):
                target = parse_word(variable.target, self.names, source=True)
                if all(target in (text.answer, Word(slot=ANSWER)) for text in self.texts):
                    raise ValueError(
                        f"{target.written} is the base's own answer, which comes out anyway"
                    )
            self._check_one_token(target, *keys, "target")
            variables[name] = change, target
        return variables
