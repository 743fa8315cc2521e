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

    The rows are those that every claim about prompts reads, as a tokenizer that splits no word has them. Where the
    task does not know its words (`Task.all_cells`), the words are those that the rows show, and the line says so.
    """
    from pytest_mechanism.tasks.base import AnyWord
    from pytest_mechanism.tasks.writing.cells import by_word

    count = spec.task.settings.rows
    if count > MOST:
        yield f"{spec.path}: {count:,} rows are more than are counted here ({MOST:,})"
        return
    try:
        known = spec.task.all_cells(AnyWord())
        cells = by_word(spec.task, AnyWord(), spec.task.rows(AnyWord(), count))
    except MechanismError as problem:
        yield f"{spec.path}: the rows cannot be written without the checkpoints: {problem}"
        return
    for kind, words in cells.items():
        rows = {word: len(places) for word, places in words.items()}
        rare = sorted((n, word) for word, n in rows.items() if n < LEAST)
        of = f"{len(rows)}" if kind in known else f"the {len(rows)} that the rows show"
        if not rare:
            yield f"{spec.path}: {kind}: each of {of} stands in {min(rows.values())} of {count} rows or more"
            continue
        fewest, word = rare[0]
        place = f"in {fewest}" if fewest else "in none"
        yield (
            f"{spec.path}: {kind}: {len(rare)} of {of} stand in fewer than {LEAST} of {count} rows, too few to see a "
            f"fault of them ({word!r} {place}); {advice(count, fewest)}"
        )


def advice(rows: int, fewest: int) -> str:
    """How many rows show every word often enough, as far as the rarest word says."""
    if not fewest:
        return "more rows show every word"
    return f"about {needed(rows, fewest):,} rows show every word often enough"


def needed(rows: int, fewest: int) -> int:
    """Rows of the task with which a word that stands in ``fewest`` of ``rows`` stands in `LEAST`, rounded up to
    two digits."""
    from pytest_mechanism.statistics.verdicts import round_up

    return round_up(rows * LEAST / fewest)
