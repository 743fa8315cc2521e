"""How many layers and heads a checkpoint has, read from its config.json without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import read_json

# Hugging Face families name the same thing differently; first match counts.
NAMES = {
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    "n_kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "d_head": ("head_dim",),
    "d_vocab": ("vocab_size",),
}


MOST_CONFIG = 1 << 24
"""Bytes of a config.json."""

MOST = {
    "n_layers": 2_000,
    "n_heads": 2_000,
    "n_kv_heads": 2_000,
    "d_model": 1 << 20,
    "d_head": 1 << 20,
}
MOST |= {"d_vocab": 10_000_000}
MOST_HEADS = 200_000
"""Several times what the largest model of today has; heads are counted over all layers."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer.

    Attributes:
        n_layers: number of blocks.
        n_heads: query heads a block.
        n_kv_heads: key-value heads a block (fewer than ``n_heads`` under GQA).
        d_model: width of the residual stream.
        d_head: width of one head.
        d_vocab: rows of the embedding.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int

    def heads(self) -> list[tuple[int, int]]:
        """Every (layer, head)."""
        return [(layer, h) for layer in range(self.n_layers) for h in range(self.n_heads)]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises:
        MechanismError: it is missing or is no JSON object.
    """
    path = folder / "config.json"
    try:
        config = read_json(path, MOST_CONFIG)
    except FileNotFoundError:
        raise MechanismError(f"{folder} has no config.json, so it is no checkpoint") from None
    if not isinstance(config, dict):
        raise MechanismError(f"{path} must hold a JSON object")
    return config


def read_shape(folder: Path) -> Shape:
    """Sizes from config.json (its ``text_config`` where a model has several parts).

    Raises:
        MechanismError: it does not say them, or they are no model's.
    """
    config = read_config(folder)
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) and inner else config
    found: dict[str, int] = {}
    for name, keys in NAMES.items():
        key, value = next(
            ((k, config[k]) for k in keys if config.get(k) is not None), (keys[0], None)
        )
        if isinstance(value, (int, float)) and value > MOST[name]:
            raise MechanismError(
                f"{folder / 'config.json'}: {key} is {value:,}, and no model has over {MOST[name]:,}"
            )
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[name] = value
    missing = {"n_layers", "n_heads", "d_model", "d_vocab"} - set(found)
    if missing:
        raise MechanismError(
            f"{folder / 'config.json'} does not say {', '.join(sorted(missing))}; "
            "is it a decoder-only language model?"
        )
    if found["n_layers"] * found["n_heads"] > MOST_HEADS:
        raise MechanismError(
            f"{folder / 'config.json'}: {found['n_layers']:,} layers of {found['n_heads']:,} heads, and "
            f"no model has over {MOST_HEADS:,} heads"
        )
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        found["n_kv_heads"] = 1  # Falcon, GPTBigCode
    found.setdefault("n_kv_heads", found["n_heads"])
    found.setdefault("d_head", found["d_model"] // found["n_heads"])
    return Shape(**found)
