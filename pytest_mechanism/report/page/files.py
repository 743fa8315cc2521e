"""The file of the page: which one may be replaced, and whether it can be written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import begins_with_mark, check_replaceable, temporary_beside

MARK = '<meta name="generator" content="pytest-mechanism '
"""Tells a page of ours from another file, in its first bytes."""


def remove_page(path: Path) -> None:
    """Remove the page of an earlier run: a run that writes none must not leave that one behind."""
    if begins_with_mark(path, MARK):
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
    check_replaceable(path, MARK)
    try:
        with temporary_beside(path) as temporary:
            temporary.touch()
    except OSError as problem:
        raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
