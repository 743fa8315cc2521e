"""What a measurement or a loading that failed looks like to a user: one line, with what it was about."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.measurement import Measurement


def failed(measurement: Measurement, references: Mapping[str, Reference]) -> str:
    """The measurement's name, role and checkpoint, for an error line."""
    role = measurement.on
    label = references[role].label
    on = role if label == role else f"{role} ({label})"
    return f"measurement {named(measurement)} on {on} failed"


def named(measurement: Measurement) -> str:
    """A method's name as its module has it: ``path_patching``, or ``cmap.donate``."""
    module, _, function = measurement.request.implementation.partition(":")
    short = module.rsplit(".", 1)[-1]
    return short if function in ("", "measure") else f"{short}.{function}"


def forget_frames(problem: BaseException | None) -> None:
    """Let go of what the functions that failed had at hand: copies of models, for the most part.
    An error that is kept would keep them; where it happened can still be read from it."""
    while problem is not None:
        traceback.clear_frames(problem.__traceback__)
        problem = problem.__context__


def memory_short(rows: int) -> MeasurementError:
    """A batch did not fit."""
    return MeasurementError(
        f"out of memory with batches of {rows} rows; lower --mechanism-batch-size"
    )


def unloadable(reference: str, problem: Exception) -> MeasurementError:
    """A library's error while a checkpoint was loaded."""
    found = MeasurementError(f"{reference} cannot be loaded: {problem}")
    found.trace = "".join(traceback.format_exception(problem))
    return found
