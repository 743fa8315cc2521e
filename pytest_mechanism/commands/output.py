"""What commands write to the terminal, and the exit codes that they share."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import NoReturn

from pytest_mechanism.errors import visible

BAD_USE = 2
"""A bad spec, or wrong use."""
BUG = 3
"""An unforeseen error; pytest has the same code for it."""
INTERRUPTED = 130


def say(text: object, err: bool = False, flush: bool = False) -> None:
    """Print one line on standard output or standard error.

    Whatever a model or a spec put into the text, it stays one line and does nothing to the terminal.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # a terminal without Unicode shows escape codes instead of failing
    line = visible(str(text)).encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=stream, flush=flush)


def not_written(out: Path) -> str:
    """That a command wrote no file, and that the one that is there is not its own."""
    older = "; the file that is there is older" if out.exists() else ""
    return f"{out} was not written{older}"


def appeared(out: Path, force: bool) -> bool:
    """Whether a file that was not there when a long command began would be replaced now; a line says so.

    Args:
        out: what the command is to write.
        force: whether the user lets it replace a file.
    """
    if force or not (out.exists() or out.is_symlink()):
        return False
    say(
        f"{out} was not there before, and was not overwritten; the measurements are in the store, so the same command "
        "with another --out writes its own soon",
        err=True,
    )
    return True


class Parser(ArgumentParser):
    """argparse, whose errors repeat what was typed."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))
