"""Reads the arrays of an .npz file that somebody else made. Nothing is unpickled, and what a file says of
an array is checked before the array is made."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_mechanism.files import BadFile, read_bytes

Array = NDArray[np.float32]

MOST_BYTES = 1 << 28
"""Of a file, and of all its arrays together: a hundred times a large compiled program."""
MOST_ARRAYS = 10_000
MOST_HEADER = 10_000
"""Characters of an array's header."""


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file, as float32.

    Raises:
        FileNotFoundError: the file does not exist.
        BadFile: it is no .npz file, too large, or an array holds anything but finite numbers.
    """
    content = read_bytes(path, MOST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ARRAYS or sum(e.file_size for e in entries) > MOST_BYTES:
                raise BadFile(path, f"holds over {MOST_ARRAYS:,} arrays or {MOST_BYTES >> 20} MB")
            return {
                name: read_array(path, name, archive.read(entry))
                for entry in entries
                if (name := entry.filename.removesuffix(".npy"))
            }
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as problem:
        raise BadFile(path, f"cannot be read as an .npz file: {problem}") from None


def read_array(path: Path, name: str, content: bytes) -> Array:
    """An array of an .npz file.

    Raises:
        BadFile: it is not an array of finite numbers, or larger than its bytes.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(file, max_header_size=MOST_HEADER)
    except Exception as problem:  # a damaged header makes numpy raise anything
        raise BadFile(path, f"array {name!r} has no valid header: {problem}") from None
    if dtype.hasobject:
        raise BadFile(path, f"array {name!r} is pickled, and nothing is unpickled; save numbers")
    if dtype.kind not in "fiub":
        raise BadFile(path, f"array {name!r} holds {dtype}, not numbers")
    stored = len(content) - file.tell()
    if math.prod(shape) * dtype.itemsize != stored:
        raise BadFile(path, f"array {name!r} has shape {list(shape)}, but {stored:,} bytes")
    file.seek(0)
    array = np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)
    if not np.isfinite(array).all():
        raise BadFile(path, f"array {name!r} has NaN or infinite values")
    return array
