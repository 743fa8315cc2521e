"""Reads a checkpoint as a plain Hugging Face model, with its adapter.

It uses no network, and neither pickled weights nor remote code unless the user allows them
(`checkpoints.trust`).
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.hub import offline
from pytest_mechanism.checkpoints.loading.gguf import finish, read_gguf
from pytest_mechanism.checkpoints.loading.merge import InexactMergeError, with_adapter
from pytest_mechanism.checkpoints.loading.placement import Placement, offloaded
from pytest_mechanism.checkpoints.loading.plausible import advice, check_plausible
from pytest_mechanism.checkpoints.quantisers import already_quantised
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust, pickled_files, weights_problem
from pytest_mechanism.checkpoints.untrusted_config import config_problem
from pytest_mechanism.errors import MechanismError, first_line
from pytest_mechanism.files import is_gguf
from pytest_mechanism.model_families.rotary import by_row
from pytest_mechanism.tasks.text.encoding import Encoder

BUFFERS = ("inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")
"""Buffers of older checkpoints that today's models do not have."""


def read_model(
    folder: Path,
    dtype: torch.dtype,
    adapter: Path | None = None,
    trust: Trust = TRUST_NOTHING,
    placement: Placement | None = None,
    probe: Tensor | None = None,
) -> tuple[Any, str]:
    """A plain Hugging Face model with its adapter, on the CPU unless placed elsewhere; and why the
    adapter is not merged, or an empty text.

    Raises:
        MechanismError: weights missing, damaged, not matching the config, or not trusted.
    """
    model = read_weights(folder, dtype, trust, placement)
    if adapter is None:
        return model, ""
    if offloaded(model):
        raise MechanismError(f"{folder}: an adapter cannot be merged into weights that do not fit")
    check_finite(model, str(folder))  # later problems are the adapter's
    if getattr(model, "is_quantized", False):
        return with_adapter(model, adapter, trust, merge=False), "the base's weights are quantised"
    try:
        return with_adapter(model, adapter, trust, probe), ""
    except InexactMergeError as problem:
        why = str(problem)
    del model
    gc.collect()
    model = read_weights(folder, dtype, trust, placement)
    return with_adapter(model, adapter, trust, merge=False), why


def read_weights(
    folder: Path,
    dtype: torch.dtype,
    trust: Trust = TRUST_NOTHING,
    placement: Placement | None = None,
) -> Any:
    """A plain Hugging Face model, on the CPU unless placed elsewhere.

    Raises:
        MechanismError: weights missing, damaged, not matching the config, or not trusted.
    """
    config = read_config(folder)
    gguf = is_gguf(folder)
    quantises = placement is not None and placement.quantize is not None
    if quantises and (twice := already_quantised(folder)) is not None:
        raise MechanismError(f"--mechanism-quantize: {folder}: {twice}")
    if (
        not gguf
        and (wrong := config_problem(config, trust) or weights_problem(folder, trust)) is not None
    ):
        raise MechanismError(f"{folder}: {wrong}")
    code = trust.remote_code and bool(config.get("auto_map"))
    with offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        from pytest_mechanism.model_families.tracr import TRACR, register

        if config.get("model_type") == TRACR:
            register()
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        arguments = {
            "attn_implementation": "eager",
            # experts one after another: the batched multiplication does not support float64
            "experts_implementation": "eager" if dtype == torch.float64 else None,
            "use_safetensors": not pickled_files(folder),
            "weights_only": True,  # of pickled files too: tensors, and no calls
            "local_files_only": True,
            "trust_remote_code": code,  # without auto_map no code is in the fingerprint
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # reported below, with the name of the weight
            **(placement.arguments() if placement is not None else {}),
        }
        try:
            if gguf:
                model, info = read_gguf(folder, dtype, arguments)
            else:
                check_plausible(folder, config, build=not code)
                model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **arguments)
        except MechanismError:
            raise
        except Exception as problem:  # a damaged folder makes the libraries raise anything
            raise MechanismError(f"{folder} cannot be loaded: {first_line(problem)}") from None
        finally:
            logging.set_verbosity(before)
    check_all_loaded(folder, info)
    if gguf:
        finish(model, folder)
    else:
        check_tied(folder, model)
    return by_row(model)


