"""ARCHITECTURE.md names every file and only files that exist."""

from __future__ import annotations

import re
import sys

import pytest
from blocks import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import file_map

PACKAGE = ROOT / "pytest_mechanism"


def test_the_list_of_files_is_that_of_the_docstrings() -> None:
    """``python docs/file_map.py`` writes it."""
    assert file_map.PAGE.read_text("utf-8") == file_map.page()


def test_every_file_has_a_sentence() -> None:
    """The sentence describes the file."""
    files = [path for path in PACKAGE.rglob("*.py") if path.read_text("utf-8").strip()]
    assert [str(path) for path in files if not file_map.first_sentence(path)] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_that_the_page_names_exists(page: str) -> None:
    """In the package or the repository; a bare file name may be anywhere in the package."""
    known = {path.name for path in PACKAGE.rglob("*.py")}
    known |= {f"{path.parent.name}/" for path in PACKAGE.rglob("*.py")}
    known |= {"NAME.py", "measurements/NAME.py", "dist/"}  # of what a reader will write or build
    text = (ROOT / page).read_text("utf-8").split(file_map.HEADING)[0]
    named = set(re.findall(r"`([\w./]+(?:\.py|/))`", text))
    missing = [
        name
        for name in named - known
        if not (PACKAGE / name).exists() and not (ROOT / name).exists()
    ]
    assert named
    assert missing == []
