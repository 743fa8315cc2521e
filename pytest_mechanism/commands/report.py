"""``pytest-mechanism report RESULT.json --html PAGE.html``: the page of a run, from its result file.

A result file holds every number of the run and no picture of its circuit: those come from measurements, which
``--mechanism-report`` draws during the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError

MISSING = (
    "A result file holds no heat maps, no graph and no curves: the run itself draws them, with "
    "--mechanism-report."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="write the page of a run from its result file",
        description="Write the page that --mechanism-report writes, from the result file of a run "
        "(--mechanism-json). The page lacks the pictures of the circuit and the curves.",
    )
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="a result file")
    parser.add_argument(
        "--html", type=Path, required=True, metavar="PAGE.html", help="the page to be written"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page; always 0, whatever the run found.

    Raises:
        MechanismError: no result file, or the page cannot be written.
    """
    from pytest_mechanism.files import write_text
    from pytest_mechanism.report.from_json import read_report
    from pytest_mechanism.report.page.files import check_path, remove_page
    from pytest_mechanism.report.page.html_page import rendered
    from pytest_mechanism.report.page.view import SpecView

    try:
        check_path(arguments.html)
    except MechanismError as problem:
        raise MechanismError(f"--html: {problem.message}") from None
    remove_page(
        arguments.html
    )  # where there is no result, an earlier page must not stand for this run
    report, versions = read_report(arguments.result)
    circuits = dict.fromkeys(claim.circuit for claim in report.claims)
    specs = [SpecView(circuit, (), (MISSING,)) for circuit in circuits]
    write_text(arguments.html, rendered(report, versions, specs))
    say(f"wrote {arguments.html}")
    return 0
