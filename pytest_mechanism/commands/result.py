"""What the commands that read a result file (``--mechanism-json``) share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import check_replaceable, remove_output, write_text

if TYPE_CHECKING:
    from pytest_mechanism.report.run_report import Conclusion, RunReport


def add_result(parser: argparse.ArgumentParser) -> None:
    """The result file, and where the output goes."""
    parser.add_argument(
        "result", type=Path, metavar="RESULT.json", help="what --mechanism-json wrote"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="write to this file (default: standard output)"
    )


def read_result(
    path: Path, out: Path | None = None, mark: str | None = None
) -> tuple[RunReport, Conclusion, dict[str, str]]:
    """The report, its conclusion and the library versions of a result file.

    Args:
        path: of the result file.
        out: where the output goes. An earlier one is removed first: where the result file is missing, it must not
            stand for this run.
        mark: as for `write`.

    Raises:
        MechanismError: the file is no result file, or damaged.
    """
    from pytest_mechanism.report.conclusion import conclude
    from pytest_mechanism.report.from_json import read_report

    if out is not None and mark is not None:
        remove_output(out, mark)
    report, versions = read_report(path)
    return report, report.conclusion or conclude(report), versions


def write(text: str, out: Path | None, mark: str | None) -> None:
    """Text to a file, or to standard output, line by line as `say` prints it.

    Args:
        text: of the output.
        out: the file, or None.
        mark: by which the first bytes of an earlier output are known, which may be replaced; None where none may.

    Raises:
        MechanismError: the file cannot be written, or is another file than an earlier output.
    """
    if out is None:
        for line in text.splitlines():
            say(line)
        return
    check_replaceable(out, mark)
    try:
        write_text(out, text)
    except OSError as problem:
        raise MechanismError(f"{out} cannot be written: {problem.strerror}") from None
