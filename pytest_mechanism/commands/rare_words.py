"""``lint --coverage``: words, labels and places that stand in too few rows of a spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_mechanism.errors import MechanismError

if TYPE_CHECKING:
    from pytest_mechanism.spec.spec import Spec

LEAST = 20
"""Rows of a word. With 20 right answers of 20, the accuracy of the word is at least .83 (95 %, one word alone)."""

MOST = 20_000
"""Rows up to which the command counts: a task may need long to write more."""


def rare_lines(spec: Spec) -> Iterator[str]:
    """A line for each kind of word: how many stand in fewer than `LEAST` rows.

    The rows are those that every claim about prompts reads, as a tokenizer that splits no word has them. Words
    that stand in no row are not counted.
    """
    from pytest_mechanism.tasks.base import AnyWord
    from pytest_mechanism.tasks.writing.cells import by_word

    count = spec.task.settings.rows
    if count > MOST:
        yield f"{spec.path}: {count:,} rows are more than are counted here ({MOST:,})"
        return
    try:
        cells = by_word(spec.task, spec.task.rows(AnyWord(), count))
    except MechanismError as problem:
        yield f"{spec.path}: the rows cannot be written without the checkpoints: {problem}"
        return
    for kind, words in cells.items():
        rows = {word: len(places) for word, places in words.items()}
        rare = sorted((n, word) for word, n in rows.items() if n < LEAST)
        if not rare:
            yield f"{spec.path}: {kind}: each of {len(rows)} stands in {min(rows.values())} of {count} rows or more"
            continue
        fewest, word = rare[0]
        yield (
            f"{spec.path}: {kind}: {len(rare)} of {len(rows)} stand in fewer than {LEAST} of {count} rows, in which a "
            f"fault of one would be seen ({word!r} in {fewest}); about {needed(count, fewest):,} rows show each"
        )


def needed(rows: int, fewest: int) -> int:
    """Rows of the task with which a word that stands in ``fewest`` of ``rows`` stands in `LEAST`, rounded up to
    two digits."""
    from pytest_mechanism.statistics.verdicts import round_up

    return round_up(rows * LEAST / max(fewest, 1))
