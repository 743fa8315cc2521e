"""The files of a checkpoint that a result depends on, and checks that they can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints import trust
from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.gguf_file import checked_header
from pytest_mechanism.checkpoints.trust import MOST_WEIGHTS
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import BadFile, check_file, is_gguf, open_file

SUFFIXES = {".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken"}
WITHOUT = {"recipe.json"}
"""Files without influence: how a checkpoint was made does not change what it computes."""

WEIGHTS = {".safetensors", ".bin"}
MOST_TEXT = 1 << 28
"""Maximum size of any other file in bytes: ten times that of any checkpoint of today."""

SMALL = 1 << 20
"""Bytes up to which a file of weights is read without a check of its header."""
MOST_HEADER = 100_000_000
"""Maximum size of a header in bytes, by the format."""


def relevant_files(folder: Path) -> list[Path]:
    """The files that a result depends on; pickled weights and code only if they are used. A GGUF file is
    all of its checkpoint.

    Raises:
        OSError: the folder cannot be listed.
    """
    if is_gguf(folder):
        return [folder]
    plain = [p for p in folder.iterdir() if p.suffix in SUFFIXES and p.name not in WITHOUT]
    try:
        code = trust.code_files(folder, read_config(folder))
    except MechanismError:  # an adapter's folder has no config.json
        code = []
    files = {*plain, *trust.pickled_files(folder), *code}
    return [p for p in sorted(files) if not p.is_dir()]


def checked_files(folder: Path) -> list[Path]:
    """The same files, after a check that they are regular files of a plausible size.

    Raises:
        MechanismError: a file is not regular, too large, or a damaged safetensors or GGUF file.
        OSError: the folder cannot be listed, or a file disappeared meanwhile.
    """
    files = relevant_files(folder)
    if is_gguf(folder):
        checked_header(folder)
        return files
    for path in files:
        status = check_file(path, MOST_WEIGHTS if path.suffix in WEIGHTS else MOST_TEXT)
        if path.suffix == ".safetensors" and status.st_size > SMALL:
            safetensors_header(path)
    return files


def safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> its dtype, shape and data_offsets in a safetensors file.

    Raises:
        MechanismError: the file has no such header, or its length does not match the header.
        FileNotFoundError: the file does not exist.
    """
    length = check_file(path, MOST_WEIGHTS).st_size
    with open_file(path, MOST_WEIGHTS) as file:
        header_length = int.from_bytes(file.read(8), "little")
        if not 2 <= header_length <= min(MOST_HEADER, length - 8):
            raise BadFile(path, "is not a safetensors file: it has no header")
        try:
            tensors: dict[str, dict[str, Any]] = json.loads(file.read(header_length))
            tensors.pop("__metadata__", None)
            ends = [int(tensor["data_offsets"][1]) for tensor in tensors.values()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise BadFile(path, "is not a safetensors file: its header cannot be read") from None
    end = 8 + header_length + max(ends, default=0)
    if end != length:
        raise BadFile(
            path,
            f"cannot be loaded: its header says {end} bytes, the file has {length}; it was "
            "truncated, or something was appended",
        )
    return tensors
