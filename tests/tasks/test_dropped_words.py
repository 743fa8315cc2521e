"""The words that tokenizers exclude from a task are named and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from vocabularies import Without

from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord, Task
from pytest_mechanism.tasks.writing.words import LABELS, NAMES, OBJECTS

TASKS = {
    "entity_tracking": "{family: entity_tracking, rows: 140}",
    "ioi": "{family: ioi, rows: 20}",
    "greater_than": "{family: greater_than, rows: 20}",
    "induction": "{family: induction, rows: 20}",
    "template": "{family: template, rows: 20, words: {w: names}, slots: {a: w, b: w}, "
    'texts: ["{a} sees {b} and {a}"], answer: "{b}", source: {redraw: [a, b]}}',
    "jsonl": "{family: jsonl, rows: 20, file: lines.jsonl}",
}


def task(folder: Path, family: str) -> Task:
    lines = [
        f'{{"prompt": "{i} is before", "answer": "{"cat" if i % 4 else "dog"}"}}' for i in range(80)
    ]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    (folder / "one.yaml").write_text(
        f"mechanism: 1\ncircuit: one\ntask: {TASKS[family]}\nclaims:\n"
        "  solves: {kind: accuracy, at_least: 0.5}\n"
    )
    return load(folder / "one.yaml").task


@pytest.mark.parametrize(
    ("family", "dropped", "expected"),
    [
        (
            "entity_tracking",
            "apple Q",
            f"2 of {len(OBJECTS) + len(LABELS)} words are dropped, because some tokenizer "
            "of the run splits them: apple, Q",
        ),
        ("ioi", "Tom store", "splits them: Tom, store"),
        ("greater_than", "1750 voyage", "splits them: 1750, voyage"),
        ("induction", "apple", "1 of "),
        ("template", "Zach", f"1 of {len(NAMES)} words are dropped"),
        ("template", " ".join(NAMES[:9]), f"{', '.join(sorted(NAMES[:9])[:8])}, ..."),
        ("jsonl", "dog", "20 of 80 lines, 1 of 2 words are dropped, "),
    ],
)
def test_dropped_words_are_named_and_counted(
    tmp_path: Path, family: str, dropped: str, expected: str
) -> None:
    """Words of every list that the family reads count; the first eight are named."""
    assert expected in task(tmp_path, family).dropped_words(Without(frozenset(dropped.split())))


@pytest.mark.parametrize("family", TASKS)
def test_no_sentence_without_dropped_words(tmp_path: Path, family: str) -> None:
    """Nor where too few words are left for a row, which is an error of its own."""
    template = task(tmp_path, family)

    assert template.dropped_words(AnyWord()) == ""
    if family != "jsonl":
        assert (
            template.dropped_words(Without(frozenset([*OBJECTS, *NAMES, "17", "1700", "the"])))
            == ""
        )
