"""Settings as pytest's options and ini keys, and their values in pytest's configuration."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_mechanism.checkpoints.fitting import AUTO, fit
from pytest_mechanism.checkpoints.trust import Trust
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.settings import table
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.settings.table import SETTINGS, Setting

T = TypeVar("T")

TURN = "MECHANISM_TURN"
"""The environment variable by which ``pytest-mechanism sweep`` numbers the gates that run side by side."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add one group to ``--help``; each option has an ini key of the same name."""
    group = parser.getgroup("mechanism", "what happens inside language models (pytest-mechanism)")
    for setting in SETTINGS:
        keywords = setting.keywords
        parser.addini(setting.name, setting.help, type=setting.ini, default=keywords["default"])
        if not setting.ini_only:
            group.addoption(setting.flag, dest=setting.name, help=setting.help, **keywords)


def read(config: pytest.Config, setting: Setting[T]) -> T:
    """The value of the option, else that of the ini key, else the default; empty means unset.

    Raises:
        MechanismError: the text makes no sense for this setting.
    """
    value = config.getoption(setting.name)
    if value is None or value is False:
        value = ini_value(config, setting)
    if value is None or value is False or value == "":
        return setting.default
    try:
        return setting.parse(str(value))
    except MechanismError as problem:
        raise setting.error(problem) from None


def ini_value(config: pytest.Config, setting: Setting[object]) -> Any:
    """What the ini key holds.

    Raises:
        MechanismError: it does not have the ini key's type.
    """
    try:
        return config.getini(setting.name)
    except (TypeError, ValueError, pytest.UsageError) as problem:
        if setting.ini == "int" and str(problem).endswith(repr(AUTO)):
            return AUTO  # the only word that may stand for a number
        raise MechanismError(f"ini {setting.name}: {problem}") from None


def check_settings(config: pytest.Config) -> None:
    """Read every setting.

    Raises:
        MechanismError: the value of one of them makes no sense.
    """
    for setting in SETTINGS:
        if setting.ini == "linelist":
            ini_value(config, setting)
        else:
            read(config, setting)


def read_trust(config: pytest.Config) -> Trust:
    """What the user allows checkpoints to do."""
    return Trust(*(read(config, setting) for setting in table.TRUST))


def model_options(config: pytest.Config, folders: Iterable[Path] = ()) -> ModelOptions:
    """How models run.

    Args:
        config: pytest's configuration.
        folders: of the checkpoints, on which what is left to the machine depends.
    """
    quantize = read(config, table.QUANTIZE)
    fitted = fit(
        read(config, table.DEVICE),
        read(config, table.DTYPE),
        read(config, table.BATCH_SIZE),
        folders,
        quantizes=quantize is not None,
    )
    return ModelOptions(
        device=fitted.device,
        dtype=fitted.dtype,
        batch_size=fitted.batch_size,
        engine=read(config, table.ENGINE),
        quantize=quantize,
        trust=read_trust(config),
        turn=read_turn(config),
    )


def read_turn(config: pytest.Config) -> int:
    """The number of this process among those that share the machine: of a worker of xdist (``gw3``), or of a
    gate that ``pytest-mechanism sweep`` started; else 0."""
    worker = str(getattr(config, "workerinput", {}).get("workerid", ""))
    number = worker.removeprefix("gw") or os.environ.get(TURN, "")
    return int(number) if number.isascii() and number.isdigit() else 0


# -- paths


def read_path(config: pytest.Config, setting: Setting[str | None]) -> Path | None:
    """A setting's path; see `base_folder` for relative ones.

    Raises:
        MechanismError: it begins with the home folder of nobody.
    """
    if (text := read(config, setting)) is None:
        return None
    try:
        return base_folder(config, setting) / Path(text).expanduser()
    except RuntimeError:
        raise setting.error(MechanismError(f"{text}: there is no such home folder")) from None


def base_folder(config: pytest.Config, setting: Setting[object]) -> Path:
    """What a relative path in a setting is relative to: the ini file's folder if that file holds it
    (as a key or in ``addopts``), the working directory if it was typed."""
    working_directory = config.invocation_params.dir
    typed = typed_arguments(config)
    if has_flag(setting, typed):
        return working_directory
    if config.getoption(setting.name, None) in (None, []):
        override = rf"(-o|--override-ini=)?{setting.name}\s*="
        if any(re.match(override, argument) for argument in typed):
            return working_directory
    elif not has_flag(setting, config.getini("addopts")):
        return working_directory  # from a file of arguments (@FILE), or from a conftest
    return ini_folder(config)


def ini_folder(config: pytest.Config) -> Path:
    """The folder of the ini file, or the rootdir if there is none."""
    return config.rootpath if config.inipath is None else config.inipath.parent


def is_typed(config: pytest.Config, setting: Setting[object]) -> bool:
    """Whether the option stands on the command line, and not in an ini file for all runs."""
    return has_flag(setting, typed_arguments(config))


def typed_arguments(config: pytest.Config) -> list[str]:
    """The arguments of the command line and of ``PYTEST_ADDOPTS``."""
    arguments = [*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    return list(map(str, arguments))


def has_flag(setting: Setting[object], arguments: Sequence[str]) -> bool:
    """Whether the arguments give a value to a setting's option."""
    flag = setting.flag
    return any(text == flag or text.startswith(f"{flag}=") for text in arguments)
