"""How far a measurement is, for a progress bar or a log."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

Parts = tuple[str, int, str]
"""Title, number and noun of a measurement's parts: ``("path patching", 144, "heads")``."""


@runtime_checkable
class Progress(Protocol):
    """Receives the number of rows that went through a model."""

    def start(self, label: str, total: int, parts: Parts | None = None) -> None: ...

    def advance(self, rows: int) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, label: str, total: int, parts: Parts | None = None) -> None: ...

    def advance(self, rows: int) -> None: ...

    def finish(self) -> None: ...
