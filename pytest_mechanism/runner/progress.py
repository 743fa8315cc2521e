"""Who is told how far measuring has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is going on; an interactive terminal shows it."""

    def start(self, label: str, total: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Progress that nobody sees."""

    def start(self, label: str, total: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def finish(self) -> None: ...
