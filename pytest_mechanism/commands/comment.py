"""``pytest-mechanism comment RESULT.json``: a run as the comment on a pull request."""

from __future__ import annotations

import argparse

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
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from pytest_mechanism.report.comment import MARKER, comment

    report, conclusion, _ = read_result(arguments.result)
    write(comment(report, conclusion), arguments.out, MARKER)
    return 0
