"""From a folder to a plain Hugging Face model, with its adapter and the words of its tokenizer.

No network; safetensors only and no remote code, unless the user said otherwise
(`checkpoints.trust`).
"""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.hub import offline
from pytest_mechanism.checkpoints.loading.merge import InexactMergeError, with_adapter
from pytest_mechanism.checkpoints.loading.placement import Placement, offloaded
from pytest_mechanism.checkpoints.loading.plausible import check_plausible
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust, pickled_files, weights_problem
from pytest_mechanism.checkpoints.untrusted_config import config_problem
from pytest_mechanism.errors import MechanismError, first_line
from pytest_mechanism.model_families.rotary import by_row
from pytest_mechanism.tasks.text.encoding import Encoder

BUFFERS = ("inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")
"""Older checkpoints carry these, and no model of today has a place for them."""


def read_adapted(
    folder: Path,
    dtype: torch.dtype,
    adapter: Path | None = None,
    trust: Trust = TRUST_NOTHING,
    placement: Placement | None = None,
    probe: Tensor | None = None,
) -> tuple[Any, str]:
    """A plain Hugging Face model with its adapter, on the CPU unless placed elsewhere; and why the
    adapter is not merged into the weights, where it is not.

    Raises:
        MechanismError: weights missing, damaged, not matching the config, or not trusted.
    """
    model = read_weights(folder, dtype, trust, placement)
    if adapter is None:
        return model, ""
    if offloaded(model):
        raise MechanismError(f"{folder}: an adapter cannot be merged into weights that do not fit")
    check_weights(model, str(folder))  # what is wrong later is the adapter's
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
    if (wrong := config_problem(config, trust) or weights_problem(folder, trust)) is not None:
        raise MechanismError(f"{folder}: {wrong}")
    code = trust.remote_code and bool(config.get("auto_map"))
    with offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            check_plausible(folder, config, build=not code)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation="eager",
                # experts one after another: what multiplies all of them at once knows no float64
                experts_implementation="eager" if dtype == torch.float64 else None,
                use_safetensors=not pickled_files(folder),
                weights_only=True,  # of pickled files too: tensors, and no call of what they name
                local_files_only=True,
                trust_remote_code=code,  # where none is named, none has a fingerprint
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, with the weight named
                **(placement.arguments() if placement is not None else {}),
            )
        except MechanismError:
            raise
        except Exception as problem:  # whatever a damaged folder makes the libraries raise
            raise MechanismError(f"{folder} cannot be loaded: {first_line(problem)}") from None
        finally:
            logging.set_verbosity(before)
    if other := sorted(key for key in info.get("mismatched_keys") or () if isinstance(key, tuple)):
        name, saved, wanted = other[0]
        raise MechanismError(
            f"{folder}: {len(other)} weights have another shape than config.json says, first {name}: "
            f"{list(saved)} in the file, {list(wanted)} by the config; the config.json that belongs "
            "to these weights was saved with them"
        )
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        keys = sorted(str(k) for k in info.get(what) or ())
        keys = [k for k in keys if not k.endswith(BUFFERS)]
        if keys:
            raise MechanismError(
                f"{folder}: {len(keys)} weights {what.split('_')[0]} against config.json, "
                f"first {keys[0]}; the folder is incomplete or its config belongs elsewhere"
            )
    return by_row(model)


def known_words(model: Any, encoder: Encoder) -> Any:
    """The model without embeddings that its tokenizer has no word for.

    Vocabularies are padded and resized; what nobody trained and no text can say must take no
    probability from what can be said, and no part in comparing two models.
    """
    words = encoder.vocabulary_size
    if words < model.get_input_embeddings().weight.shape[0]:
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        why = ""
        if any(end is not None and end.weight.is_meta for end in ends):
            why = "they do not fit into memory"
        if any(hasattr(end, "base_layer") for end in ends):
            why = "an adapter lies beside them"
        if why:
            raise MechanismError(
                f"{encoder.name}: embeddings that its tokenizer has no word for cannot be cut, since "
                f"{why}"
            )
        model.resize_token_embeddings(words)
    return model


def check_weights(model: Any, whose: str) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.is_meta and not bool(torch.isfinite(parameter).all()):
            raise MechanismError(f"{whose}: weight {name} has values that are not finite")
