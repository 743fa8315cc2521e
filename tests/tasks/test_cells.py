"""Cells: which words the answer to a prompt depends on, and which of them ``lint`` calls rare."""

from __future__ import annotations

from pathlib import Path

from pytest_mechanism.commands.rare_words import LEAST, rare_lines
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.writing.boxes import Context
from pytest_mechanism.tasks.writing.cells import by_word

SPEC = """mechanism: 1
circuit: x
task: {{family: {task}}}
claims: {{right: {{kind: accuracy, at_least: 0.5}}}}
"""


def task(rows: int, boxes: int = 3) -> EntityTracking:
    return EntityTracking(
        EntityTrackingParameters(family="entity_tracking", boxes=boxes, rows=rows)
    )


def test_a_question_about_a_box_depends_on_its_words_and_on_the_other_labels() -> None:
    """The queried label with each other label is a pair that must not be read alike."""
    prompt = Context(("apple", "bell", "cup"), ("Q", "B", "Z"), ("", "", "")).ask(1)
    assert task(20).cells(prompt) == {
        "object": ("bell",),
        "label": ("B",),
        "place": ("1",),
        "pair of labels": ["B and Q", "B and Z"],
    }


def test_every_row_has_one_cell_of_each_kind_and_six_pairs() -> None:
    """Of seven boxes."""
    found = by_word(task(140, 7), task(140, 7).rows(AnyWord(), 140))
    counts = {kind: sum(map(len, words.values())) for kind, words in found.items()}
    assert counts == {"object": 140, "label": 140, "place": 140, "pair of labels": 840}
    assert {place: len(rows) for place, rows in found["place"].items()} == dict.fromkeys(
        map(str, range(7)), 20
    )


def lines(folder: Path, settings: str) -> list[str]:
    (folder / "x.yaml").write_text(SPEC.format(task=settings))
    return [
        line.removeprefix(f"{folder / 'x.yaml'}: ") for line in rare_lines(load(folder / "x.yaml"))
    ]


def test_lint_says_which_words_stand_in_too_few_rows(tmp_path: Path) -> None:
    """70 rows ask about each of 7 places 10 times."""
    assert lines(tmp_path, "entity_tracking, boxes: 7, rows: 70")[2] == (
        f"place: 7 of 7 stand in fewer than {LEAST} of 70 rows, in which a fault of one would be seen ('0' in 10); "
        f"about {70 * LEAST // 10} rows show each"
    )


def test_lint_says_where_rows_show_every_word(tmp_path: Path) -> None:
    """Two places in 2,000 rows."""
    found = lines(tmp_path, "entity_tracking, boxes: 2, rows: 2000")
    assert found[2] == "place: each of 2 stands in 1000 of 2000 rows or more"
