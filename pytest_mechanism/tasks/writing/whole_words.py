"""Which words of a plan every tokenizer of a run keeps whole, wherever its texts show them."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_mechanism.tasks.text.joints import joint_between
from pytest_mechanism.tasks.text.vocabulary import Vocabulary
from pytest_mechanism.tasks.writing.slot_plan import Plan
from pytest_mechanism.tasks.writing.word_lists import Table


def whole_words(plan: Plan, vocabulary: Vocabulary, name: str) -> Table:
    """The words of a list whose every spelling in a text is one token.

    An answer that only ever follows a text without a space is not checked here: that depends on the
    prompt.
    """
    table = plan.tables[name]
    if {*plan.slots_of[name]} & plan.split:
        return table
    in_text = plan.columns_in_text(name)

    def spellings(word: str, row: Mapping[str, str]) -> list[str]:
        columns = {"": word, **row}
        return [w for key, w in columns.items() if key in in_text or may_follow_space(plan, w)]

    every = {spelling for word, row in table.items() for spelling in spellings(word, row)}
    whole = {*vocabulary.whole(sorted(every))}
    return {w: row for w, row in table.items() if whole.issuperset(spellings(w, row))}


def split_literals(plan: Plan, vocabulary: Vocabulary) -> list[str]:
    """The words outside the lists that some tokenizer splits."""
    literals = [word for word in plan.literals if may_follow_space(plan, word)]
    whole = vocabulary.whole(literals)
    return [word for word in literals if word not in whole]


def may_follow_space(plan: Plan, answer: str) -> bool:
    """Whether a space precedes an answer after some text."""
    return any(joint_between(text.pattern.ending, answer) for text in plan.texts)
