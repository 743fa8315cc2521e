"""Whether a config can describe the weights beside it.

A model is built from its config before its weights are looked at, so a wrong number there could take
hours or all memory. Counts are held against the number of tensors in the files, and the whole model,
built without memory, against their size. Imports torch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.contents import header
from pytest_mechanism.checkpoints.trust import SAFE, SAFE_INDEX, opened, pickled, shards
from pytest_mechanism.checkpoints.untrusted_config import parts
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import size

LAYERS = re.compile(r"(num_.*|n_)(layer|layers|blocks|stages)|num_.*layers_?.*")
COUNTS = re.compile(r"(num|n)_.*|.*_(num|size|dim|rank)")
MOST = 10_000_000
"""Of whatever a config counts: words, positions, labels."""

PACKED = 8
"""Weights to a byte of a file, at the most."""
BESIDE = 1 << 27
"""Numbers that a model may hold beside its weights, such as masks: more than any that is known."""


def check_plausible(folder: Path, config: Mapping[str, Any], build: bool = True) -> None:
    """Whether a model of this config can be built in the memory that its weights suggest.

    Args:
        folder: the checkpoint's.
        config: its config.json.
        build: whether the model may be built without memory, which runs its code.

    Raises:
        MechanismError: it cannot.
    """
    files = weights(folder)
    tensors = [name for path in files if path.suffix == ".safetensors" for name in header(path)]
    most_layers = len(tensors) if tensors else MOST
    where = folder / "config.json"
    for place, part, _ in parts(config):
        for key, value in part.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if LAYERS.fullmatch(str(key)) and value > most_layers:
                raise MechanismError(
                    f"{where}: {place}{key} is {value:,}, and the folder has {len(tensors):,} tensors; "
                    "the config.json that belongs to these weights was saved with them"
                )
            if COUNTS.fullmatch(str(key)) and value > MOST and not str(key).endswith("_token_id"):
                raise MechanismError(f"{where}: {place}{key} is {value:,}, which no model has")
    if build:
        check_memory(folder, sum(path.stat().st_size for path in files))


def weights(folder: Path) -> list[Path]:
    """The files that weights are read from."""
    first = opened(folder)
    if first == SAFE:
        return [folder / SAFE]
    if first == SAFE_INDEX:
        return [folder / name for name in shards(folder / SAFE_INDEX)]
    return pickled(folder)


def check_memory(folder: Path, stored: int) -> None:
    """Whether the model that the config describes fits the bytes that are stored.

    Raises:
        MechanismError: it is far larger.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            config._attn_implementation = "eager"  # noqa: SLF001 - how transformers names it
            model = AutoModelForCausalLM.from_config(config)
    except Exception:  # what is wrong with the config is said when it is loaded
        return
    described = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    if described > PACKED * stored + BESIDE:
        raise MechanismError(
            f"{folder / 'config.json'} describes a model of {described:,} numbers, and the weights in "
            f"the folder have {size(stored)}; the config.json that belongs to these weights was saved "
            "with them"
        )
