"""Imports transformer-lens without the libraries that only its data sets and tables need.

transformer-lens imports `datasets` (which brings pandas and pyarrow) for two functions that read data sets, and
pandas for one that writes a table. Nothing here calls them, and these libraries are a fifth of the time in which a
gate begins. While transformer-lens is imported, placeholders stand for them. A placeholder imports the library when
it is used, so that whoever calls these functions in the same process gets the real thing. A version of
transformer-lens that needs more of these libraries than a placeholder can do is imported without placeholders.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

POSTPONED = (
    "datasets",
    "datasets.arrow_dataset",
    "datasets.iterable_dataset",
    "datasets.load",
    "pandas",
)
"""Modules that transformer-lens imports at its top and uses inside functions and annotations."""


class LateName:
    """The placeholder of a function or class: using it imports its module."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def _real(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._real()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._real())

    def __or__(self, other: Any) -> Any:
        """As in annotations, which nobody reads."""
        return Any

    __ror__ = __or__


class LateModule(ModuleType):
    """The placeholder of a module: its names are `LateName`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # libraries ask for it to know what is installed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return LateName(self.__name__, name)


def import_lens(name: str) -> Any:
    """A module of transformer-lens."""
    try:
        with without_data_sets():
            return importlib.import_module(name)
    except Exception:  # of a placeholder, or of the import itself, which fails again
        return importlib.import_module(name)


@contextmanager
def without_data_sets() -> Iterator[None]:
    """In the block, modules of `POSTPONED` that are not imported yet are placeholders. A library that is not
    installed has none, so that others find out that it is missing."""
    late = {
        name: LateModule(name)
        for name in POSTPONED
        if name not in sys.modules and find_spec(name.partition(".")[0]) is not None
    }
    sys.modules.update(late)
    try:
        yield
    finally:
        for name, module in late.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
