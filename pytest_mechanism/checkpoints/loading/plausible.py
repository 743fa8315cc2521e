"""Checks that a config can describe the weights beside it.

transformers builds a model from its config before it reads the weights, so a wrong number could take
hours or all memory. These checks compare numbers of layers with the number of stored tensors, and the
size of the whole model, built on torch's meta device, with the size of the files.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.contents import safetensors_header
from pytest_mechanism.checkpoints.trust import SAFE, SAFE_INDEX, pickled_files, shards, weights_file
from pytest_mechanism.checkpoints.untrusted_config import parts
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import is_gguf, size

LAYERS = re.compile(r"(num_.*|n_)(layer|layers|blocks|stages)|num_.*layers_?.*")
COUNTS = re.compile(r"(num|n)_.*|.*_(num|size|dim|rank)")
MOST = 10_000_000
"""Maximum of any other number in a config: tokens, positions, labels."""

PACKED = 8
"""Maximum number of weights in a byte of a file."""
BESIDE = 1 << 27
"""Numbers that a model may have beside its stored weights, such as masks."""


def check_plausible(folder: Path, config: Mapping[str, Any], build: bool = True) -> None:
    """Checks that a model of this config has about the size of the stored weights.

    Args:
        folder: of the checkpoint.
        config: its config.json.
        build: whether to build the model on the meta device, which runs its code.

    Raises:
        MechanismError: it would be far larger.
    """
    files = weight_files(folder)
    tensors = [
        name for path in files if path.suffix == ".safetensors" for name in safetensors_header(path)
    ]
    where = folder / "config.json"
    check_numbers(where, config, len(tensors))
    if build:
        check_memory(where, None, sum(path.stat().st_size for path in files))


def check_numbers(where: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Checks every number of a config.

    Args:
        where: the file that holds it.
        config: the config.
        tensors: number of stored tensors; 0 if it is not known.

    Raises:
        MechanismError: a number is too large for a model with these tensors, or for any.
    """
    most_layers = tensors or MOST
    for place, part, _ in parts(config):
        for key, value in part.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if LAYERS.fullmatch(str(key)) and value > most_layers:
                raise MechanismError(
                    f"{where}: {place}{key} is {value:,}, but the checkpoint has {tensors:,} tensors"
                    f"{advice(where)}"
                )
            if COUNTS.fullmatch(str(key)) and value > MOST and not str(key).endswith("_token_id"):
                raise MechanismError(f"{where}: {place}{key} is {value:,}, which no model has")


def advice(where: Path) -> str:
    """The end of an error about a config; empty for a GGUF file, whose config cannot be replaced alone."""
    return "" if is_gguf(where) else "; use the config.json that was saved with these weights"


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights."""
    first = weights_file(folder)
    if first == SAFE:
        return [folder / SAFE]
    if first == SAFE_INDEX:
        return [folder / name for name in shards(folder / SAFE_INDEX)]
    return pickled_files(folder)


def check_memory(where: Path, config: Any, stored: int) -> None:
    """Compares the model that a config describes with the stored bytes.

    Args:
        where: the file that holds the config.
        config: transformers' config object; None reads it from the file's folder.
        stored: bytes of all weights.

    Raises:
        MechanismError: it is far larger.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            if config is None:
                config = AutoConfig.from_pretrained(where.parent, local_files_only=True)
            config = copy.deepcopy(config)
            config._attn_implementation = "eager"  # noqa: SLF001 - how transformers names it
            model = AutoModelForCausalLM.from_config(config)
    except Exception:  # loading reports what is wrong with the config
        return
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if described > PACKED * stored + BESIDE:
        raise MechanismError(
            f"{where} describes a model of {described:,} numbers, but its weights have "
            f"{size(stored)}{advice(where)}"
        )
