"""Cells: the rows of a task, sorted by the words that they depend on."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_mechanism.tasks.base import Row, Task


def by_word(task: Task, rows: Sequence[Row]) -> dict[str, dict[str, list[int]]]:
    """Kind -> word -> indices of the rows that depend on it, words in the order of their names."""
    found: dict[str, dict[str, list[int]]] = {}
    for i, row in enumerate(rows):
        for kind, words in task.cells(row.base).items():
            for word in dict.fromkeys(words):
                found.setdefault(kind, {}).setdefault(word, []).append(i)
    return {kind: dict(sorted(words.items())) for kind, words in found.items()}
