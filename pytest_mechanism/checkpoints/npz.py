"""Reads the arrays of an .npz file that somebody else made. It unpickles nothing, and checks the shape and
size of each array before it makes the array."""

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
            entries = entries_of(path, archive)
            return {
                name: read_array(path, name, content_of(path, archive, entry))
                for entry in entries
                if (name := entry.filename.removesuffix(".npy"))
            }
    except BadFile:
        raise
    except (
        Exception
    ) as problem:  # damaged archives and headers make zipfile and numpy raise anything
        raise BadFile(path, f"cannot be read as an .npz file: {problem}") from None


def entries_of(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The entries of an archive.

    Raises:
        BadFile: they are too many or too large together.
    """
    entries = archive.infolist()
    if len(entries) > MOST_ARRAYS or sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise BadFile(path, f"holds over {MOST_ARRAYS:,} arrays or {MOST_BYTES >> 20} MB")
    return entries


def content_of(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry, and never more than its size promises.

    Raises:
        BadFile: it is compressed in a way that numpy does not use, whose reader knows no such limit.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadFile(path, f"{entry.filename!r} is compressed in a way that numpy does not use")
    with archive.open(entry) as file:
        return file.read(entry.file_size + 1)


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
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused below
        array = np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)
    if not np.isfinite(array).all():
        raise BadFile(path, f"array {name!r} has NaN or infinite values")
    return array
