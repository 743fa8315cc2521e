"""Every picture of the docs can be drawn again: ``python -m docs.picture``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import warm_python
from blocks import blocks

from docs.picture import DOCS, PICTURES, ROOT, Picture


def test_every_picture_of_the_docs_has_a_recipe() -> None:
    """The SVG files below docs/ are those that the command draws."""
    drawn = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.svg")}
    assert drawn == {*PICTURES}, "add the picture to PICTURES in docs/picture.py"


@pytest.mark.parametrize("name", PICTURES)
def test_a_recipe_names_a_spec_that_exists(name: str) -> None:
    """A file of the repository, or a block of a page that shows the picture."""
    picture = PICTURES[name]
    if not picture.page:
        assert (ROOT / picture.spec).is_file()
        return
    page = (DOCS / picture.page).read_text("utf-8")
    assert f"{Path(name).name}.svg)" in page
    assert picture.spec in {block.options.get("file") for block in blocks(page)}


def test_the_list_has_the_commands() -> None:
    """Without drawing anything."""
    run = subprocess.run(
        [sys.executable, "-m", "docs.picture", "--list", "heads", "methods/cmap"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines() == [
        "heads.svg",
        "    pytest-mechanism show circuits/entity_tracking.yaml --model-pair base,ft",
        "methods/cmap.svg    (spec: docs/methods/cmap.md)",
        "    pytest cmap.yaml --model-pair zoo:base,zoo:ft",
    ]


DRAWN: tuple[tuple[Picture, tuple[str, ...]], ...] = (
    (PICTURES["methods/cmap"], ("cmap.both_enhanced", "cmap.transmitter_enhanced")),
    (
        replace(PICTURES["methods/attention"], arguments="--model-pair zoo:base,zoo:ft --rows 70"),
        ("first layer in which it is blocked",),
    ),
)
"""A table, and a curve of few rows, with words of theirs."""


@pytest.mark.slow
@pytest.mark.parametrize(("picture", "words"), DRAWN, ids=("table", "curve"))
def test_the_command_draws_a_table_and_a_curve_again(
    picture: Picture, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the specs of the pages, without a change of the docs."""
    monkeypatch.setattr(sys, "executable", str(warm_python.script(tmp_path / "python")))
    (tmp_path / "work").mkdir()
    picture.draw(tmp_path / "work", tmp_path / "drawn.svg")
    drawn = (tmp_path / "drawn.svg").read_text("utf-8").replace("&#160;", " ")
    assert all(word in drawn for word in words)
