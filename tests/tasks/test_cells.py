"""Cells: which words the answer to a prompt depends on, and which of them ``lint`` calls rare."""

from __future__ import annotations

from pathlib import Path

from pytest_mechanism.commands.rare_words import LEAST, rare_lines
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.writing.boxes import Context
from pytest_mechanism.tasks.writing.cells import by_word
from pytest_mechanism.tasks.writing.words import LABELS, OBJECTS

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


def test_a_place_is_told_by_its_box() -> None:
    """Places count from 0, and a reader from 1; two labels are told as labels."""
    names = [("place", "2"), ("pair of labels", "F and K"), ("object", "fish")]
    assert [task(20, 7).cell_name(kind, name) for kind, name in names] == [
        "place 2 (box 3 of 7 in the prompt)",
        "labels F and K",
        "object fish",
    ]


def test_every_row_has_one_cell_of_each_kind_and_six_pairs() -> None:
    """Of seven boxes."""
    found = by_word(task(140, 7), AnyWord(), task(140, 7).rows(AnyWord(), 140))
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
        f"place: 7 of 7 stand in fewer than {LEAST} of 70 rows, too few to see a fault of them ('0' in 10); "
        f"about {70 * LEAST // 10} rows show every word often enough"
    )


def test_lint_counts_words_that_stand_in_no_row(tmp_path: Path) -> None:
    """20 rows ask about 20 objects of 106."""
    object_line, *_ = lines(tmp_path, "entity_tracking, boxes: 2, rows: 20")
    assert object_line.startswith(f"object: {len(OBJECTS)} of {len(OBJECTS)} stand in fewer than")
    assert object_line.endswith("in none); more rows show every word")


def test_lint_says_where_it_knows_the_words_from_the_rows_alone(tmp_path: Path) -> None:
    """A task that does not list its words."""
    assert " that the rows show stand in fewer than " in lines(tmp_path, "ioi, rows: 20")[0]


def test_rows_show_no_word_that_the_task_does_not_list() -> None:
    """Every word of a kind is known in advance, so that the list is complete."""
    boxes = task(700, 7)
    known = boxes.all_cells(AnyWord())
    found = by_word(boxes, AnyWord(), boxes.rows(AnyWord(), 700))
    assert {kind: {*words} for kind, words in found.items()} == {
        kind: {*words} for kind, words in known.items()
    }
    assert len(known["pair of labels"]) == len(LABELS) * (len(LABELS) - 1) // 2


def test_lint_says_where_rows_show_every_word(tmp_path: Path) -> None:
    """Two places in 2,000 rows."""
    found = lines(tmp_path, "entity_tracking, boxes: 2, rows: 2000")
    assert found[2] == "place: each of 2 stands in 1000 of 2000 rows or more"
