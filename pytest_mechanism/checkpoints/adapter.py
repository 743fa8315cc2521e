"""Adapters in PEFT's format: ``reference+adapter``, or an adapter's folder that names its base.

The checks here need no weights; `checkpoints.loading.merge` merges an adapter into its base.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.config import MOST_CONFIG
from pytest_mechanism.checkpoints.contents import safetensors_header
from pytest_mechanism.checkpoints.trust import (
    ALLOW_PICKLE,
    PICKLED_ADAPTER,
    SAFE_ADAPTER,
    TRUST_NOTHING,
    Trust,
)
from pytest_mechanism.errors import BadReference, MechanismError, choices
from pytest_mechanism.files import read_json

CONFIG = "adapter_config.json"

MOST_LAYERS = 2_000
"""Several times the depth of today's deepest model."""

MERGED = (
    "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "HRA", "FOURIERFT", "LN_TUNING",
    "BONE", "MISS", "RANDLORA", "SHIRA", "C3A",
)  # fmt: skip
"""Kinds that can be merged into weights. Some of the others would read other folders or the hub."""


def is_adapter(folder: Path) -> bool:
    return os.path.lexists(folder / CONFIG)


def check_adapter(folder: Path, text: str, trust: Trust = TRUST_NOTHING) -> None:
    """Checks an adapter's folder without reading its weights.

    Raises:
        BadReference: it is not an adapter, cannot be merged, or its weights are pickled.
    """
    if not is_adapter(folder):
        raise BadReference(
            f"{text}: {folder} has no {CONFIG}, so it is not an adapter{subfolder_hint(folder)}"
        )
    config = adapter_config(folder)
    if config.get("alora_invocation_tokens"):
        raise BadReference(
            f"{text}: an activated LoRA (alora_invocation_tokens in {CONFIG}) changes the model only "
            "after certain tokens of a prompt, so it cannot be tested"
        )
    kind = config.get("peft_type")
    if kind is None:
        raise BadReference(f"{text}: {CONFIG} has no peft_type (such as LORA)")
    if not isinstance(kind, str) or kind.upper() not in MERGED:
        raise BadReference(
            f"{text}: an adapter of type {str(kind)[:40]} cannot be merged into its base; "
            f"valid: {', '.join(MERGED)}"
        )
    if config.get("megatron_config") is not None or config.get("megatron_core") not in (
        None,
        "megatron.core",
    ):
        # PEFT would import the module that the file names
        raise BadReference(f"{text}: megatron_config in {CONFIG} is not supported; remove it")
    # without the safetensors file PEFT reads the pickled one, whatever its arguments say
    if (folder / SAFE_ADAPTER).is_file():
        return
    if not (folder / PICKLED_ADAPTER).is_file():
        raise BadReference(f"{text}: {folder} has no {SAFE_ADAPTER}")
    if not trust.pickle:
        raise BadReference(
            f"{text}: {folder} has no {SAFE_ADAPTER}; pickled adapters are not loaded "
            f"({ALLOW_PICKLE} loads the tensors in them, and nothing else)"
        )


def subfolder_hint(folder: Path) -> str:
    """For an error: the subfolders with an adapter or a checkpoint; empty if there are none."""
    configs = [p for name in (CONFIG, "config.json") for p in folder.glob(f"*/{name}")]
    return instead([str(folder / name) for name in sorted({p.parent.name for p in configs})])


def instead(names: Sequence[str]) -> str:
    """For an error: the files or folders that may be meant instead; empty if there are none."""
    if not names:
        return ""
    return f"; did you mean {names[0]}?" if len(names) == 1 else f"; {choices('', names)}"


def replicated_layers(folder: Path) -> int | None:
    """The number of layers after an adapter has repeated some of its base's; None if it repeats none."""
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
    """adapter_config.json; empty if that is not a mapping.

    Raises:
        BadReference: it is missing or not JSON.
    """
    try:
        config = read_json(folder / CONFIG, MOST_CONFIG)
    except MechanismError as problem:
        raise BadReference(problem.message) from None
    except FileNotFoundError:
        raise BadReference(f"{folder / CONFIG} is missing") from None
    return config if isinstance(config, dict) else {}


def base_reference(folder: Path, text: str) -> str:
    """The base that an adapter names.

    Raises:
        BadReference: it names none.
    """
    if (base := named_base(folder)) is None:
        raise BadReference(f"{text} is an adapter that does not name its base; write BASE+{text}")
    return base


def named_base(folder: Path) -> str | None:
    """The base in an adapter's config."""
    base = adapter_config(folder).get("base_model_name_or_path")
    return base.strip() or None if isinstance(base, str) else None


def named_otherwise(adapter: Path, base: Path) -> str | None:
    """The base that an adapter names, if its last name is not that of the folder with which it is used: PEFT merges an
    adapter into any model of the same sizes."""
    if (named := named_base(adapter)) is None:
        return None
    cached = f"models--{named.replace('/', '--')}"  # the hub's cache names folders by commits
    last = named.rstrip("/").rpartition("/")[2]
    return None if last == base.name or cached in base.parts else named


def check_ranks(folder: Path) -> None:
    """Checks the ranks in the config, since PEFT allocates matrices of that rank first.

    Raises:
        MechanismError: a rank is larger than the adapter's weights allow.
    """
    replicated_layers(folder)
    config = adapter_config(folder)
    if str(config.get("peft_type")).upper() == "LOKR" or not (folder / SAFE_ADAPTER).is_file():
        return  # LoKr takes a rank that is too large as a request for a full matrix
    shapes = [tensor["shape"] for tensor in safetensors_header(folder / SAFE_ADAPTER).values()]
    largest = max((side for shape in shapes for side in shape), default=0)
    pattern = config.get("rank_pattern")
    ranks = {"r": config.get("r"), **(pattern if isinstance(pattern, dict) else {})}
    for name, rank in ranks.items():
        if isinstance(rank, (int, float)) and rank > largest:
            raise MechanismError(
                f"{folder / CONFIG}: the rank of {name} is {rank:,}, but the adapter's weights have "
                f"no dimension above {largest:,}"
            )
