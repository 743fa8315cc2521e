"""The header of a GGUF file: its metadata, and where each tensor is. No torch.

GGUF is the file format of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):

    "GGUF", version, number of tensors, number of entries
    entries: key, type, value
    tensors: name, dimensions, type, offset
    padding to the alignment, then the data of the tensors, each padded to the alignment

The library ``gguf``, by which transformers reads such a file, believes every count in it. So this module
reads the header first, with limits, and refuses a file that contradicts itself. Later readers see only
what passed.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.file_state import State, state_of
from pytest_mechanism.checkpoints.trust import MOST_WEIGHTS
from pytest_mechanism.files import BadFile, check_file, open_file, size

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MOST_HEADER = 1 << 26
"""Maximum size of a header in bytes: several times that of a vocabulary of 262,000 tokens."""
MOST_ENTRIES = 10_000
MOST_TENSORS = 100_000
MOST_DIMENSIONS = 4
MOST_ELEMENTS = 4_000_000
"""Maximum number of elements of all arrays; the library makes a Python object of each."""
MOST_KEPT = 4_096
"""Maximum length of an array that is kept as a list, such as an array with a number for each layer."""
MOST_ALIGNMENT = 1 << 20

NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""Type of a value -> its format."""
STRING, ARRAY = 8, 9

