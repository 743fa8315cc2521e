"""Shows the progress of a run: a bar on a terminal, a line per minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from pytest_mechanism.errors import visible
from pytest_mechanism.progress import Parts, Progress, Silent

MINUTE = 60.0


def terminal_progress(config: pytest.Config) -> Progress:
    """For a run of pytest: a bar on a terminal, a line per minute in a log, nothing under xdist and with ``-q``."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return Silent()
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    uncaptured = capture.global_and_fixture_disabled if capture is not None else nullcontext
    if reporter.isatty:
        return Bar(uncaptured)
    if config.get_verbosity() < 0:
        return Silent()

    def own_line() -> None:
        reporter.ensure_newline()  # pytest's dots have a line of their own
        reporter.flush()

    return Log(uncaptured, own_line=own_line)


def command_progress(quiet: bool) -> Progress:
    """For a command, which writes to standard error."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Log()


class Bar:
    """A bar of tqdm on standard error.

    Attributes:
        uncaptured: a context in which standard error reaches the terminal.
    """

    def __init__(self, uncaptured: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self.uncaptured = uncaptured
        self.bar: Any = None

    def start(self, label: str, total: int, parts: Parts | None = None) -> None:
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
                if self.bar.n == 0:
                    self.bar.unpause()  # what came before is loading
                self.bar.update(min(rows, self.bar.total - self.bar.n))

    def finish(self) -> None:
        if self.bar is not None:
            with self.uncaptured():
                self.bar.close()
            self.bar = None


class Log:
    """Lines on standard error, at most one per minute; the first comes after a minute.

    Attributes:
        uncaptured: a context in which standard error reaches the log.
        clock: returns the time in seconds.
        own_line: ends what stands on the log's current line.
    """

    def __init__(
        self,
        uncaptured: Callable[[], AbstractContextManager[Any]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
        own_line: Callable[[], None] = lambda: None,
    ) -> None:
        self.uncaptured, self.clock, self.own_line = uncaptured, clock, own_line
        self.label, self.total, self.rows = "", 0, 0
        self.parts: Parts | None = None
        self.begun: tuple[float, int] | None = None
        self.written = clock()

    def start(self, label: str, total: int, parts: Parts | None = None) -> None:
        self.label, self.total, self.rows, self.parts = label, total, 0, parts
        self.begun = None

    def advance(self, rows: int) -> None:
        self.rows += rows
        now = self.clock()
        if (
            self.begun is None
        ):  # what came before is loading: it says nothing about the rows that are left
            self.begun = (now, self.rows)
        if now - self.written < MINUTE or self.total < 1:
            return
        self.written = now
        with self.uncaptured():
            self.own_line()
            sys.stderr.write(f"{visible(self.line(now))}\n")
            sys.stderr.flush()

    def line(self, now: float) -> str:
        """What is measured, its progress, and the time left. Planned counts of rows are estimates, so the
        line never says 100 %."""
        share = min(0.99, self.rows / self.total)
        if self.parts is None:
            done = f"{share:.0%}"
        else:
            stage, count, unit = self.parts
            done = f"{stage}: {int(share * count)} of {count} {unit}"
        return f"mechanism: {self.label}, {done}, {self.time_left(now, share)}"

    def time_left(self, now: float, share: float) -> str:
        """The time left, from the rows since the first ones: those came with the loading of the checkpoint."""
        since, first = self.begun or (now, self.rows)
        measured = self.rows - first
        if measured < 1 or now <= since:
            return "just begun"
        left = (now - since) * (1 - share) * self.total / measured
        return f"about {duration_text(left)} left"

    def finish(self) -> None:
        self.total = 0


class InSteps:
    """Progress of work whose number of steps is known, such as a search. Writes a line when a step begins, and
    names the step wherever the progress within it is shown.

    Attributes:
        inner: shows the progress within a step.
        clock: returns the time in seconds.
    """

    def __init__(self, inner: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.inner, self.clock = inner, clock
        self.number = self.of = 0
        self.title, self.begun = "", clock()

    def begin(self, of: int) -> None:
        """Begin work that has ``of`` steps."""
        self.number, self.of, self.begun = 0, of, self.clock()

    def step(self, title: str) -> None:
        """Begin a step."""
        self.number, self.title = self.number + 1, title
        if not isinstance(self.inner, Silent):
            gone = "" if self.number == 1 else f" ({duration_text(self.clock() - self.begun)} gone)"
            sys.stderr.write(
                f"mechanism: step {self.number} of {self.of}: {visible(title)}{gone}\n"
            )
            sys.stderr.flush()

    def start(self, label: str, total: int, parts: Parts | None = None) -> None:
        step = f"{label}, step {self.number} of {self.of}" if self.number else label
        self.inner.start(step, total, parts)

    def advance(self, rows: int) -> None:
        self.inner.advance(rows)

    def finish(self) -> None:
        self.inner.finish()


def duration_text(seconds: float) -> str:
    """A duration, rounded for people: ``40 s``, ``12 min``, ``5 h 12 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
