"""What packages of others may import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pytest_mechanism import api

ROOT = Path(__file__).parents[2]
NAMES = [
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


def test_the_public_names_are_these() -> None:
    """Adding or removing a public name is a decision, recorded in the changelog."""
    assert sorted(api.__all__) == NAMES


def test_every_public_name_exists() -> None:
    """The names of a method's side too, which are loaded when they are used."""
    assert [name for name in api.__all__ if not hasattr(api, name)] == []


def test_importing_the_public_names_imports_no_torch() -> None:
    """A claim's file imports them, and `lint` imports every claim's file."""
    code = "import sys, pytest_mechanism.api; print(sorted({'torch', 'transformers'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_docs_import_public_names_only() -> None:
    """In each Python block of each page."""
    imports = [
        (page.name, line)
        for page in (ROOT / "docs").glob("*.md")
        for line in re.findall(
            r"^\s*(?:from|import) pytest_mechanism.*$", page.read_text(), re.MULTILINE
        )
    ]
    assert imports
    assert [
        imported for imported in imports if "pytest_mechanism.api import" not in imported[1]
    ] == []
