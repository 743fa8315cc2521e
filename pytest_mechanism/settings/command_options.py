"""Settings as options of commands: pytest's names, with short forms beside them.

A command turns what was typed into pytest's own arguments (`pytest_arguments`), so that pytest reads
both and both look at the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pytest_mechanism.settings.table import SETTINGS, Setting


def add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting[object]]) -> None:
    """Add a group of options, each under its long name and its short form."""
    group = parser.add_argument_group(
        "settings",
        "The same as pytest's. The ini file can set them too, for example model_pair = A,B.",
    )
    for setting in settings:
        flags = [setting.flag, setting.short_flag] if setting.short_flag else [setting.flag]
        group.add_argument(*flags, dest=setting.name, help=setting.help, **setting.keywords)


def pytest_arguments(arguments: argparse.Namespace) -> list[str]:
    """The settings that were typed after a command, as pytest's arguments."""
    typed: list[str] = []
    for setting in SETTINGS:
        value = getattr(arguments, setting.name, None)
        if isinstance(value, bool):
            typed += [setting.flag] * value
        elif value is not None:
            texts = value if isinstance(value, list) else [value]
            typed += [f"{setting.flag}={text}" for text in texts]
    return typed
