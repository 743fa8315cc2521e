"""What runs on a worker of a Ray cluster: one checkpoint at a time, one measurement a call.

`runner.cluster` starts the workers. Nothing here imports Ray: `Worker` is an ordinary class, which Ray makes an
actor of.
"""

from __future__ import annotations

import os
import pickle
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import (
    CheckpointChanged,
    MeasurementError,
    MechanismError,
    crash,
    one_line,
)
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.registry import resolve
from pytest_mechanism.runner.failures import clear_frames, failure_title
from pytest_mechanism.runner.keys import versions
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.settings.model_options import ModelOptions


@dataclass(frozen=True)
class Made:
    """How a measurement went.

    Attributes:
        node: name of the machine.
        pid: of the worker.
        seconds: it took, with the loading of a checkpoint.
        loaded: checkpoints loaded for it.
        loading: seconds of these that the loading took.
        error: why there is no result, or None.
    """

    node: str
    pid: int
    seconds: float
    loaded: int
    loading: float = 0.0
    error: MechanismError | None = None


class Worker:
    """Makes measurements. It loads each checkpoint in place of the one before.

    Attributes:
        models: role -> fingerprint of the driver's checkpoint.
    """

    def __init__(
        self, references: Mapping[str, Reference], models: Mapping[str, str], options: ModelOptions
    ) -> None:
        self.references, self.models, self.options = references, models, options
        self._runner: Runner | None = None

    def place(self) -> tuple[str, int]:
        """Name of the machine, and process id."""
        return platform.node(), os.getpid()

    def warm_up(self) -> None:
        """Imports what every measurement needs and reads the checkpoints, before there is one to make. What goes
        wrong goes wrong there again."""
        with suppress(Exception):
            resolve("pytest_mechanism.checkpoints.loading.model:load_model")
            resolve("pytest_mechanism.methods.context:make_context")
            self.runner  # noqa: B018 - read for its work

    def make(self, measurement: Measurement, *inputs: Any) -> tuple[Made, Any]:
        """A measurement, with the results of its inputs; an error is part of what it returns."""
        started, before, result, error = time.perf_counter(), self._loads, None, None
        try:
            result = self.runner.make_with(measurement, inputs)
        except MechanismError as problem:
            error = portable(problem)
        except Exception as problem:  # raised to Ray, it would look like the death of this worker
            error = portable(crash(failure_title(measurement, self.references), problem))
        seconds = time.perf_counter() - started
        loaded, loading = (now - then for now, then in zip(self._loads, before, strict=True))
        return Made(*self.place(), seconds, int(loaded), loading, error), result

    @property
    def runner(self) -> Runner:
        """Reads the checkpoints of this machine on first use.

        Raises:
            CheckpointChanged: one of them has another content than the driver's.
        """
        if self._runner is None:
            marks = {role: of_reference(ref) for role, ref in self.references.items()}
            for role, mark in marks.items():
                if mark.model != self.models[role]:
                    raise CheckpointChanged(
                        f"{role} ({self.references[role].label}): {self.references[role].folder} has "
                        f"another content on {platform.node()} than where the run was started"
                    )
            self._runner = Runner(self.references, marks, self.options)
        return self._runner

    @property
    def _loads(self) -> tuple[int, float]:
        """How many checkpoints were loaded, and the seconds that it took."""
        if self._runner is None:
            return 0, 0.0
        return self._runner.checkpoint.loaded, self._runner.checkpoint.loading


def portable(problem: MechanismError) -> MechanismError:
    """An error that reaches the driver as it is; one that cannot be pickled keeps its text."""
    clear_frames(problem)
    problem.__cause__ = problem.__context__ = None
    try:
        pickle.loads(pickle.dumps(problem))  # noqa: S301 - made here
    except Exception:
        plain = MeasurementError(str(problem))
        plain.trace = problem.trace
        return plain
    return problem


def look_around(folders: Sequence[str]) -> dict[str, Any]:
    """What a machine has: its name, the versions of the libraries, and which folders it does not see."""
    return {
        "node": platform.node(),
        "versions": versions(),
        "missing": [folder for folder in folders if not Path(folder).exists()],
        "python": one_line(platform.python_version()),
    }
