"""A checkpoint opened as a user's folder is: reference, weights, self-checks."""

from __future__ import annotations

from pathlib import Path

from small_requests import TASK

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.reference import parse_reference
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.settings.model_options import ModelOptions


def opened(folder: Path, role: str = "base", **options: str) -> MeasurementContext:
    """The measurement context of a checkpoint, from what a user would type."""
    reference = parse_reference(f"{role}={folder}", {}, folder)
    runner = Runner(
        {role: reference}, {role: Fingerprint("weights", "words")}, ModelOptions(**options)
    )
    context: MeasurementContext = runner.checkpoint.context(role, TASK)
    return context
