"""A checkpoint's config.json as data, or the sizes in the header of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.gguf_file import gguf_config
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import is_gguf, read_json

MOST_CONFIG = 1 << 24
"""Maximum size of a config.json in bytes."""


def config_file(folder: Path) -> Path:
    """The file that says how large a checkpoint's model is."""
    return folder if is_gguf(folder) else folder / "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder; of a GGUF file its sizes, under the same names.

    Raises:
        MechanismError: it is missing or not a JSON object.
    """
    if is_gguf(folder):
        return gguf_config(folder)
    path = config_file(folder)
    try:
        config = read_json(path, MOST_CONFIG)
    except FileNotFoundError:
        raise MechanismError(f"{folder} has no config.json, so it is not a checkpoint") from None
    if not isinstance(config, dict):
        raise MechanismError(f"{path} must hold a JSON object")
    return config
