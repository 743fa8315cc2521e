"""Command-line options and ini keys: their names, help and values."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_mechanism.errors import MechanismError, choices

if TYPE_CHECKING:
    from pytest_mechanism.checkpoints.trust import Trust

DTYPES = ("float32", "float64", "bfloat16", "float16")

FLAGS: tuple[tuple[str, str | None, str], ...] = (
    (
        "model_pair",
        "[LABEL=]REF,[LABEL=]REF",
        "the two checkpoints: first is base, second is ft; "
        "a reference is an alias (ini mechanism_models), a folder, hf:ORG/NAME@REVISION or zoo:NAME, "
        "each perhaps with +ADAPTER",
    ),
    (
        "mechanism_device",
        "DEVICE",
        "cpu (default), cuda, cuda:N, or auto (layers are spread over all GPUs, and what they cannot "
        "hold over memory and disk)",
    ),
    ("mechanism_dtype", "DTYPE", f"{', '.join(DTYPES)} (default float32)"),
    (
        "mechanism_quantize",
        "BITS",
        "8bit or 4bit: weights are quantised by bitsandbytes when loaded",
    ),
    ("mechanism_batch_size", "ROWS", "prompts in one forward pass (default 64)"),
    (
        "mechanism_engine",
        "ENGINE",
        "branch (default: recomputes what can have changed) or reference (one full forward for "
        "every variant: slow, and obviously right)",
    ),
    ("mechanism_confidence", "LEVEL", "of every interval, over what the specs say (they: 0.95)"),
    ("mechanism_store", "FOLDER", "where measurements are remembered (default: pytest's cache)"),
    ("mechanism_json", "PATH", "write every claim's verdict, score and interval to a JSON file"),
)

NO_STORE = "measure everything anew and remember nothing, for release builds"
REQUIRE_ACCEPTED = (
    "a claim whose score nobody has accepted is red, whatever its verdict, and so is one that is "
    "skipped although it has an accepted score; --snapshot-update accepts scores"
)
NO_SKIPS = "a claim that is skipped is red, whatever skips it: applies_to, a mark, a fixture, xfail"
TRUSTS = {
    "mechanism_allow_pickle": "load pickled weights too (*.bin), where a folder has no safetensors; "
    "tensors are taken from them and nothing else",
    "mechanism_trust_remote_code": "run the modelling code that a checkpoint brings (auto_map in its "
    "config.json), with your rights",
}
"""Off unless the user says so."""

NUMBERS: dict[str, Literal["int", "float"]] = {
    "mechanism_batch_size": "int",
    "mechanism_confidence": "float",
}
"""Ini keys that TOML writes without quotes."""


def add_options(parser: pytest.Parser) -> None:
    """One group in ``--help``; each flag has an ini key of the same name."""
    group = parser.getgroup("mechanism", "what happens inside language models (pytest-mechanism)")
    for name, metavar, text in FLAGS:
        group.addoption(
            f"--{name.replace('_', '-')}", dest=name, metavar=metavar, default=None, help=text
        )
        parser.addini(name, text, type=NUMBERS.get(name, "string"), default=None)
    group.addoption(
        "--mechanism-model",
        dest="mechanism_model",
        metavar="ROLE=[LABEL=]REF",
        action="append",
        default=[],
        help="a further checkpoint that a claim needs, such as control=./never_trained",
    )
    parser.addini("mechanism_model", "further checkpoints, one ROLE=REF a line", type="linelist")
    switches = {
        "mechanism_no_store": NO_STORE, "mechanism_require_accepted": REQUIRE_ACCEPTED,
        "mechanism_no_skips": NO_SKIPS, **TRUSTS,
    }  # fmt: skip
    for name, text in switches.items():
        group.addoption(
            f"--{name.replace('_', '-')}", dest=name, action="store_true", default=False, help=text
        )
        parser.addini(name, text, type="bool", default=False)
    parser.addini(
        "mechanism_models", "aliases for --model-pair, one NAME = REFERENCE a line", type="linelist"
    )


def option(config: pytest.Config, name: str) -> str | None:
    """Flag before ini key; empty is unset.

    Raises:
        MechanismError: an ini key that is a number holds something else.
    """
    value = config.getoption(name)
    if value is None:
        try:
            value = config.getini(name)
        except (TypeError, ValueError, pytest.UsageError) as problem:
            raise MechanismError(f"ini {name}: {problem}") from None
    return str(value) if value not in (None, "") else None


def trust(config: pytest.Config) -> Trust:
    """What the user lets checkpoints do.

    Raises:
        MechanismError: an ini key is no truth value.
    """
    from pytest_mechanism.checkpoints.trust import Trust

    return Trust(*(switch(config, name) for name in TRUSTS))


def switch(config: pytest.Config, name: str) -> bool:
    """Whether something is on, by flag or ini key.

    Raises:
        MechanismError: an ini key is no truth value.
    """
    try:
        return bool(config.getoption(name) or config.getini(name))
    except (TypeError, ValueError, pytest.UsageError) as problem:
        raise MechanismError(f"ini {name}: {problem}") from None


def path_option(config: pytest.Config, name: str) -> Path | None:
    """A path, see `seen_from`."""
    if (given := option(config, name)) is None:
        return None
    return seen_from(config, name) / Path(given).expanduser()


def seen_from(config: pytest.Config, name: str) -> Path:
    """What a relative path in an option is relative to: the ini file's folder where that file has it
    (as a key or in ``addopts``), the working directory where it was typed."""
    here = config.invocation_params.dir
    flag = f"--{name.replace('_', '-')}"
    typed = [*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    if gives(flag, typed):
        return here
    given = config.getoption(name, None)
    if given in (None, []):
        if any(re.match(rf"(-o|--override-ini=)?{name}\s*=", each) for each in typed):
            return here
    elif not gives(flag, config.getini("addopts")):
        return here  # by a file of arguments (@FILE), or by a conftest
    return ini_folder(config)


def ini_folder(config: pytest.Config) -> Path:
    """The folder of the ini file, or the rootdir where there is none."""
    return config.rootpath if config.inipath is None else config.inipath.parent


def gives(flag: str, arguments: Sequence[str]) -> bool:
    """Whether arguments give a value to a flag."""
    return any(each == flag or each.startswith(f"{flag}=") for each in map(str, arguments))


def check_values(config: pytest.Config) -> None:
    """Options that are numbers or one of a list."""
    if (dtype := option(config, "mechanism_dtype")) is not None and dtype not in DTYPES:
        raise MechanismError(f"--mechanism-dtype: no dtype {dtype!r}; {choices(dtype, DTYPES)}")
    if (engine := option(config, "mechanism_engine")) is not None:
        from pytest_mechanism.runner.options import ENGINES

        if engine not in ENGINES:
            raise MechanismError(
                f"--mechanism-engine: no engine {engine!r}; {choices(engine, ENGINES)}"
            )
    from pytest_mechanism.runner.options import check_device, check_quantize

    for name, check in (("mechanism_device", check_device), ("mechanism_quantize", check_quantize)):
        if (given := option(config, name)) is not None:
            try:
                check(given)
            except MechanismError as problem:
                flag = f"--{name.replace('_', '-')}"
                raise MechanismError(f"{flag}: {problem.message}") from None
    size = option(config, "mechanism_batch_size") or "64"
    if not decimal(size) or not 1 <= int(size) <= 1_000_000:
        raise MechanismError(f"--mechanism-batch-size: {size!r} is no number of rows above 0")
    from pytest_mechanism.fields.thresholds import LEAST_CONFIDENCE

    confidence = option(config, "mechanism_confidence") or "0.95"
    try:
        sensible = LEAST_CONFIDENCE <= float(confidence) < 1
    except ValueError:
        sensible = False
    if not sensible:
        raise MechanismError(
            f"--mechanism-confidence: {confidence!r} does not lie between {LEAST_CONFIDENCE:g} and 1"
        )


def decimal(text: str) -> bool:
    """Digits 0 to 9 and nothing else (``isdigit`` alone takes superscripts)."""
    return text.isascii() and text.isdigit()
