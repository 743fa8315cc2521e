"""Lets transformers read a GGUF file once.

transformers reads the file anew for its config, its tokenizer and its weights, by the library ``gguf``, and makes
the table of the tensors' names anew for each module of the model. ``gguf`` slices a memory map for every number of
the header, and to slice numpy's own class of such maps takes most of the time. What is read is the same. Imports
nothing of this package: `gguf_child` uses it, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any


@contextmanager
def read_once() -> Iterator[None]:
    """Context in which ``gguf`` remembers the last file that it read, and its tables of names."""
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        """Reads from a plain array over the memory map."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    def state(path: Path) -> tuple[int, ...]:
        status = path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    @lru_cache(maxsize=1)
    def known(path: Path, _: tuple[int, ...], *options: Any) -> Reader:
        return Reader(path, *options)

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = lambda path, *options: known(Path(path), state(Path(path)), *options)
    gguf.get_tensor_name_map = lru_cache(maxsize=4)(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before
