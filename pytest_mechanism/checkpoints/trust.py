"""What a checkpoint's folder may do: nothing but be read, unless the user allows more.

A pickled file is a program. Even if the user allows it, torch unpickles it with ``weights_only``,
which gives tensors and plain containers and calls nothing. Remote code is Python in the folder that
``auto_map`` in config.json names; it runs with the user's rights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mechanism.files import BadFile, check_file, is_gguf, read_json

ALLOW_PICKLE = "--mechanism-allow-pickle"
TRUST_REMOTE_CODE = "--mechanism-trust-remote-code"

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
"""Files of weights and indexes of shards, in the order in which transformers looks for them."""

SAFE_ADAPTER = "adapter_model.safetensors"
PICKLED_ADAPTER = "adapter_model.bin"

CLASS = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)
"""``module.Class``, the module a file of the folder itself."""

MOST_WEIGHTS = 1 << 40
"""Maximum size of a file of weights in bytes: ten times the largest of today."""

MOST_INDEX = 64 << 20
"""Maximum size of an index of shards in bytes: ten times that of a model of a trillion weights."""


NOT_LOADED = (
    "; pickled weights are not loaded, save them as safetensors "
    f"(or use {ALLOW_PICKLE}, which loads the tensors in them and nothing else)"
)


@dataclass(frozen=True)
class Trust:
    """What the user allows.

    Attributes:
        pickle: to load weights from ``pytorch_model*.bin`` and ``adapter_model.bin``.
        remote_code: to run the folder's own modelling code.
    """

    pickle: bool = False
    remote_code: bool = False


TRUST_NOTHING = Trust()


def weights_file(folder: Path) -> str | None:
    """The file with which transformers starts to read a folder's weights, or None."""
    order = (SAFE, SAFE_INDEX, PICKLED, PICKLED_INDEX)
    return next((name for name in order if (folder / name).is_file()), None)


def pickled_files(folder: Path) -> list[Path]:
    """The pickled files of a model or an adapter; none if the folder has safetensors."""
    files: list[Path] = []
    if (first := weights_file(folder)) == PICKLED:
        files.append(folder / PICKLED)
    elif first == PICKLED_INDEX and index_problem(folder, folder / PICKLED_INDEX) is None:
        files += [folder / name for name in shards(folder / PICKLED_INDEX)]
    if not (folder / SAFE_ADAPTER).is_file() and (folder / PICKLED_ADAPTER).is_file():
        files.append(folder / PICKLED_ADAPTER)
    return files


def weight_bytes(folder: Path) -> int:
    """Bytes of the files of weights of a checkpoint, a folder or a GGUF file."""
    files = {folder} if is_gguf(folder) else {*folder.glob("*.safetensors"), *pickled_files(folder)}
    return sum(path.stat().st_size for path in files)


def code_files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files of remote code; none if the config names no code."""
    return sorted(folder.rglob("*.py")) if config.get("auto_map") else []


def weights_problem(folder: Path, trust: Trust) -> str | None:  # noqa: PLR0911 - a table of cases, one return each
    """Why a folder's weights cannot be loaded, as far as their names and sizes tell; or None."""
    for path in sorted({*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")}):
        if path.is_symlink() and not path.exists():
            return f"{path.name} is a broken link"
        try:
            check_file(path, MOST_INDEX if path.suffix == ".json" else MOST_WEIGHTS)
        except BadFile as problem:
            return problem.message
    first = weights_file(folder)
    if first is None:
        if any(folder.glob("*.safetensors")):
            return f"the folder has neither {SAFE} nor {SAFE_INDEX}, from which weights are loaded"
        absent = "the folder has no *.safetensors file"
        if not any(folder.glob("*.bin")) and not any(folder.glob("*.pt")):
            return absent
        if trust.pickle:
            return f"{absent}; its pickled weights must be named {PICKLED}"
        return f"{absent}{NOT_LOADED}"
    if first in (PICKLED, PICKLED_INDEX) and not trust.pickle:
        return f"the folder has no *.safetensors file{NOT_LOADED}"
    return index_problem(folder, folder / first) if first in (SAFE_INDEX, PICKLED_INDEX) else None


def index_problem(folder: Path, index: Path) -> str | None:
    """What is wrong with an index of shards, or None. Shards must be files of the folder itself and of
    the index's kind."""
    suffix = ".safetensors" if index.name == SAFE_INDEX else ".bin"
    try:
        names = shards(index)
    except BadFile as problem:
        return problem.message
    except (OSError, KeyError, TypeError, AttributeError):
        return f"{index.name} cannot be read as an index of shards"
    for name in names:
        if Path(name).name != name:
            return f"{index.name} names a shard outside the folder, {name[:80]!r}"
        if Path(name).suffix != suffix:
            return f"{index.name} names {name[:80]!r}, which is not a *{suffix} file"
        if not (folder / name).is_file():
            return f"{index.name} names {name[:80]!r}, which is missing"
    return None


def shards(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        OSError, MechanismError, KeyError, TypeError, AttributeError: it is not an index.
    """
    content = read_json(index, MOST_INDEX)
    return sorted({str(name) for name in content["weight_map"].values()})
