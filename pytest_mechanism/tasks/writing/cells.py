"""Cells: the rows of a task, sorted by the words that they depend on."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_mechanism.tasks.base import Row, Task, Vocabulary


def by_word(
    task: Task, vocabulary: Vocabulary, rows: Sequence[Row]
) -> dict[str, dict[str, list[int]]]:
    """Kind -> word -> indices of the rows that depend on it, words in the order of their names; a word that the task
    knows and no row shows has none."""
    found: dict[str, dict[str, list[int]]] = {
        kind: {word: [] for word in words} for kind, words in task.all_cells(vocabulary).items()
    }
    for i, row in enumerate(rows):
        for kind, words in task.cells(row.base).items():
            for word in dict.fromkeys(words):
                found.setdefault(kind, {}).setdefault(word, []).append(i)
    return {kind: dict(sorted(words.items())) for kind, words in found.items()}
