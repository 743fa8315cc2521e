"""Sizes that a config.json leaves out: the defaults of its class in transformers.

To import such a class takes torch and seconds, which collection does not have. The classes' files
are read instead, as text: a default is a constant in the body of the class. What a class computes
is not seen here; a loaded model's sizes come from its config object, and must be the same.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TABLES = ("CONFIG_MAPPING_NAMES", "SPECIAL_MODEL_TYPE_TO_MODULE_NAME")
"""Of transformers: model type -> class, and model type -> folder where that is not its name."""


@lru_cache(maxsize=64)
def defaults(model_type: str, part: str | None = None) -> Mapping[str, Any]:
    """Constants in the body of a model type's config class; nothing where it is not known.

    Args:
        model_type: as config.json has it.
        part: key of a sub-config, whose class is taken instead.
    """
    models = folder()
    if models is None or not model_type.replace("-", "_").isidentifier():
        return {}
    classes, folders = (table(models, name) for name in TABLES)
    name = classes.get(model_type)
    home = models / folders.get(model_type, model_type).replace("-", "_")
    if name is None:
        return {}
    found = body(home, name)
    if part is None:
        return found
    parts = found.get("sub_configs_defaults") or found.get("sub_configs") or {}
    inner = parts.get(part)
    return body(home, inner) if isinstance(inner, str) else {}


def folder() -> Path | None:
    """Where transformers keeps its models; it is not imported."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "models"


def parsed(path: Path) -> list[ast.stmt]:
    try:
        return ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []


@lru_cache(maxsize=4)
def table(models: Path, name: str) -> dict[str, str]:
    """One of `TABLES`: a mapping of pairs of names, in the files of the auto classes."""
    found: dict[str, str] = {}
    for file in ("auto_mappings.py", "configuration_auto.py"):
        for statement in parsed(models / "auto" / file):
            value = assigned(statement, name)
            pairs = value.args[0] if isinstance(value, ast.Call) and value.args else None
            if isinstance(pairs, ast.List):
                for pair in pairs.elts:
                    names = constant(pair)
                    if isinstance(names, tuple) and len(names) == 2:
                        found[str(names[0])] = str(names[1])
    return found


def body(home: Path, name: str) -> dict[str, Any]:
    """Constants in the body of a class and of those of its bases that are in the same folder."""
    found: dict[str, Any] = {}
    for path in sorted(home.glob("configuration_*.py")):
        for statement in parsed(path):
            if not isinstance(statement, ast.ClassDef) or statement.name != name:
                continue
            for base in statement.bases:
                if isinstance(base, ast.Name) and base.id not in ("PreTrainedConfig", name):
                    found |= body(home, base.id)
            for line in statement.body:
                target = line.targets[0] if isinstance(line, ast.Assign) else None
                target = line.target if isinstance(line, ast.AnnAssign) else target
                if isinstance(target, ast.Name):
                    found[target.id] = constant(getattr(line, "value", None))
    return found


def assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    """The value that a statement gives to a name."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        return None
    there = any(isinstance(t, ast.Name) and t.id == name for t in targets)
    return statement.value if there else None


def constant(value: ast.expr | None) -> Any:
    """A literal; in mappings, a class stands for its name. None for what is computed."""
    if isinstance(value, ast.Dict):
        return {constant(k): constant(v) for k, v in zip(value.keys, value.values, strict=True)}
    if isinstance(value, ast.Name):
        return value.id
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None
