"""The options of a command: pytest's own, read by pytest, so that both look at the same run.

The ini file and the rootdir are looked for as ``pytest SPEC`` does it, ``addopts`` and
``PYTEST_ADDOPTS`` count, and what is typed after the command goes before both. Other plugins and
conftest files are not loaded: their options are passed over.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_mechanism.errors import MechanismError, first_line

FLAGS = {
    "model_pair": "--model-pair",
    "device": "--mechanism-device",
    "dtype": "--mechanism-dtype",
    "quantize": "--mechanism-quantize",
    "batch_size": "--mechanism-batch-size",
    "engine": "--mechanism-engine",
    "confidence": "--mechanism-confidence",
    "store": "--mechanism-store",
}
"""A command's option -> pytest's."""

SWITCHES = {
    "mechanism_allow_pickle": "--mechanism-allow-pickle",
    "mechanism_trust_remote_code": "--mechanism-trust-remote-code",
    "mechanism_no_store": "--mechanism-no-store",
}

OWN = (
    "--disable-plugin-autoload",
    "--noconftest",
    "--override-ini=required_plugins=",
    "-p",
    "pytest_mechanism.plugin.hooks",
)
"""No other plugin takes part, and none is asked for."""

PARTS = ("main", "helpconfig", "cacheprovider")
"""Plugins of pytest's own that know the options which matter here."""


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Which ini file counts, as in pytest."""
    parser.add_argument("-c", "--config-file", metavar="FILE", help="the ini file, as in pytest")
    parser.add_argument("--rootdir", metavar="FOLDER", help="as in pytest")
    parser.add_argument(
        "-o",
        "--override-ini",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="over a key of the ini file, as in pytest",
    )


def read_config(given: argparse.Namespace, paths: Iterable[Path] = ()) -> pytest.Config:
    """pytest's configuration, as ``pytest PATHS`` would have it.

    Args:
        given: what was typed.
        paths: the specs that the command is about.

    Raises:
        MechanismError: pytest would not start either.
    """
    typed = [*_typed(given), *_flags(given), *map(str, paths)]
    manager = pytest.PytestPluginManager()
    about = pytest.Config.InvocationParams(args=typed, plugins=None, dir=Path.cwd())
    try:
        config = pytest.Config(manager, invocation_params=about)
        for name in PARTS:
            manager.import_plugin(name)
        manager.register(_OtherPeoplesOptions())
        config.parse([*OWN, *typed])
    except (pytest.UsageError, ImportError, ValueError, OSError) as problem:
        raise MechanismError(f"pytest's configuration: {first_line(problem)}") from None
    except Exception as problem:  # a plugin that addopts name (-p) may raise whatever it likes
        raise MechanismError(f"pytest's configuration: {first_line(problem)}") from None
    if (cache := manager.get_plugin("cacheprovider")) is not None:
        config.option.cacheclear = False  # a look clears nothing
        cache.pytest_configure(config)
    return config


class _OtherPeoplesOptions:
    """Takes out of the arguments what only plugins know that are not loaded."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(
        self, early_config: pytest.Config, parser: pytest.Parser, args: list[str]
    ) -> None:
        _, unknown = parser.parse_known_and_unknown_args(args)
        args[:] = [each for each in args if each not in unknown]


def _typed(given: argparse.Namespace) -> list[str]:
    """Which ini file, and what goes over it."""
    found = [f"--override-ini={each}" for each in getattr(given, "override_ini", ())]
    if (file := getattr(given, "config_file", None)) is not None:
        found += ["-c", str(file)]
    if (rootdir := getattr(given, "rootdir", None)) is not None:
        found.append(f"--rootdir={rootdir}")
    return found


def _flags(given: argparse.Namespace) -> list[str]:
    """Options of a checkpoint and of a run, under pytest's names."""
    found = [
        f"{flag}={value}"
        for name, flag in FLAGS.items()
        if (value := getattr(given, name, None)) is not None
    ]
    found += [flag for name, flag in SWITCHES.items() if getattr(given, name, False)]
    found += [f"--mechanism-model={each}" for each in getattr(given, "mechanism_model", None) or ()]
    return found
