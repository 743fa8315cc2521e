"""Who is told how far measuring has come."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

Parts = tuple[str, int, str]
"""What is measured, how many parts it has, and what they are: ``("path patching", 144, "heads")``."""


@runtime_checkable
class Progress(Protocol):
    """Told what is going on; an interactive terminal or a log shows it."""

    def start(self, label: str, total: int, parts: Parts | None = None) -> None: ...

    def advance(self, rows: int) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Progress that nobody sees."""

    def start(self, label: str, total: int, parts: Parts | None = None) -> None: ...

    def advance(self, rows: int) -> None: ...

    def finish(self) -> None: ...
