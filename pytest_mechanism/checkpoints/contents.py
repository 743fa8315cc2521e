"""The files of a checkpoint's folder that count, and whether they can be such files at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints import trust
from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.trust import MOST_WEIGHTS
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import BadFile, check_file, open_file

COUNTED = {".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken"}
NOT_COUNTED = {"recipe.json"}
"""How a checkpoint came to be does not change what it computes."""

WEIGHTS = {".safetensors", ".bin"}
MOST_WORDS = 1 << 28
"""Bytes of any other file: no checkpoint of today has a tenth of it."""

SMALL = 1 << 20
"""Bytes below which a file of weights is read without looking at its header first."""
MOST_HEADER = 100_000_000
"""Bytes of a header, by the format."""


def listed(folder: Path) -> list[Path]:
    """The files that a result depends on: pickled weights and code only where they are used.

    Raises:
        OSError: the folder cannot be listed.
    """
    plain = [p for p in folder.iterdir() if p.suffix in COUNTED and p.name not in NOT_COUNTED]
    try:
        code = trust.code(folder, read_config(folder))
    except MechanismError:  # an adapter's folder has no config.json
        code = []
    return [p for p in sorted({*plain, *trust.pickled(folder), *code}) if not p.is_dir()]


def counted(folder: Path) -> list[Path]:
    """The same, each a file that it can be.

    Raises:
        MechanismError: one of them is not a regular file, or larger than such a file can be.
        OSError: the folder cannot be listed, or a file went away meanwhile.
    """
    found = listed(folder)
    for path in found:
        status = check_file(path, MOST_WEIGHTS if path.suffix in WEIGHTS else MOST_WORDS)
        if path.suffix == ".safetensors" and status.st_size > SMALL:
            header(path)
    return found


def header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file by name: dtype, shape, data_offsets.

    Raises:
        MechanismError: it is no such file, or cut short, or has something after its end.
        FileNotFoundError: nothing has this name.
    """
    length = check_file(path, MOST_WEIGHTS).st_size
    with open_file(path, MOST_WEIGHTS) as file:
        count = int.from_bytes(file.read(8), "little")
        if not 2 <= count <= min(MOST_HEADER, length - 8):
            raise BadFile(path, "is no safetensors file: it has no header")
        try:
            found = json.loads(file.read(count))
            found.pop("__metadata__", None)
            end = (
                8
                + count
                + max((int(each["data_offsets"][1]) for each in found.values()), default=0)
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise BadFile(path, "is no safetensors file: its header cannot be read") from None
    if end != length:
        raise BadFile(
            path,
            f"cannot be loaded: its header says {end} bytes, the file has {length}; it was cut "
            "short, or something was added",
        )
    tensors: dict[str, dict[str, Any]] = found
    return tensors