def check_all_loaded(folder: Path, info: Mapping[str, Any]) -> None:
    """Checks transformers' report on the weights that it read.

    Raises:
        MechanismError: weights are missing, left over, or of another shape.
    """
    where = "its metadata" if is_gguf(folder) else "config.json"
    mismatched = sorted(key for key in info.get("mismatched_keys") or () if isinstance(key, tuple))
    if mismatched:
        name, saved, expected = mismatched[0]
        raise MechanismError(
            f"{folder}: {len(mismatched)} weights have another shape than {where} says, first "
            f"{name}: {list(saved)} in the file, {list(expected)} by the config{advice(folder)}"
        )
    for fault in ("missing", "mismatched", "unexpected"):
        keys = sorted(str(key) for key in info.get(f"{fault}_keys") or ())
        keys = [key for key in keys if not key.endswith(BUFFERS)]
        if keys:
            raise MechanismError(
                f"{folder}: {len(keys)} weights {fault} against {where}, first {keys[0]}; "
                "the checkpoint is incomplete, or its config belongs to another"
            )


def check_tied(folder: Path, model: Any) -> None:
    """Checks that the weights have one matrix where the config ties output matrix and embedding. Of two different ones,
    transformers keeps both; other programs take the embedding alone, and would run another model than the measured one.

    Raises:
        MechanismError: there are two different ones.
    """
    config = model.config.get_text_config()
    can_tie = bool(getattr(model, "_tied_weights_keys", None))
    if not (can_tie and getattr(config, "tie_word_embeddings", False)):
        return
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [w for w in (getattr(m, "weight", None) for m in modules) if isinstance(w, Tensor)]
    weights = [w.detach() for w in weights if w.is_floating_point() and not w.is_meta]
    if len(weights) < len(modules):
        return
    first, last = weights
    if first.data_ptr() != last.data_ptr() and not torch.equal(first.cpu(), last.cpu()):
        raise MechanismError(
            f"{folder}: config.json ties the output matrix to the embedding, and the weights have two different "
            "ones, so programs disagree on which model this is; set tie_word_embeddings to false, or tie them"
        )


def cut_vocabulary(model: Any, encoder: Encoder) -> Any:
    """The model without embeddings beyond its tokenizer's vocabulary.

    Vocabularies are padded and resized. Tokens that no text can contain must take no probability from
    others, and no part in a comparison of two models.
    """
    size = encoder.vocabulary_size
    if size < model.get_input_embeddings().weight.shape[0]:
        modules = (model.get_input_embeddings(), model.get_output_embeddings())
        obstacle = ""
        if any(module is not None and module.weight.is_meta for module in modules):
            obstacle = "they do not fit into memory"
        if any(hasattr(module, "base_layer") for module in modules):
            obstacle = "an adapter runs beside them"
        if obstacle:
            raise MechanismError(
                f"{encoder.name}: embeddings beyond the tokenizer's vocabulary cannot be removed, since "
                f"{obstacle}"
            )
        model.resize_token_embeddings(size)
    return model


def check_finite(model: Any, whose: str) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.is_meta and not is_finite(parameter):
            raise MechanismError(f"{whose}: weight {name} has NaN or infinite values")


def is_finite(parameter: Tensor) -> bool:
    """Whether all numbers of a weight are finite, also of one that a library keeps quantised."""
    try:
        return bool(torch.isfinite(parameter).all())
    except NotImplementedError:  # torchao's tensors do not implement isfinite
        return bool(torch.isfinite(parameter.dequantize()).all())
