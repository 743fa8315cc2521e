"""A progress line with time left, on an interactive terminal; nothing otherwise."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pytest_mechanism.runner.runner import Progress, Silent


def terminal_progress(config: pytest.Config) -> Progress:
    """A bar where somebody watches, silence in CI and under xdist."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    watched = reporter is not None and reporter.isatty and not hasattr(config, "workerinput")
    return TerminalProgress(config) if watched else Silent()


class TerminalProgress:
    """tqdm, written past pytest's capture."""

    def __init__(self, config: pytest.Config) -> None:
        self.capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self.bar: Any = None

    def start(self, label: str, total: int) -> None:
        from tqdm import tqdm

        with self.capture.global_and_fixture_disabled():
            sys.stderr.write("\n")
            self.bar = tqdm(
                total=total,
                desc=label,
                unit="row",
                leave=False,
                file=sys.__stderr__,
                mininterval=0.5,
                bar_format="{desc}: {percentage:3.0f}% |{bar:30}| {elapsed} gone, {remaining} left",
            )

    def advance(self, rows: int) -> None:
        if self.bar is not None:
            with self.capture.global_and_fixture_disabled():
                self.bar.update(min(rows, self.bar.total - self.bar.n))

    def finish(self) -> None:
        if self.bar is not None:
            with self.capture.global_and_fixture_disabled():
                self.bar.close()
            self.bar = None
