"""Checks a checkpoint's folder, or its GGUF file, without reading its weights.

The errors begin with the reference as the user typed it, and name what may be meant instead.
"""

from __future__ import annotations

from pathlib import Path

from pytest_mechanism.checkpoints.adapter import instead, subfolder_hint
from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.contents import checked_files
from pytest_mechanism.checkpoints.gguf_file import files_in
from pytest_mechanism.checkpoints.hub import PREFIX
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust, weights_problem
from pytest_mechanism.checkpoints.untrusted_config import config_problem
from pytest_mechanism.errors import BadReference, MechanismError
from pytest_mechanism.files import is_gguf


def check_folder(folder: Path, text: str, trust: Trust = TRUST_NOTHING) -> None:
    """Checks a checkpoint's folder, or its GGUF file, without reading its weights.

    Raises:
        BadReference: it cannot be loaded.
    """
    if is_gguf(folder):
        check_files(folder, text)
        return
    try:
        config = read_config(folder)
    except MechanismError as problem:
        hint = ""
        if not (folder / "config.json").exists():
            hint = gguf_hint(folder, text) or subfolder_hint(folder)
        raise BadReference(f"{text}: {problem.message}{hint}") from None
    if (refused := config_problem(config, trust)) is not None:
        raise BadReference(f"{text}: {refused}")
    if (refused := weights_problem(folder, trust)) is not None:
        raise BadReference(f"{text}: {refused}{gguf_hint(folder, text)}")
    check_files(folder, text)
    if not (folder / "tokenizer.json").exists():
        raise BadReference(
            f"{text} has no tokenizer.json; save a fast tokenizer beside the weights "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )


def gguf_hint(folder: Path, text: str) -> str:
    """For an error: the GGUF files of a folder; empty if there are none."""
    names = files_in(folder)
    if names and text.startswith(PREFIX):
        name, at, revision = text.partition("@")
        return f"; name one of its GGUF files, as in {name}/{names[0]}{at}{revision}"
    return instead([str(Path(text) / name) for name in names])


def check_files(folder: Path, text: str) -> None:
    """Checks that all files to be read are regular files of a plausible size, and not damaged.

    Raises:
        BadReference: a file is not regular, too large or damaged.
    """
    try:
        checked_files(folder)
    except MechanismError as problem:
        raise BadReference(f"{text}: {problem.message}") from None
    except OSError as problem:
        raise BadReference(f"{text}: {folder} cannot be read: {problem.strerror}") from None
