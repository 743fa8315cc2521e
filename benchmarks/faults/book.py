"""The results of a run, line by line in a file: a run that was stopped continues where it was."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


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


def command(
    description: str,
    file: str,
    go: Callable[[Path, float], None],
    text: Callable[[Mapping[str, Any]], str],
    arguments: Sequence[str] | None,
) -> int:
    """The command of a benchmark that continues where it was: measures, unless a report is asked for, and prints the
    tables. Returns the exit code.

    Args:
        description: of the benchmark.
        file: name of the book.
        go: measures into a folder, until a point in time.
        text: the tables of the entries.
        arguments: of the command.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=1e6, help="end after so many minutes")
    parser.add_argument("--report", action="store_true", help="measure nothing, print the tables")
    typed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    typed.folder.mkdir(parents=True, exist_ok=True)
    if not typed.report:
        go(typed.folder, time.time() + 60 * typed.minutes)
    print(text(Book(typed.folder / file).entries))
    return 0
