"""The one way in which commands write to the terminal: whatever a model or a spec says in a line,
it stays that line and does nothing to the terminal."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import NoReturn

from pytest_mechanism.errors import visible


def say(line: object, err: bool = False, flush: bool = False) -> None:
    """One line on standard output or standard error."""
    stream = sys.stderr if err else sys.stdout
    coding = getattr(stream, "encoding", None) or "utf-8"
    # a terminal without Unicode shows codes, and is no reason to stop
    shown = visible(str(line)).encode(coding, "backslashreplace").decode(coding)
    print(shown, file=stream, flush=flush)


class Parser(ArgumentParser):
    """argparse, which repeats what was typed."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))
