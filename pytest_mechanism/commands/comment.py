"""``pytest-mechanism comment RESULT.json``: a run as the comment on a pull request."""

from __future__ import annotations

import argparse
import re

from pytest_mechanism.commands.result import add_result, read_result, write


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "comment",
        help="print a run's conclusion, red claims and table as a comment for a pull request",
        description="Print the Markdown of a pull-request comment: the conclusion, the red claims with their "
        "reasons, and the table of all claims. Its first line is a hidden marker, by which a workflow replaces "
        "the comment of an earlier push.",
    )
    add_result(parser)
    parser.add_argument(
        "--key",
        type=a_key,
        default="",
        metavar="NAME",
        help="a name for the marker, where several gates comment on one pull request",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from pytest_mechanism.report.comment import MARKER, comment

    report, conclusion, _ = read_result(arguments.result, arguments.out, MARKER)
    write(comment(report, conclusion, arguments.key), arguments.out, MARKER)
    return 0


def a_key(text: str) -> str:
    """A key that stands in an HTML comment and in a query of a workflow as it is.

    Raises:
        argparse.ArgumentTypeError: it has other characters.
    """
    if text and re.fullmatch(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*", text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name: letters, digits, '_', '.' and single '-' between them"
        )
    return text
