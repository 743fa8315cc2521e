"""The results of a run, line by line in a file: a run that was stopped continues where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Book:
    """Entries by key, each a line of JSON.

    Attributes:
        path: the file.
        entries: key -> value.
    """

    path: Path
    entries: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        whole = self.path.read_text(encoding="utf-8")
        if not whole.endswith("\n"):  # stopped while it wrote its last line
            whole = whole[: whole.rfind("\n") + 1]
            self.path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            entry = json.loads(line)
            self.entries[entry["key"]] = entry["value"]

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def add(self, key: str, value: Mapping[str, Any]) -> None:
        """Write an entry and keep it."""
        self.entries[key] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")
