"""The file of the page: which one may be replaced, and whether it can be written."""

from __future__ import annotations

from pathlib import Path

from pytest_mechanism.files import check_output, remove_output

MARK = '<meta name="generator" content="pytest-mechanism '
"""Tells a page of ours from another file, in its first bytes."""


def remove_page(path: Path) -> None:
    """Remove the page of an earlier run."""
    remove_output(path, MARK)


def check_path(path: Path) -> None:
    """Check that a page can be written, without harm to another file.

    Raises:
        MechanismError: it cannot.
    """
    check_output(path, MARK)
