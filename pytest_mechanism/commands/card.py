"""``pytest-mechanism card RESULT.json``: a run as a section of the candidate's model card."""

from __future__ import annotations

import argparse

from pytest_mechanism.commands.result import add_result, read_result, write


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "card",
        help="print a run as a section of the candidate's model card, with the hub's metadata",
        description="Print a section for the candidate's model card: its judged scores as the hub's metadata "
        "(model-index), the conclusion and the table. A red run gives a card that says so; a run without a "
        "judged claim about the candidate gives none.",
    )
    add_result(parser)
    parser.add_argument(
        "--name", metavar="TEXT", help="the model's name (default: the candidate's label)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from pytest_mechanism.errors import MechanismError
    from pytest_mechanism.report.card import card

    report, conclusion, versions = read_result(arguments.result)
    if not {"base", "ft"} <= set(report.checkpoints):
        raise MechanismError(f"{arguments.result}: the run had no pair of checkpoints, so no card")
    name = arguments.name or report.checkpoints["ft"].label
    text = card(report, conclusion, name, versions.get("pytest-mechanism", "unknown"))
    write(text, arguments.out, None)  # a model card with such a section has text of its author too
    return 0
