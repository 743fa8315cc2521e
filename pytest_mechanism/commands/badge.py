"""``pytest-mechanism badge RESULT.json``: a run as a badge."""

from __future__ import annotations

import argparse

from pytest_mechanism.commands.result import add_result, read_result, write


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "badge",
        help="draw a run as a badge (SVG): how many claims hold, or why that is not known",
        description="Draw a badge: green if the run ended well and every claim that blocks holds, red with the "
        "number of red claims, amber where nothing is decided, options left out claims about the candidate or a "
        "claim of 'severity: warn' does not hold, "
        "grey where the run gives no conclusion about the candidate.",
    )
    add_result(parser)
    parser.add_argument(
        "--label", default="mechanism", metavar="TEXT", help="its left half (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from pytest_mechanism.errors import visible
    from pytest_mechanism.report.badge import MARK, badge

    report, conclusion, _ = read_result(arguments.result, arguments.out, MARK)
    write(badge(report, conclusion, visible(arguments.label)), arguments.out, MARK)
    return 0
