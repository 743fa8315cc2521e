"""``pytest-mechanism lint PATH ...``: check specs without loading a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import yaml

from pytest_mechanism.commands.config import add_config_options, read_config
from pytest_mechanism.commands.output import BAD_USE, say
from pytest_mechanism.commands.power import power_lines
from pytest_mechanism.commands.rare_words import rare_lines
from pytest_mechanism.commands.specs import read_spec_file, spec_files
from pytest_mechanism.errors import SpecError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "lint",
        help="check specs without loading a model",
        description="Check specs without loading a model.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="specs, or folders of specs"
    )
    parser.add_argument(
        "--resolved",
        action="store_true",
        help="print each spec with 'extends' followed and defaults filled in",
    )
    parser.add_argument(
        "--power",
        action="store_true",
        help="for each accepted score, print the probability that an unchanged model passes",
    )
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="print which words, labels and places stand in too few rows for a fault of them to be seen",
    )
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every problem of every spec, one a line; 0 if there are none, else 2.

    Raises:
        MechanismError: a path does not exist, or a folder holds no spec.
    """
    from pytest_mechanism.spec.load import SpecErrors

    config = read_config(arguments, arguments.paths)
    is_bad = False
    for path in spec_files(arguments.paths, config):
        try:
            spec = read_spec_file(path, config)
        except SpecError as error:
            is_bad = True
            for problem in error.problems if isinstance(error, SpecErrors) else [error]:
                say(problem, err=True)
            continue
        if arguments.resolved:
            text = yaml.safe_dump(spec.resolved(), sort_keys=False, default_flow_style=None)
            lines: Iterable[str] = text.splitlines()
        elif arguments.power:
            lines = power_lines(spec)
        elif arguments.coverage:
            lines = rare_lines(spec)
        else:
            items = sum(len(claim.roles()) for claim in spec.claims.values())
            lines = [f"{spec.path}: ok, {len(spec.claims)} claims, {items} tests"]
        for line in lines:
            say(line)
    return BAD_USE if is_bad else 0
