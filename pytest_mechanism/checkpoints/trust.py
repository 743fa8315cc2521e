"""What a run lets a checkpoint's folder do: nothing but be read, unless the user says otherwise.

A pickled file is a program. Even where it is allowed, torch unpickles it with ``weights_only``:
tensors and plain containers, no call of what a file names. Remote code is Python in the folder,
named by ``auto_map`` in config.json, and runs with the user's rights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mechanism.files import BadFile, check_file, read_json

ALLOW_PICKLE = "--mechanism-allow-pickle"
TRUST_REMOTE_CODE = "--mechanism-trust-remote-code"

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
"""Weights, and an index of shards, in the order in which transformers looks for them."""

SAFE_ADAPTER = "adapter_model.safetensors"
PICKLED_ADAPTER = "adapter_model.bin"

CLASS = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)
"""``module.Class``: a file of the folder itself."""

MOST_WEIGHTS = 1 << 40
"""Bytes of one file of weights; the largest of today has a tenth of it."""

MOST_INDEX = 64 << 20
"""Bytes of an index of shards; that of a model of a trillion weights has a tenth of it."""


NOT_LOADED = (
    "; pickled weights are not loaded, save them as safetensors "
    f"(or say {ALLOW_PICKLE}, which loads tensors and nothing else)"
)


@dataclass(frozen=True)
class Trust:
    """What the user allowed.

    Attributes:
        pickle: weights may come from ``pytorch_model*.bin`` and ``adapter_model.bin``.
        remote_code: the folder's own modelling code may be run.
    """

    pickle: bool = False
    remote_code: bool = False


NONE = Trust()


def opened(folder: Path) -> str | None:
    """The file that transformers opens for a folder's weights, or None."""
    order = (SAFE, SAFE_INDEX, PICKLED, PICKLED_INDEX)
    return next((name for name in order if (folder / name).is_file()), None)


def pickled(folder: Path) -> list[Path]:
    """The pickled files that weights, or an adapter, would come from; none where there are
    safetensors."""
    found: list[Path] = []
    if (first := opened(folder)) == PICKLED:
        found.append(folder / PICKLED)
    elif first == PICKLED_INDEX and wrong_index(folder, folder / PICKLED_INDEX) is None:
        found += [folder / name for name in shards(folder / PICKLED_INDEX)]
    if not (folder / SAFE_ADAPTER).is_file() and (folder / PICKLED_ADAPTER).is_file():
        found.append(folder / PICKLED_ADAPTER)
    return found


def code(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files that remote code may consist of; none where the config names no code."""
    return sorted(folder.rglob("*.py")) if config.get("auto_map") else []


def wrong_weights(folder: Path, trust: Trust) -> str | None:
    """What can be said against a folder's weights without reading them, or None."""
    for path in sorted({*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")}):
        if path.is_symlink() and not path.exists():
            return f"{path.name} is a broken link"
        try:
            check_file(path, MOST_INDEX if path.suffix == ".json" else MOST_WEIGHTS)
        except BadFile as problem:
            return problem.message
    first = opened(folder)
    if first is None:
        if any(folder.glob("*.safetensors")):
            return f"the folder has neither {SAFE} nor {SAFE_INDEX}, by which weights are found"
        there = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        return "the folder has no *.safetensors file" + (
            "; its pickled weights have no name that is known (pytorch_model.bin)"
            if there and trust.pickle
            else NOT_LOADED
            if there
            else ""
        )
    if first in (PICKLED, PICKLED_INDEX) and not trust.pickle:
        return f"the folder has no *.safetensors file{NOT_LOADED}"
    return wrong_index(folder, folder / first) if first in (SAFE_INDEX, PICKLED_INDEX) else None


def wrong_index(folder: Path, index: Path) -> str | None:
    """What is wrong with an index of shards, or None: shards are files of the folder itself, and of
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
            return f"{index.name} names {name[:80]!r}, which is no *{suffix} file"
        if not (folder / name).is_file():
            return f"{index.name} names {name[:80]!r}, which is missing"
    return None


def shards(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        OSError, MechanismError, KeyError, TypeError, AttributeError: it is no index.
    """
    content = read_json(index, MOST_INDEX)
    return sorted({str(name) for name in content["weight_map"].values()})
