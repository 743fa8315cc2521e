"""``pytest-mechanism metrics RESULT.json``: a run as an OpenMetrics text file."""

from __future__ import annotations

import argparse

from pytest_mechanism.commands.result import add_result, read_result, write


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "metrics",
        help="print a run's scores as OpenMetrics, for GitLab's merge requests",
        description="Print an OpenMetrics text file: each judged score with the ends of its interval, the number "
        "of claims with each verdict, and whether the run is complete and green. GitLab shows what changed in a "
        "merge request (artifacts:reports:metrics).",
    )
    add_result(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from pytest_mechanism.report.metrics import MARK, metrics

    report, conclusion, _ = read_result(arguments.result, arguments.out, MARK)
    write(metrics(report, conclusion), arguments.out, MARK)
    return 0
