"""Gates in processes of their own, some of them side by side: what ``pytest-mechanism sweep`` runs.

Each gate is pytest in a fresh process, so that a checkpoint that crashes the interpreter takes no other
candidate with it. Where the system can fork, a server process imports `PRELOADED` once and forks for each gate.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pytest_mechanism.settings.pytest_options import TURN

PRELOADED = ("pytest_mechanism.commands.gate_imports",)
"""Modules that every gate imports."""

PATIENCE = 60
"""Seconds that an interrupted gate has to write its result file."""


@dataclass(frozen=True)
class Gate:
    """A run of pytest.

    Attributes:
        label: of its candidate.
        arguments: pytest's.
        log: file for its output.
        after: label of a candidate with the same files, whose gate must have ended, or None.
    """

    label: str
    arguments: tuple[str, ...]
    log: Path
    after: str | None = None


@dataclass(frozen=True)
class Finished:
    """A gate that has ended.

    Attributes:
        gate: the gate.
        exit_code: of its process; None where a signal ended it.
        seconds: it took.
    """

    gate: Gate
    exit_code: int | None
    seconds: float


class Gates:
    """Runs gates, a number of them at a time.

    Attributes:
        processes: how many run side by side.
        interrupted: whether Ctrl-C ended the run early.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.interrupted = False
        self._running: dict[Any, tuple[Gate, int, float]] = {}

    def run(self, gates: Sequence[Gate]) -> Iterator[Finished]:
        """Yields each gate when it has ended. After Ctrl-C, running gates write what they have and end, and no
        further gate begins."""
        context = multiprocessing.get_context(
            "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        )
        context.set_forkserver_preload([*PRELOADED])
        left, ended = list(gates), set[str]()
        while left or self._running:
            try:
                while len(self._running) < self.processes and (
                    gate := next((g for g in left if g.after is None or g.after in ended), None)
                ):
                    left.remove(gate)
                    self._start(context, gate)
                wait([process.sentinel for process in self._running])
            except KeyboardInterrupt:
                self.interrupted = True
                left.clear()
                self._interrupt()
            for process in [p for p in self._running if p.exitcode is not None]:
                gate, _, started = self._running.pop(process)
                ended.add(gate.label)
                code = process.exitcode
                yield Finished(gate, code if code >= 0 else None, time.monotonic() - started)

    def _start(self, context: Any, gate: Gate) -> None:
        """Starts a gate with the lowest free turn, which decides on its GPU."""
        taken = {turn for _, turn, _ in self._running.values()}
        turn = next(number for number in range(self.processes) if number not in taken)
        process = context.Process(target=run_gate, args=(gate, turn))
        process.start()
        self._running[process] = gate, turn, time.monotonic()

    def _interrupt(self) -> None:
        """Hands Ctrl-C on, since gates are not in the terminal's process group, and waits for their end."""
        for process in self._running:
            with suppress(OSError):
                os.kill(process.pid, signal.SIGINT)
        last = time.monotonic() + PATIENCE
        try:
            for process in self._running:
                process.join(max(0.0, last - time.monotonic()))
        except KeyboardInterrupt:  # a second Ctrl-C: at once
            pass
        for process in self._running:
            process.kill()
            process.join()


def run_gate(gate: Gate, turn: int) -> None:
    """Runs pytest in this process, with its output in a file, and exits with its code."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # the parent hands Ctrl-C on, once
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ[TURN] = str(turn)
    os.environ.pop("GITHUB_STEP_SUMMARY", None)  # the sweep writes its own table there
    with gate.log.open("w", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    import pytest

    # plain asserts: modules that are imported already cannot be rewritten, which would be a warning
    code = pytest.main(["--assert=plain", *gate.arguments])
    sys.stdout.flush()
    os._exit(int(code))


def end_with_parent() -> None:
    """Ends this process when the command was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def last_line(log: Path) -> str:
    """The line of a gate's output that says why pytest did not start: its first error, else its last line."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        errors = [line for line in lines if line.startswith(("ERROR: ", "INTERNALERROR> "))]
        found = errors[:1] or [line for line in reversed(lines) if line.strip()][:1]
        return found[0].removeprefix("ERROR: ") if found else ""
    return ""
