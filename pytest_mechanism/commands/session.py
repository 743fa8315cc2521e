"""Checkpoints and a runner for commands outside pytest; the store is pytest's own."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.reference import (
    Reference,
    further,
    parse_pair,
    parse_reference,
)
from pytest_mechanism.checkpoints.trust import ALLOW_PICKLE, TRUST_REMOTE_CODE, Trust
from pytest_mechanism.commands.say import say
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.flags import TRUSTS
from pytest_mechanism.report.progress import command_progress
from pytest_mechanism.runner.cases import Gate
from pytest_mechanism.runner.options import QUANTIZE, Options
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.store import Store

STORE = Path(".pytest_cache/d/mechanism")


def add_model_options(parser: argparse.ArgumentParser, pair_only: bool = False) -> None:
    """``--model`` or ``--model-pair``, and how models are run."""
    if not pair_only:
        parser.add_argument("--model", metavar="[LABEL=]REF", help="one checkpoint (role base)")
    parser.add_argument("--model-pair", metavar="A,B", help="two checkpoints (roles base and ft)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:N or auto")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "float64", "bfloat16", "float16"]
    )
    parser.add_argument(
        "--quantize", choices=QUANTIZE, help="weights are quantised by bitsandbytes when loaded"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="ROWS")
    parser.add_argument(
        "--engine",
        default="branch",
        choices=["branch", "reference"],
        help="branch (default) recomputes what can have changed, reference everything",
    )
    parser.add_argument(
        "--store", type=Path, default=STORE, metavar="FOLDER", help=f"default: {STORE}"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of how far it is")
    add_trust_options(parser)


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """As in pytest, under the same names."""
    for flag, text in zip((ALLOW_PICKLE, TRUST_REMOTE_CODE), TRUSTS.values(), strict=True):
        parser.add_argument(flag, action="store_true", help=text.replace("%", "%%"))


def trust(given: argparse.Namespace) -> Trust:
    """What was allowed on the command line, or in the ini keys of the same names."""
    said = ini(Path.cwd())
    return Trust(*(bool(getattr(given, name, False) or said.get(name) is True) for name in TRUSTS))


def add_further_models(parser: argparse.ArgumentParser) -> None:
    """``--mechanism-model``, as in pytest."""
    parser.add_argument(
        "--mechanism-model",
        metavar="ROLE=REF",
        action="append",
        default=[],
        help="a further checkpoint that a claim compares with, as in pytest",
    )


def open_gate(given: argparse.Namespace) -> Gate:
    """The checkpoints named on the command line, behind a runner.

    Raises:
        MechanismError: none was named, or one that cannot be resolved.
    """
    root, aliases, trusted = Path.cwd(), ini_aliases(Path.cwd()), trust(given)
    references: dict[str, Reference]
    model = getattr(given, "model", None)
    if (model is None) == (given.model_pair is None):
        raise MechanismError("give one of --model REF and --model-pair A,B")
    if model is not None:
        references = {"base": parse_reference(model, aliases, root, trusted)}
    else:
        base, ft = parse_pair(given.model_pair, aliases, root, trusted)
        references = {"base": base, "ft": ft}
    for role, text in further(getattr(given, "mechanism_model", ())).items():
        references[role] = parse_reference(text, aliases, root, trusted)
    store = Store(given.store)
    memory = given.store / "fingerprints.json"
    runner = Runner(
        references,
        {role: of_reference(ref, memory) for role, ref in references.items()},
        Options(
            given.device,
            given.dtype,
            given.batch_size,
            given.engine,
            getattr(given, "quantize", None),
            trusted,
        ),
        store,
        command_progress(getattr(given, "quiet", False)),
    )
    return Gate.over(runner)


def say_what_was_done(runner: Runner) -> None:
    """On stderr: how much was measured, and what the numbers have to be read with."""
    for note in (*runner.notes.values(), *runner.left_out.values()):
        if note:
            say(note, err=True)
    say(
        f"{runner.done} measurements made, {runner.from_store} taken from the store",
        err=True,
    )


def ini_aliases(folder: Path) -> dict[str, str]:
    """``mechanism_models`` of the pyproject.toml here, if there is one."""
    lines = ini(folder).get("mechanism_models", [])
    parts = [str(line).partition("=") for line in lines]
    return {name.strip(): reference.strip() for name, equals, reference in parts if equals}


def ini(folder: Path) -> dict[str, Any]:
    """``[tool.pytest]`` of the pyproject.toml here, if there is one."""
    try:
        content: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        found = content.get("tool", {}).get("pytest", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
