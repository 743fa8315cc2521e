"""pytest's configuration as a command reads it, so that both look at the same run.

pytest itself reads it: the ini file and the rootdir are those of ``pytest SPEC``, ``addopts`` and
``PYTEST_ADDOPTS`` count, and what is typed after the command overrides both. Other plugins and
conftest files are not loaded; their options are ignored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_mechanism.errors import MechanismError, first_line
from pytest_mechanism.settings import pytest_options
from pytest_mechanism.settings.command_options import pytest_arguments

ISOLATION = ("--disable-plugin-autoload", "--noconftest", "--override-ini=required_plugins=")
"""pytest's arguments that keep other plugins out."""

PARTS = ("main", "helpconfig", "cacheprovider")
"""pytest's own plugins whose options matter here."""

PLUGIN, PLUGIN_MODULE = "mechanism", "pytest_mechanism.plugin.hooks"
"""The names of our plugin in ``-p``: its entry point, and its module."""


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add pytest's options that choose an ini file and override its keys."""
    group = parser.add_argument_group("configuration", "The same as pytest's.")
    group.add_argument("-c", "--config-file", metavar="FILE", help="the ini file")
    group.add_argument(
        "--rootdir",
        metavar="FOLDER",
        help="pytest's root folder; paths of specs in the output are relative to it",
    )
    group.add_argument(
        "-o",
        "--override-ini",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the ini file",
    )


def read_config(arguments: argparse.Namespace, paths: Iterable[Path] = ()) -> pytest.Config:
    """pytest's configuration, as ``pytest PATHS`` would have it.

    Args:
        arguments: what was typed after the command.
        paths: the specs that the command is about.

    Raises:
        MechanismError: pytest would not start either.
    """
    typed = [*config_arguments(arguments), *pytest_arguments(arguments), *map(str, paths)]
    manager = pytest.PytestPluginManager()
    parameters = pytest.Config.InvocationParams(args=typed, plugins=None, dir=Path.cwd())
    try:
        config = pytest.Config(manager, invocation_params=parameters)
        for name in PARTS:
            manager.import_plugin(name)
        manager.register(pytest_options, PLUGIN)
        manager.register(
            object(), PLUGIN_MODULE
        )  # of the plugin, a command needs the options alone
        manager.register(_UnknownOptions())
        config.parse([*ISOLATION, *typed])
    except Exception as problem:  # a plugin that addopts loads (-p) may raise anything
        raise MechanismError(f"pytest's configuration: {first_line(problem)}") from None
    if (cache := manager.get_plugin("cacheprovider")) is not None:
        config.option.cacheclear = False  # a command clears nothing
        cache.pytest_configure(config)
    return config


class _UnknownOptions:
    """Removes the options of plugins that are not loaded from the arguments."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(
        self, early_config: pytest.Config, parser: pytest.Parser, args: list[str]
    ) -> None:
        _, unknown = parser.parse_known_and_unknown_args(args)
        args[:] = [argument for argument in args if argument not in unknown]


def config_arguments(arguments: argparse.Namespace) -> list[str]:
    """The options of `add_config_options` that were typed, as pytest's arguments."""
    typed = [f"--override-ini={text}" for text in getattr(arguments, "override_ini", ())]
    if (file := getattr(arguments, "config_file", None)) is not None:
        typed += ["-c", str(file)]
    if (rootdir := getattr(arguments, "rootdir", None)) is not None:
        typed.append(f"--rootdir={rootdir}")
    return typed
