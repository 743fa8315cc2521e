"""Reads a GGUF file as a plain Hugging Face model, through transformers' own reader.

The reader dequantises the weights with the library ``gguf``: every number of the file becomes a float of
the dtype asked for. The result is an ordinary model, which can be trained, pruned and given adapters.
Where the reader ignores an entry of the file, the result would silently differ from llama.cpp's model. This
module refuses such files; only factors of rotary frequencies are applied here (`finish`).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from pytest_mechanism.checkpoints.gguf_file import checked_header, extra_layers, unused_metadata
from pytest_mechanism.checkpoints.gguf_header import Header
from pytest_mechanism.checkpoints.loading.plausible import check_memory, check_numbers
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import alone
from pytest_mechanism.tasks.text.gguf_once import read_once
from pytest_mechanism.tasks.text.gguf_tokenizer import NAME

ROTARY = "rope_freqs.weight"
"""The tensor of factors by which llama.cpp divides the frequencies of rotary embeddings (Llama 3.1)."""

LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Number of layers by which llama.cpp tells the model whose attention scores are divided by the root of
width / heads, and not of the head's width, as in its smaller sisters. No file says so."""


def read_gguf(path: Path, dtype: torch.dtype, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The model, and transformers' report on its weights.

    Args:
        path: of the file.
        dtype: of the weights.
        arguments: of ``from_pretrained``.

    Raises:
        MechanismError: the file is damaged, or transformers would make another model of it.
        Exception: whatever transformers raises.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    header = checked_header(path)
    if (unused := unused_metadata(header)) is not None:
        raise MechanismError(f"{path}: {unused}")
    # alone, so that transformers finds no adapter beside it; its bars go to no terminal
    with alone(path, NAME) as folder, redirect_stderr(StringIO()), read_once():
        config = AutoConfig.from_pretrained(folder, gguf_file=NAME, local_files_only=True)
        check_numbers(path, config.to_dict(), len(header.tensors))
        check_memory(path, config, sum(tensor.stored for tensor in header.tensors))
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, gguf_file=NAME, dtype=dtype, **dequantised(), **arguments
        )
    plain(model)
    gc.collect()  # the file's arrays
    return model, info


def finish(model: Any, path: Path) -> None:
    """Does what transformers leaves undone, once all of the model's weights are known to be there.

    Raises:
        MechanismError: the file holds more than the model has places for.
    """
    header = checked_header(path)
    check_complete(model, header)
    check_numbers_used(model, header)
    scale_rotary(model, path, header)


def dequantised() -> dict[str, Any]:
    """The argument that keeps newer versions of transformers from leaving weights quantised, for which
    they would fetch kernels."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def plain(model: Any) -> None:
    """Takes off what transformers notes of the file, since the weights are ordinary by now."""
    model.is_quantized = False
    for holder, name in ((model, "hf_quantizer"), (model, "quantization_method")):
        if hasattr(holder, name):
            delattr(holder, name)
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        if hasattr(config, "quantization_config"):
            del config.quantization_config


def check_complete(model: Any, header: Header) -> None:
    """Checks that the model has a place for every weight of the file.

    Raises:
        MechanismError: the file has more.
    """
    last = int(model.config.get_text_config().num_hidden_layers)
    left_out = tuple(f"blk.{layer}." for layer in range(last, last + extra_layers(header)))
    stored = sum(
        tensor.count
        for tensor in header.tensors
        if tensor.name != ROTARY and not tensor.name.startswith(left_out)
    )
    places = sum(parameter.numel() for parameter in model.parameters())
    if stored > places:
        raise MechanismError(
            f"{header.path} has {stored:,} weights, but transformers' {type(model).__name__} has places "
            f"for {places:,} and would leave out the rest, so it would be another model; convert the "
            "original checkpoint, and name its folder"
        )


def check_numbers_used(model: Any, header: Header) -> None:
    """Checks the numbers of a file that shape no weight. transformers takes its defaults for those that
    its table of an architecture leaves out, such as starcoder2's base of rotary frequencies.

    Raises:
        MechanismError: the model has another number than the file.
    """
    architecture = header.text("general.architecture")
    advice = "convert the original checkpoint, and name its folder"
    for name, used in numbers_used(model):
        said = header.metadata.get(f"{architecture}.{name}")
        if isinstance(said, (int, float)) and not math.isclose(said, used, rel_tol=1e-4):
            raise MechanismError(
                f"{header.path}: {architecture}.{name} is {said:g}, but transformers makes a model with "
                f"{used:g} of the file; {advice}"
            )
    config = model.config.get_text_config()
    if architecture in LAYERS_OF_27B:
        right = config.head_dim
        if config.num_hidden_layers == LAYERS_OF_27B[architecture]:
            right = config.hidden_size // config.num_attention_heads
        if config.query_pre_attn_scalar != right:
            raise MechanismError(
                f"{header.path}: its attention scores are divided by the root of {right}, but transformers "
                f"makes a model with {config.query_pre_attn_scalar} of the file; {advice}"
            )


def numbers_used(model: Any) -> Iterator[tuple[str, float]]:
    """Numbers of a model, each with the name that GGUF has for it, after the architecture's."""
    config = model.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) or {}
    parts = {
        "rope.freq_base": rotary.get("full_attention", rotary),
        "rope.freq_base_swa": rotary.get("sliding_attention"),
    }
    for name, part in parts.items():
        if part and part.get("rope_theta") is not None:
            yield name, part["rope_theta"]
    for module in model.modules():
        if hasattr(module, "inv_freq"):  # one number for two dimensions
            yield "rope.dimension_count", 2 * module.inv_freq.numel()
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if hasattr(config, name):
            yield name, getattr(config, name) or 0


def scale_rotary(model: Any, path: Path, header: Header) -> None:
    """Divides the rotary frequencies by the file's factors, as llama.cpp does:
    theta_i = position * base^(-2i/d) / factor_i.

    Raises:
        MechanismError: the factors do not fit.
    """
    if not any(tensor.name == ROTARY for tensor in header.tensors):
        return
    from gguf import GGUFReader

    tensor = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == ROTARY)
    factors = torch.tensor(tensor.data.copy()).float().flatten()
    holders = [module for module in model.modules() if hasattr(module, "inv_freq")]
    if not holders or any(module.inv_freq.shape != factors.shape for module in holders):
        raise MechanismError(f"{path}: {ROTARY} does not fit the model's rotary embedding")
    for module in holders:
        for name in ("inv_freq", "original_inv_freq"):
            if hasattr(module, name):
                frequencies = getattr(module, name)
                frequencies /= factors.to(frequencies)