TOKENIZER = ("tokenizer.", "general.architecture")
"""Beginnings of the keys that a tokenizer is made from."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header describes it.

    Attributes:
        name: as llama.cpp names it, such as blk.0.attn_q.weight.
        shape: its dimensions, the fastest-moving first: of a matrix, (inputs, outputs).
        kind: how its numbers are stored, such as F32 or Q4_1.
        offset: of its data, from the end of the header.
        stored: its size in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    stored: int

    @property
    def count(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Many:
    """An array of strings or of many numbers, of which only the length is kept."""

    count: int


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file.

    Attributes:
        path: the file.
        metadata: key -> a number, a string, a short list of numbers, or `Many`.
        tensors: in the order of the file.
        tokenizer: SHA-256 of the entries that a tokenizer is made from, as hex.
    """

    path: Path
    metadata: Mapping[str, Any] = field(repr=False)
    tensors: tuple[Tensor, ...] = field(repr=False)
    tokenizer: str

    def text(self, key: str) -> str:
        """An entry that is a string; empty if there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""


def read_header(path: Path) -> Header:
    """The header of a GGUF file, which was checked.

    Raises:
        BadFile: it is no GGUF file, is truncated, or contradicts itself.
        FileNotFoundError: it does not exist.
    """
    check_file(path, MOST_WEIGHTS)
    return _read_header(path, state_of(path))


@lru_cache(maxsize=16)
def _read_header(path: Path, state: State) -> Header:
    length = check_file(path, MOST_WEIGHTS).st_size
    with open_file(path, MOST_WEIGHTS) as file:
        return _Reader(path, file, length).header()


class _Reader:
    """Reads a header once, from its first byte on.

    Attributes:
        at: bytes read so far.
        elements: elements of arrays read so far.
    """

    def __init__(self, path: Path, file: BufferedReader, length: int) -> None:
        self.path, self.file, self.length = path, file, length
        self.at = self.elements = 0
        self.hash: Any = None

    def header(self) -> Header:
        if self.length < len(MAGIC) or self.take(4) != MAGIC:
            raise BadFile(self.path, "is not a GGUF file: it does not begin with 'GGUF'")
        version = self.number("<I")
        if version & 0xFFFF == 0:
            raise BadFile(
                self.path,
                "is a big-endian GGUF file, or damaged; convert it with gguf-convert-endian",
            )
        if version not in VERSIONS:
            raise BadFile(self.path, f"has GGUF version {version}; valid: 2, 3")
        tensors, entries = self.number("<Q"), self.number("<Q")
        for count, most, what in (
            (tensors, MOST_TENSORS, "tensors"),
            (entries, MOST_ENTRIES, "metadata entries"),
        ):
            if count > most:
                raise BadFile(self.path, f"says it has {count:,} {what}; at most {most:,}")
        metadata, tokenizer = self.metadata(entries)
        alignment = metadata.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or not 1 <= alignment <= MOST_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            raise BadFile(self.path, "has a general.alignment that is not a power of two")
        found = self.tensors(tensors, alignment)
        return Header(self.path, metadata, found, tokenizer)

    # -- bytes

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if self.at + count > self.length:
            raise BadFile(
                self.path,
                f"is truncated or damaged: its header asks for byte {self.at + count:,}, the file has "
                f"{self.length:,}",
            )
        if self.at + count > MOST_HEADER:
            raise BadFile(self.path, f"has a header of more than {size(MOST_HEADER)}")
        taken = self.file.read(count)
        if len(taken) != count:
            raise BadFile(self.path, "became shorter while it was read")
        self.at += count
        if self.hash is not None:
            self.hash.update(taken)
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> bytes:
        length: int = self.number("<Q")
        return self.take(length)

    def name(self, what: str) -> str:
        """A string that names something."""
        name = self.string()
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise BadFile(
                self.path, f"has a {what} whose name is not UTF-8: {name[:40]!r}"
            ) from None

    # -- entries

    def metadata(self, entries: int) -> tuple[dict[str, Any], str]:
        """Key -> value, and the hash of what a tokenizer is made from."""
        values: dict[str, Any] = {}
        tokenizer = hashlib.sha256()
        for _ in range(entries):
            key = self.name("metadata entry")
            if key in values:
                raise BadFile(self.path, f"has the metadata entry {key[:80]!r} twice")
            if key.startswith(TOKENIZER):
                tokenizer.update(repr(key).encode())
                self.hash = tokenizer
            values[key] = self.value(key, self.number("<I"))
            self.hash = None
        return values, tokenizer.hexdigest()

    def value(self, key: str, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            text = self.string()
            try:
                return text.decode()
            except UnicodeDecodeError:
                raise BadFile(self.path, f"has an entry {key[:80]!r} that is not UTF-8") from None
        if kind == ARRAY:
            return self.array(key, self.number("<I"), self.number("<Q"))
        raise BadFile(self.path, f"has an entry {key[:80]!r} of an unknown type, {kind}")

    def array(self, key: str, kind: int, count: int) -> list[Any] | Many:
        self.elements += count
        if self.elements > MOST_ELEMENTS:
            raise BadFile(
                self.path,
                f"has arrays of {self.elements:,} elements up to {key[:80]!r}; at most "
                f"{MOST_ELEMENTS:,}",
            )
        if kind == STRING:
            for _ in range(count):
                self.string()
            return Many(count)
        if kind not in NUMBERS:
            what = "arrays" if kind == ARRAY else f"the unknown type {kind}"
            raise BadFile(
                self.path,
                f"has an entry {key[:80]!r} that is an array of {what}, which is not read",
            )
        form = NUMBERS[kind][1:]
        content = self.take(count * struct.calcsize(f"<{form}"))
        return (
            list(struct.unpack(f"<{count}{form}", content)) if count <= MOST_KEPT else Many(count)
        )

    # -- tensors

    def tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        """All tensors, after a check that their data fill the rest of the file without overlap."""
        described = [self.tensor() for _ in range(count)]
        start = -(-self.at // alignment) * alignment
        names: set[str] = set()
        end = 0
        for tensor in sorted(described, key=lambda tensor: (tensor.offset, tensor.stored)):
            where = f"tensor {tensor.name[:80]!r}"
            if tensor.name in names:
                raise BadFile(self.path, f"has {where} twice")
            names.add(tensor.name)
            if tensor.offset < end:
                raise BadFile(self.path, f"is damaged: {where} overlaps the tensor before it")
            if tensor.offset % alignment:
                raise BadFile(
                    self.path, f"is damaged: {where} does not begin at a multiple of {alignment}"
                )
            end = tensor.offset + tensor.stored
            if start + end > self.length:
                raise BadFile(
                    self.path,
                    f"cannot be loaded: {where} ends at byte {start + end:,}, the file has "
                    f"{self.length:,}; it was truncated",
                )
        if described and self.length - (start + end) >= alignment:
            raise BadFile(
                self.path,
                f"cannot be loaded: its header says {start + end:,} bytes, the file has "
                f"{self.length:,}; something was appended",
            )
        return tuple(described)

    def tensor(self) -> Tensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.name("tensor")
        dimensions = self.number("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise BadFile(
                self.path,
                f"says tensor {name[:80]!r} has {dimensions:,} dimensions; valid: 1 to {MOST_DIMENSIONS}",
            )
        shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        kind, offset = self.number("<I"), self.number("<Q")
        try:
            known = GGMLQuantizationType(kind)
            block, block_bytes = GGML_QUANT_SIZES[known]
        except (ValueError, KeyError):
            raise BadFile(
                self.path,
                f"stores tensor {name[:80]!r} in a way that the installed package gguf does not know "
                f"(type {kind}); update it: pip install -U gguf",
            ) from None
        if not all(shape) or shape[0] % block:
            raise BadFile(
                self.path,
                f"says tensor {name[:80]!r} is {' x '.join(map(str, shape))}, which {known.name} cannot "
                f"be (blocks of {block})",
            )
        return Tensor(name, shape, known.name, offset, math.prod(shape) // block * block_bytes)
