"""A checkpoint's config.json as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import read_json

MOST_CONFIG = 1 << 24
"""Maximum size of a config.json in bytes."""


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises:
        MechanismError: it is missing or not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = read_json(path, MOST_CONFIG)
    except FileNotFoundError:
        raise MechanismError(f"{folder} has no config.json, so it is not a checkpoint") from None
    if not isinstance(config, dict):
        raise MechanismError(f"{path} must hold a JSON object")
    return config
