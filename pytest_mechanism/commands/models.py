"""The checkpoints of a command: its options, and the run that pytest would make with them."""

from __future__ import annotations

import argparse

import pytest

from pytest_mechanism.commands.config import add_config_options
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report.progress import command_progress
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.session import Session, make_session
from pytest_mechanism.settings.command_options import add_settings
from pytest_mechanism.settings.pytest_options import read
from pytest_mechanism.settings.table import MODEL_PAIR, OF_COMMANDS

NO_MODEL = "name the checkpoints: either --model REF or --model-pair A,B"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that measures models."""
    parser.add_argument(
        "--model", metavar="[LABEL=]REF", help="one checkpoint (role base), instead of a pair"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_settings(parser, OF_COMMANDS)
    add_config_options(parser)


def open_session(arguments: argparse.Namespace, config: pytest.Config) -> Session:
    """The run that pytest would make.

    Args:
        arguments: of `add_model_options`, as typed.
        config: pytest's configuration with these arguments.

    Raises:
        MechanismError: no checkpoint was named, or one that cannot be resolved.
    """
    if arguments.model is not None and arguments.model_pair is not None:
        raise MechanismError(NO_MODEL)
    if arguments.model is None and read(config, MODEL_PAIR) is None:
        raise MechanismError(f"{NO_MODEL}, or set {MODEL_PAIR.name} in the ini file")
    session = make_session(config, arguments.model)
    session.progress = command_progress(arguments.quiet)
    return session


def print_work(runner: Runner) -> None:
    """Print on standard error how much was measured, and what to read the numbers with."""
    for note in (*runner.notes.values(), *runner.left_out.values()):
        if note:
            say(note, err=True)
    say(
        f"{runner.done} measurements made, {runner.from_store} taken from the store",
        err=True,
    )
