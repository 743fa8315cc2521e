"""The tokenizer in a GGUF file, as files that the other modules read. No torch.

`gguf_child` writes them into a temporary folder, once in the life of this process.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pytest_mechanism.errors import MechanismError, one_line
from pytest_mechanism.files import alone
from pytest_mechanism.tasks.text import gguf_child
from pytest_mechanism.tasks.text.child_process import ChildError, ChildLimitError, run_child

NAME = "model.gguf"
"""The file's name while it is read; it stands alone in its folder, without files to be mistaken for parts
of its tokenizer."""

SECONDS = 300
"""Of computing that the conversion may take; a vocabulary of 150,000 tokens takes 20."""

TIMEOUT = 900
"""Seconds until it is given up, however busy the machine is."""

MEMORY = 1 << 36
"""Bytes of address space, of which torch reserves much. The limits of `checkpoints.gguf_header` keep the
real memory small."""


def tokenizer_folder(path: Path) -> Path:
    """The folder with the files of a GGUF file's tokenizer, which exists as long as this process.

    Raises:
        MechanismError: transformers cannot make a tokenizer of the file.
    """
    try:
        status = path.stat()
    except OSError as problem:
        raise MechanismError(f"{path} cannot be read: {problem.strerror}") from None
    state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Path(_converted(path, state).name)


@lru_cache(maxsize=16)
def _converted(path: Path, state: tuple[int, ...]) -> TemporaryDirectory[str]:
    out = TemporaryDirectory(prefix="mechanism-tokenizer-")
    try:
        with alone(path, NAME) as folder:
            arguments = {"folder": str(folder), "name": NAME, "out": out.name}
            answer = run_child(gguf_child, arguments, SECONDS, MEMORY, TIMEOUT)
    except ChildLimitError:
        answer = {"error": f"it takes more than {SECONDS} seconds, or too much memory"}
    except ChildError as problem:
        answer = {"error": str(problem)}
    except OSError as problem:
        answer = {"error": f"no process can be started: {problem.strerror}"}
    if "error" in answer:
        out.cleanup()
        reason = one_line(answer["error"])[:200]
        raise MechanismError(f"{path}: the tokenizer in it cannot be read: {reason}")
    return out
