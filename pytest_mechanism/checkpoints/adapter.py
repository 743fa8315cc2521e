"""Adapters in PEFT's format: ``reference+adapter``, or an adapter's folder that names its base.

An adapter is merged into its base's weights when they are read (the library is PEFT), so that
everything after it sees an ordinary model.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.contents import header
from pytest_mechanism.checkpoints.shape import MOST_CONFIG
from pytest_mechanism.checkpoints.trust import (
    ALLOW_PICKLE,
    NONE,
    PICKLED_ADAPTER,
    SAFE_ADAPTER,
    Trust,
)
from pytest_mechanism.errors import BadReference, MechanismError, first_line, one_line
from pytest_mechanism.files import read_json

CONFIG = "adapter_config.json"

MERGED = (
    "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "HRA", "FOURIERFT", "LN_TUNING",
    "BONE", "MISS", "RANDLORA", "SHIRA", "C3A",
)  # fmt: skip
"""Kinds that are merged into weights. Of the others, some would read other folders or the hub."""


def is_adapter(folder: Path) -> bool:
    return os.path.lexists(folder / CONFIG)


def check_adapter(folder: Path, text: str, trust: Trust = NONE) -> None:
    """What can be said without reading it.

    Raises:
        BadReference: it is no adapter, one that cannot be merged, or its weights are pickled.
    """
    if not is_adapter(folder):
        raise BadReference(f"{text}: {folder} has no {CONFIG}, so it is no adapter")
    config = adapter_config(folder)
    kind = config.get("peft_type")
    if kind is None:
        raise BadReference(f"{text}: {CONFIG} names no peft_type, such as LORA")
    if not isinstance(kind, str) or kind.upper() not in MERGED:
        raise BadReference(
            f"{text}: an adapter of the kind {str(kind)[:40]} cannot be merged into its base; "
            f"valid: {', '.join(MERGED)}"
        )
    if config.get("megatron_config") is not None or config.get("megatron_core") not in (
        None,
        "megatron.core",
    ):
        # PEFT would import the module that the file names
        raise BadReference(f"{text}: megatron_config in {CONFIG} is not followed; take it out")
    if config.get("layer_replication"):
        raise BadReference(f"{text}: layer_replication in {CONFIG} is not followed; take it out")
    # PEFT takes the pickled file wherever the other is missing, whatever it is told
    if (folder / SAFE_ADAPTER).is_file():
        return
    if not (folder / PICKLED_ADAPTER).is_file():
        raise BadReference(f"{text}: {folder} has no {SAFE_ADAPTER}")
    if not trust.pickle:
        raise BadReference(
            f"{text}: {folder} has no {SAFE_ADAPTER}; pickled adapters are not loaded "
            f"(unless you say {ALLOW_PICKLE}, which loads tensors and nothing else)"
        )


def adapter_config(folder: Path) -> dict[str, Any]:
    """Its adapter_config.json; empty where that holds no mapping.

    Raises:
        BadReference: it is no JSON.
    """
    try:
        given = read_json(folder / CONFIG, MOST_CONFIG)
    except MechanismError as problem:
        raise BadReference(problem.message) from None
    except FileNotFoundError:
        raise BadReference(f"{folder / CONFIG} is gone") from None
    return given if isinstance(given, dict) else {}


def base_of(folder: Path, text: str) -> str:
    """The base that an adapter names.

    Raises:
        BadReference: none.
    """
    base = adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise BadReference(f"{text} is an adapter that names no base; write BASE+{text}")
    return base.strip()


def merged(model: Any, folder: Path, trust: Trust = NONE) -> Any:
    """The model with an adapter's weights in its own.

    Raises:
        MechanismError: PEFT is missing, or the adapter does not fit.
    """
    check_adapter(folder, str(folder), trust)
    check_ranks(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from peft import PeftModel, get_peft_model_state_dict
        except ImportError:
            raise MechanismError(
                "an adapter needs the library PEFT: pip install 'pytest-mechanism[peft]'"
            ) from None
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                adapted = PeftModel.from_pretrained(model, str(folder))
            missing = [w for w in said if "missing adapter keys" in str(w.message)]
            if missing:
                raise MechanismError(
                    f"{folder}: the adapter's weights do not fit its config or base: "
                    f"{one_line(str(missing[0].message))[:200]}"
                )
            if surplus := sorted(tensors(folder) - {*get_peft_model_state_dict(adapted)}):
                raise MechanismError(
                    f"{folder}: {len(surplus)} of the adapter's weights fit nothing in its base, "
                    f"first {surplus[0][:120]}; its config or base belongs elsewhere"
                )
            return adapted.merge_and_unload()
        except MechanismError:
            raise
        except Exception as problem:  # whatever an adapter of another model makes PEFT raise
            raise MechanismError(f"{folder} does not fit its base: {first_line(problem)}") from None


def check_ranks(folder: Path) -> None:
    """Whether a rank is one that the adapter's weights can have: PEFT makes matrices of it first.

    Raises:
        MechanismError: it is not.
    """
    config = adapter_config(folder)
    if str(config.get("peft_type")).upper() == "LOKR" or not (folder / SAFE_ADAPTER).is_file():
        return  # LoKr takes a rank that is too large for a full matrix
    shapes = [each["shape"] for each in header(folder / SAFE_ADAPTER).values()]
    largest = max((side for shape in shapes for side in shape), default=0)
    pattern = config.get("rank_pattern")
    ranks = {"r": config.get("r"), **(pattern if isinstance(pattern, dict) else {})}
    for name, rank in ranks.items():
        if isinstance(rank, (int, float)) and rank > largest:
            raise MechanismError(
                f"{folder / CONFIG}: the rank of {name} is {rank:,}, and no side of the adapter's "
                f"weights is longer than {largest:,}"
            )


def tensors(folder: Path) -> set[str]:
    """Names of an adapter's weights."""
    if (folder / SAFE_ADAPTER).is_file():
        from safetensors import safe_open

        with safe_open(folder / SAFE_ADAPTER, framework="pt") as file:
            return {*file.keys()}
    import torch

    return {*torch.load(folder / PICKLED_ADAPTER, map_location="cpu", weights_only=True)}
