"""Checkpoints and a runner for commands outside pytest: a pytest run's own, see `commands.config`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.trust import ALLOW_PICKLE, TRUST_REMOTE_CODE
from pytest_mechanism.commands.config import add_config_options, read_config
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.flags import DTYPES, NO_STORE, TRUSTS, option
from pytest_mechanism.options import Session, make_session
from pytest_mechanism.report.progress import command_progress
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.runner.options import ENGINES, QUANTIZE
from pytest_mechanism.runner.runner import Runner


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model`` or ``--model-pair``, and how models are run. What is not typed is taken from the
    ini keys of pytest's options."""
    parser.add_argument("--model", metavar="[LABEL=]REF", help="one checkpoint (role base)")
    parser.add_argument(
        "--model-pair",
        metavar="A,B",
        help="two checkpoints (roles base and ft); default: ini model_pair",
    )
    parser.add_argument(
        "--device",
        "--mechanism-device",
        help="cpu, cuda, cuda:N or auto (default: ini mechanism_device, or cpu)",
    )
    parser.add_argument(
        "--dtype",
        "--mechanism-dtype",
        choices=DTYPES,
        help="default: ini mechanism_dtype, or float32",
    )
    parser.add_argument(
        "--quantize",
        "--mechanism-quantize",
        choices=QUANTIZE,
        help="weights are quantised by bitsandbytes when loaded",
    )
    parser.add_argument(
        "--batch-size",
        "--mechanism-batch-size",
        metavar="ROWS",
        help="default: ini mechanism_batch_size, or 64",
    )
    parser.add_argument(
        "--engine",
        "--mechanism-engine",
        choices=ENGINES,
        help="branch recomputes what can have changed, reference everything (default: ini "
        "mechanism_engine, or branch)",
    )
    parser.add_argument(
        "--confidence",
        "--mechanism-confidence",
        metavar="LEVEL",
        help="of every interval, over what the specs say (default: ini mechanism_confidence)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of how far it is")
    parser.add_argument(
        "--store",
        "--mechanism-store",
        metavar="FOLDER",
        help="where measurements are remembered (default: ini mechanism_store, or pytest's cache)",
    )
    parser.add_argument("--mechanism-no-store", action="store_true", help=NO_STORE)
    add_trust_options(parser)
    add_config_options(parser)


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """As in pytest, under the same names."""
    for flag, text in zip((ALLOW_PICKLE, TRUST_REMOTE_CODE), TRUSTS.values(), strict=True):
        parser.add_argument(flag, action="store_true", help=text.replace("%", "%%"))


def add_further_models(parser: argparse.ArgumentParser) -> None:
    """``--mechanism-model``, as in pytest."""
    parser.add_argument(
        "--mechanism-model",
        metavar="ROLE=REF",
        action="append",
        default=[],
        help="a further checkpoint that a claim compares with, as in pytest",
    )


def paths_of(given: argparse.Namespace) -> Sequence[Path]:
    """The specs that a command is about: where pytest's ini file is looked for."""
    several = getattr(given, "specs", None)
    one = getattr(given, "spec", None)
    return several if several is not None else [] if one is None else [one]


def open_session(given: argparse.Namespace, config: pytest.Config | None = None) -> Session:
    """What a pytest run with these options would be about.

    Args:
        given: what was typed.
        config: that of `read_config`, where it has been read.

    Raises:
        MechanismError: no checkpoint was named, or one that cannot be resolved.
    """
    model, pair = getattr(given, "model", None), getattr(given, "model_pair", None)
    if model is not None and pair is not None:
        raise MechanismError("give one of --model REF and --model-pair A,B")
    config = config or read_config(given, paths_of(given))
    if model is None and option(config, "model_pair") is None:
        raise MechanismError(
            "give one of --model REF and --model-pair A,B, or set model_pair in the ini file"
        )
    session = make_session(config, model)
    session.progress = command_progress(getattr(given, "quiet", False))
    return session


def open_gate(given: argparse.Namespace) -> ClaimEvaluator:
    """The checkpoints of a command, behind a runner.

    Raises:
        MechanismError: none was named, or one that cannot be resolved.
    """
    return open_session(given).evaluator


def say_what_was_done(runner: Runner) -> None:
    """On stderr: how much was measured, and what the numbers have to be read with."""
    for note in (*runner.notes.values(), *runner.left_out.values()):
        if note:
            say(note, err=True)
    say(
        f"{runner.done} measurements made, {runner.from_store} taken from the store",
        err=True,
    )
