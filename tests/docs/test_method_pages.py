"""The pages of docs/methods: their specs are valid, their commands do what they say, their pictures exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import ROOT, blocks, run_page

from pytest_mechanism.spec.load import load

FOLDER = ROOT / "docs" / "methods"
INDEX = FOLDER / "README.md"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)


def by_name(path: Path) -> str:
    return path.stem


def test_the_index_lists_every_page_once() -> None:
    """The first column of the table links to the pages."""
    linked = re.findall(r"^\| \[[^]]+\]\(([\w-]+\.md)\)", INDEX.read_text("utf-8"), re.MULTILINE)
    assert sorted(linked) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_spec_of_a_page_is_valid_and_has_a_file(page: Path, tmp_path: Path) -> None:
    """A page has at least one spec, and `lint` accepts each."""
    specs = [block for block in blocks(page.read_text("utf-8")) if block.language == "yaml"]
    assert specs
    for block in specs:
        path = tmp_path / block.options["file"]
        path.write_text(block.text)
        assert load(path).claims


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=by_name)
def test_what_a_page_names_exists(page: Path) -> None:
    """Its pictures, the pages and files that it links to, and the code that it names."""
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    files = re.findall(r"`((?:pytest_mechanism|tests|docs|circuits)/[\w./-]+)`", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_page_shows_a_picture(page: Path) -> None:
    """Each method has one from the embedded models."""
    assert re.search(
        r"^!\[[^]]+\]\((?:\.\./)?[\w-]+\.svg\)$", page.read_text("utf-8"), re.MULTILINE
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_the_commands_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    """Each exits as the page says, in an empty folder."""
    ran = list(run_page(page, tmp_path, limit=900))
    assert [command.command for command in ran if command.status != command.wanted] == []
    assert ran
