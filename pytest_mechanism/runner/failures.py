"""One line for the user about a measurement, or the loading of a checkpoint, that failed."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.measurement import Measurement


def failure_title(measurement: Measurement, references: Mapping[str, Reference]) -> str:
    """Names the measurement, the role and the checkpoint."""
    role, label = measurement.on, references[measurement.on].label
    on = role if label == role else f"{role} ({label})"
    return f"measurement {method_name(measurement)} on {on} failed"


def method_name(measurement: Measurement) -> str:
    """The short name of a method: ``path_patching``, or ``cmap.donate``."""
    module, _, function = measurement.request.implementation.partition(":")
    short = module.rsplit(".", 1)[-1]
    return short if function in ("", "measure") else f"{short}.{function}"


def clear_frames(problem: BaseException | None) -> None:
    """Frees what the functions that failed held, such as copies of models, which an error that is
    kept would keep alive. The places in its traceback stay."""
    while problem is not None:
        traceback.clear_frames(problem.__traceback__)
        problem = problem.__context__


def batch_too_large(rows: int) -> MeasurementError:
    return MeasurementError(
        f"out of memory with batches of {rows} rows; lower --mechanism-batch-size"
    )


def loading_error(reference: str, problem: Exception) -> MeasurementError:
    """A library's error while it loaded a checkpoint."""
    error = MeasurementError(f"{reference} cannot be loaded: {problem}")
    error.trace = "".join(traceback.format_exception(problem))
    return error
