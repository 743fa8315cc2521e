"""Errors for users: one line that says what is wrong, where, and what the valid choices are."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable


class MechanismError(Exception):
    """An error that the user can fix. Its text is one line and needs no traceback.

    Attributes:
        message: what is wrong, and what would be right.
        where: ``file:line`` of the faulty input, or None if no file is at fault.
        trace: the traceback of another library's error behind it, for developers; else empty.
    """

    trace: str = ""

    def __init__(self, message: str, where: str | None = None) -> None:
        self.message = one_line(message)
        self.where = one_line(where) if where else None
        super().__init__(f"{self.where}: {self.message}" if self.where else self.message)

    def at(self, where: str) -> MechanismError:
        """The same error with a place, unless it has one already."""
        if self.where:
            return self
        placed = type(self)(self.message, where)
        placed.trace = self.trace
        return placed


class FieldError(ValueError):
    """A validation error that knows the faulty field.

    Attributes:
        at: the keys that lead from the validated mapping to the faulty value.
    """

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at


class SpecError(MechanismError):
    """A spec file contains an error."""


class BadReference(MechanismError):
    """A checkpoint reference names nothing that can be loaded."""


class CheckpointChanged(MechanismError):
    """A checkpoint changed after its fingerprint was taken."""


class NoDevice(MechanismError):
    """This machine lacks the requested device, so nothing can be measured."""


class SelfCheckError(MechanismError):
    """A forward pass violates what holds for every model, so its numbers cannot be trusted."""


class MeasurementError(MechanismError):
    """A measurement gives no number on this model and task."""


class TooFewContexts(MeasurementError):
    """The rows come from too few contexts for a confidence interval; the message says to raise ``task.rows``."""


class NotMeasured(MeasurementError):
    """Nobody made the measurement, where results are only recalled."""


class Crashed(MeasurementError):
    """A measurement raised something other than a `MechanismError`."""


TRACEBACK = "MECHANISM_TRACEBACK"
"""The environment variable that, set to 1, shows the traceback of an error inside a measurement."""


def crash(failure: str, problem: BaseException) -> Crashed:
    """An exception of a library, or of our own code, as a one-line error that keeps the traceback.

    Args:
        failure: what failed.
        problem: the exception.
    """
    name, message = type(problem).__name__, first_line(problem)
    cause = name if message == name else f"{name}: {message}"
    error = Crashed(f"{failure}: {cause} ({TRACEBACK}=1 shows the traceback)")
    error.trace = "".join(traceback.format_exception(problem))
    return error


NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
)
"""Parts of the messages of torch and its libraries, on a GPU and on a CPU."""


def out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, so that a smaller batch may work."""
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError)
        and any(part in str(problem).lower() for part in NO_MEMORY)
    )


LONGEST = 1000
"""The most characters of an error line; only text from the input makes one longer."""


COMMAND = re.compile(r"(?<!\S):(?=:)")
"""The first colon of what GitHub would obey at the beginning of a line; text is wrapped at spaces."""


def visible(text: str) -> str:
    """Printable text, which a terminal or a page shows and never obeys.

    Control characters, line breaks, unusual spaces and marks that change the direction of writing become
    escape codes: ``\\x1b``, ``\\n``, ``\\u202e``. Every text of a model, a spec, a file name or a library's
    error passes through here before it is shown. The logs of GitHub and Azure obey ``##[`` anywhere in a line and
    ``::`` at its beginning, so the bracket, and a colon at the beginning of a word, become escape codes too.
    """
    if "##[" in text:  # otherwise an enumeration's member would become a plain text
        text = text.replace("##[", "##\\x5b")
    if "::" in text:
        text = COMMAND.sub(r"\\x3a", text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Text as one printable line of limited length."""
    spaced = " ".join(text.split())
    if len(spaced) > LONGEST:
        spaced = f"{spaced[: LONGEST // 2]} ... {spaced[-LONGEST // 2 :]}"
    return visible(spaced)


def first_line(problem: BaseException) -> str:
    """The first line of an exception's message, with the second line if the first ends with a colon."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    if not lines:
        return type(problem).__name__
    return one_line(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:300]


def choices(text: str, valid: Iterable[str]) -> str:
    """'valid: a, b, c', after a suggestion if ``text`` is close to a valid choice."""
    names = sorted(valid)
    if not names:
        return "there are none"
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.6)
    listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"valid: {listed}"


def without_choices(line: str) -> str:
    """An error's line without the list that `choices` ended it with, where many errors stand below each other."""
    return line.partition("valid: ")[0].rstrip("; ")


def add_models(roles: Iterable[str]) -> str:
    """The options that give a run checkpoints for further roles."""
    return "add " + " ".join(f"--mechanism-model {role}=REFERENCE" for role in roles)
