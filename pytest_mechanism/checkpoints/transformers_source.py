"""Constants in the source files of transformers, read without importing it.

An import of these files would import torch and take seconds, which collection cannot afford.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def transformers_folder() -> Path | None:
    """The folder of the package transformers; None if it is not installed."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def statements(path: Path) -> list[ast.stmt]:
    """The statements of a source file; none if it cannot be read."""
    try:
        return ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []


def assigned_value(statement: ast.stmt, name: str) -> ast.expr | None:
    """The value that a statement assigns to a name."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        return None
    matches = any(isinstance(t, ast.Name) and t.id == name for t in targets)
    return statement.value if matches else None


def constant(value: ast.expr | None) -> Any:
    """The value of a literal, with the names of classes as strings; None for a computed value."""
    if isinstance(value, ast.Dict):
        return {constant(k): constant(v) for k, v in zip(value.keys, value.values, strict=True)}
    if isinstance(value, ast.Name):
        return value.id
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None
