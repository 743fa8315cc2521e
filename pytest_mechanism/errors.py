"""The one error that users see: what is wrong, where, and the valid choices, in one line."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable


class MechanismError(Exception):
    """Something the user can put right. Its text is one line and needs no traceback.

    Attributes:
        message: what is wrong and what would be right.
        where: ``file:line`` of the input at fault, or None where no file is.
        trace: traceback of another library's error behind it, for developers; else empty.
    """

    trace: str = ""

    def __init__(self, message: str, where: str | None = None) -> None:
        self.message = one_line(message)
        self.where = one_line(where) if where else None
        super().__init__(f"{self.where}: {self.message}" if self.where else self.message)

    def at(self, where: str) -> MechanismError:
        """The same error with a place, where it has none yet."""
        if self.where:
            return self
        placed = type(self)(self.message, where)
        placed.trace = self.trace
        return placed


class FieldError(ValueError):
    """A validator's error that knows which key of its part is at fault.

    Attributes:
        at: keys from the part to the value.
    """

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at


class SpecError(MechanismError):
    """A spec file says something that cannot be meant."""


class BadReference(MechanismError):
    """A checkpoint reference on the command line names nothing that can be loaded."""


class CheckpointChanged(MechanismError):
    """A checkpoint is no longer what its fingerprint was taken of."""


class NoDevice(MechanismError):
    """The device that was asked for is not in this machine, so nothing can be measured."""


class SelfCheckError(MechanismError):
    """A run contradicts what must hold for every model; its numbers are not to be trusted."""


class MeasurementError(MechanismError):
    """A measurement cannot give a number on this model and task."""


class Crashed(MeasurementError):
    """Something other than a `MechanismError` was raised inside a measurement."""


TRACEBACK = "MECHANISM_TRACEBACK"
"""Environment variable: set to 1, an error of the code inside a measurement shows its traceback."""


def crash(what: str, problem: BaseException) -> Crashed:
    """An error of a library, or of our own code, as one line with its traceback kept aside.

    Args:
        what: what could not be done.
        problem: what was raised.
    """
    name, said = type(problem).__name__, first_line(problem)
    found = Crashed(
        f"{what}: {name if said == name else f'{name}: {said}'} ({TRACEBACK}=1 shows the traceback)"
    )
    found.trace = "".join(traceback.format_exception(problem))
    return found


NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
)
"""What torch and the libraries below it say, on a GPU and on a CPU."""


def out_of_memory(problem: BaseException) -> bool:
    """Whether less at once may go well."""
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError) and any(w in str(problem).lower() for w in NO_MEMORY)
    )


LONGEST = 1000
"""Characters of an error line; what is longer was pasted in by the input."""


def visible(text: str) -> str:
    """Text that does nothing to a terminal or a page.

    Control characters, line breaks, spaces that look like others and marks that turn the direction
    of writing stand as codes: ``\\x1b``, ``\\n``, ``\\u202e``. All that a model, a spec, a file's name
    or a library's error says goes through here on its way out.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Text made safe for a terminal line: no control characters, no line breaks, not endless."""
    spaced = " ".join(text.split())
    if len(spaced) > LONGEST:
        spaced = f"{spaced[: LONGEST // 2]} ... {spaced[-LONGEST // 2 :]}"
    return visible(spaced)


def first_line(problem: BaseException) -> str:
    """What a library's error says first, of several lines; with the next one where that ends in ':'."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    if not lines:
        return type(problem).__name__
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return one_line(said)[:300]


def choices(given: str, valid: Iterable[str]) -> str:
    """'valid: a, b, c', led by a suggestion where ``given`` is a near miss."""
    names = sorted(valid)
    if not names:
        return "there are none"
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"valid: {listed}"


def add_models(roles: Iterable[str]) -> str:
    """What to type so that a run has checkpoints for further roles."""
    return "add " + " ".join(f"--mechanism-model {role}=REFERENCE" for role in roles)
