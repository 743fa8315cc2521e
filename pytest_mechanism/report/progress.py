"""A progress line with time left, on an interactive terminal; nothing otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from pytest_mechanism.runner.progress import Progress, Silent


def terminal_progress(config: pytest.Config) -> Progress:
    """A bar where somebody watches, silence in CI and under xdist."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty or hasattr(config, "workerinput"):
        return Silent()
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    return Bar(capture.global_and_fixture_disabled if capture is not None else nullcontext)


class Bar:
    """tqdm on standard error.

    Attributes:
        uncaptured: a context in which standard error reaches the terminal.
    """

    def __init__(self, uncaptured: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self.uncaptured = uncaptured
        self.bar: Any = None

    def start(self, label: str, total: int) -> None:
        from tqdm import tqdm

        with self.uncaptured():
            self.bar = tqdm(
                total=total,
                desc=label,
                unit="row",
                leave=False,
                file=sys.__stderr__,
                mininterval=0.5,
                bar_format="\r{desc}: {percentage:3.0f}% |{bar:30}| {elapsed} gone, {remaining} left",
            )

    def advance(self, rows: int) -> None:
        if self.bar is not None:
            with self.uncaptured():
                self.bar.update(min(rows, self.bar.total - self.bar.n))

    def finish(self) -> None:
        if self.bar is not None:
            with self.uncaptured():
                self.bar.close()
            self.bar = None
