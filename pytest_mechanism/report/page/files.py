"""The file of the page: which one may be replaced, and whether it can be written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import temporary_beside

MARK = b'<meta name="generator" content="pytest-mechanism '
"""Tells a page of ours from another file, in its first bytes."""

FIRST_BYTES = 2000


def is_page(path: Path) -> bool:
    """Whether a file is a page of ours, which a run may replace."""
    try:
        with path.open("rb") as file:
            return MARK in file.read(FIRST_BYTES)
    except OSError:
        return False


def remove_page(path: Path) -> None:
    """Remove the page of an earlier run: a run that writes none must not leave that one behind."""
    if is_page(path):
        with suppress(OSError):
            path.unlink()


def check_path(path: Path) -> None:
    """Check that a page can be written, without harm to another file.

    Raises:
        MechanismError: it cannot.
    """
    if path.is_dir():
        raise MechanismError(
            f"{path} cannot be written: is a folder; name a file, such as report.html"
        )
    if not path.parent.is_dir():
        raise MechanismError(f"{path} cannot be written: no such folder")
    if (path.exists() or path.is_symlink()) and not (path.is_file() and is_page(path)):
        raise MechanismError(
            f"{path} exists and is no report of pytest-mechanism, so it is not replaced; choose another "
            "path, or remove it"
        )
    try:
        with temporary_beside(path) as temporary:
            temporary.touch()
    except OSError as problem:
        raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
