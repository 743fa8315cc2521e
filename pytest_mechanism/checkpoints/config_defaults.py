"""Defaults of transformers' config classes, for sizes that a config.json leaves out.

This module reads the classes' source files (`transformers_source`): a default is a constant in the body
of the class. It misses what a class computes; a loaded model's sizes come from its config object and must
agree.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.transformers_source import (
    assigned_value,
    constant,
    statements,
    transformers_folder,
)

TABLES = ("CONFIG_MAPPING_NAMES", "SPECIAL_MODEL_TYPE_TO_MODULE_NAME")
"""Of transformers: model type -> class, and model type -> folder if that has another name."""


@lru_cache(maxsize=64)
def defaults(model_type: str, part: str | None = None) -> Mapping[str, Any]:
    """Constants in the body of a model type's config class; empty for an unknown type.

    Args:
        model_type: as in config.json.
        part: key of a sub-config, to read its class instead.
    """
    package = transformers_folder()
    if package is None or not model_type.replace("-", "_").isidentifier():
        return {}
    models = package / "models"
    classes, folders = (table(models, name) for name in TABLES)
    name = classes.get(model_type)
    home = models / folders.get(model_type, model_type).replace("-", "_")
    if name is None:
        return {}
    constants = class_constants(home, name)
    if part is None:
        return constants
    parts = constants.get("sub_configs_defaults") or constants.get("sub_configs") or {}
    inner = parts.get(part)
    return class_constants(home, inner) if isinstance(inner, str) else {}


@lru_cache(maxsize=4)
def table(models: Path, name: str) -> dict[str, str]:
    """One of `TABLES`, read from the files of the auto classes."""
    mapping: dict[str, str] = {}
    for file in ("auto_mappings.py", "configuration_auto.py"):
        for statement in statements(models / "auto" / file):
            value = assigned_value(statement, name)
            pairs = value.args[0] if isinstance(value, ast.Call) and value.args else None
            if isinstance(pairs, ast.List):
                for pair in pairs.elts:
                    names = constant(pair)
                    if isinstance(names, tuple) and len(names) == 2:
                        mapping[str(names[0])] = str(names[1])
    return mapping


def class_constants(home: Path, name: str) -> dict[str, Any]:
    """Constants in the body of a class and of its base classes in the same folder."""
    constants: dict[str, Any] = {}
    for path in sorted(home.glob("configuration_*.py")):
        for statement in statements(path):
            if not isinstance(statement, ast.ClassDef) or statement.name != name:
                continue
            for base in statement.bases:
                if isinstance(base, ast.Name) and base.id not in ("PreTrainedConfig", name):
                    constants |= class_constants(home, base.id)
            for line in statement.body:
                target = line.targets[0] if isinstance(line, ast.Assign) else None
                target = line.target if isinstance(line, ast.AnnAssign) else target
                if isinstance(target, ast.Name):
                    constants[target.id] = constant(getattr(line, "value", None))
    return constants
