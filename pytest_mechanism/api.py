"""The names that other packages may import: to define claim kinds, methods and task families.

    from pytest_mechanism.api import Claim, ClaimContext, Request, Verdict, verdicts

Everything else in this package may move without notice. Importing this module imports no torch; the names
of a method's side (`MeasurementContext`, `Columns`, `Branch`, ...) are loaded when they are first used, so a
claim's file must not import them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import Claim, PerRoleClaim, Reference, Roles, listed
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import above_chance, accuracy, performance, score
from pytest_mechanism.errors import MeasurementError, MechanismError
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.fields.thresholds import Number, Within
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Cost, Request, RowSet
from pytest_mechanism.spec.load import load as load_spec
from pytest_mechanism.statistics import estimates, honesty, verdicts
from pytest_mechanism.tasks.base import (
    AnyWord,
    Prompt,
    Row,
    RowCount,
    Seed,
    Task,
    TaskError,
    TaskParameters,
    TextBuilder,
    Vocabulary,
)
from pytest_mechanism.tasks.writing.parts import part_of_stream, part_of_text
from pytest_mechanism.types import (
    Chart,
    Check,
    Control,
    Head,
    Line,
    Observations,
    Safeguard,
    Score,
    Setting,
    Verdict,
)

if TYPE_CHECKING:
    from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site, Tokens
    from pytest_mechanism.methods.columns import Columns
    from pytest_mechanism.methods.context import MeasurementContext
    from pytest_mechanism.methods.token_batches import Batch

WITH_TORCH = {
    "Batch": "pytest_mechanism.methods.token_batches",
    "Branch": "pytest_mechanism.engine.interface",
    "Columns": "pytest_mechanism.methods.columns",
    "Edit": "pytest_mechanism.engine.interface",
    "MeasurementContext": "pytest_mechanism.methods.context",
    "Reading": "pytest_mechanism.engine.interface",
    "Site": "pytest_mechanism.engine.interface",
    "Tokens": "pytest_mechanism.engine.interface",
}
"""Names of a method's side -> where they are."""

__all__ = [
    "Ablation",
    "AnyWord",
    "Batch",
    "Branch",
    "Cause",
    "Chart",
    "Check",
    "Claim",
    "ClaimContext",
    "Columns",
    "Control",
    "Cost",
    "Edit",
    "Group",
    "Head",
    "Line",
    "Measure",
    "Measurement",
    "MeasurementContext",
    "MeasurementError",
    "MechanismError",
    "Number",
    "Observations",
    "PerRoleClaim",
    "Prompt",
    "Reading",
    "Reference",
    "Request",
    "Roles",
    "Row",
    "RowCount",
    "RowSet",
    "Safeguard",
    "Score",
    "Seed",
    "Setting",
    "Site",
    "Task",
    "TaskError",
    "TaskParameters",
    "TextBuilder",
    "Tokens",
    "Verdict",
    "Vocabulary",
    "Within",
    "above_chance",
    "accuracy",
    "estimates",
    "honesty",
    "listed",
    "load_spec",
    "part_of_stream",
    "part_of_text",
    "performance",
    "score",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    if name not in WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(WITH_TORCH[name]), name)
