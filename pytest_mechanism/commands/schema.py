"""``pytest-mechanism schema``: a JSON Schema of specs, for editors."""

from __future__ import annotations

import argparse
import json

from pytest_mechanism.commands.output import say


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("schema", help="print a JSON Schema of specs, for editors")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; always 0."""
    from pytest_mechanism.spec.schema import schema

    for line in json.dumps(schema(), indent=1).splitlines():
        say(line)
    return 0
