"""Adapters in PEFT's format: ``reference+adapter``, or an adapter's folder that names its base.

What can be said about an adapter without reading its weights; `checkpoints.loading.merge` puts it into its
base.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.config import MOST_CONFIG
from pytest_mechanism.checkpoints.contents import header
from pytest_mechanism.checkpoints.trust import (
    ALLOW_PICKLE,
    NONE,
    PICKLED_ADAPTER,
    SAFE_ADAPTER,
    Trust,
)
from pytest_mechanism.errors import BadReference, MechanismError, choices
from pytest_mechanism.files import read_json

CONFIG = "adapter_config.json"

MOST_LAYERS = 2_000
"""Several times what the deepest model of today has."""

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
        raise BadReference(
            f"{text}: {folder} has no {CONFIG}, so it is no adapter{beneath(folder)}"
        )
    config = adapter_config(folder)
    if config.get("alora_invocation_tokens"):
        raise BadReference(
            f"{text}: an activated LoRA (alora_invocation_tokens in {CONFIG}) works from a certain "
            "token of a prompt on, so it cannot be tested as one model"
        )
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


def beneath(folder: Path) -> str:
    """Where below a folder adapters or checkpoints are, to be named in an error; empty where there
    are none."""
    found = sorted({p.parent for name in (CONFIG, "config.json") for p in folder.glob(f"*/{name}")})
    if not found:
        return ""
    names = [str(folder / each.name) for each in found]
    return f"; did you mean {names[0]}?" if len(names) == 1 else f"; {choices('', names)}"


def replicated_layers(folder: Path) -> int | None:
    """How many layers the model has after an adapter has repeated some of its base's; None where
    it repeats none."""
    spans = adapter_config(folder).get("layer_replication")
    if not spans:
        return None
    try:
        count = sum(int(stop) - int(start) for start, stop in spans)
    except (TypeError, ValueError):
        raise BadReference(
            f"{folder / CONFIG}: layer_replication must be a list of [first, last + 1]"
        ) from None
    if not 1 <= count <= MOST_LAYERS:
        raise BadReference(
            f"{folder / CONFIG}: layer_replication gives {count:,} layers; valid: 1 to {MOST_LAYERS:,}"
        )
    return count


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


def check_ranks(folder: Path) -> None:
    """Whether a rank is one that the adapter's weights can have: PEFT makes matrices of it first.

    Raises:
        MechanismError: it is not.
    """
    replicated_layers(folder)
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
