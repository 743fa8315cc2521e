"""What families call their sizes in config.json. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SIZE_NAMES = {
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    "n_kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "d_head": ("head_dim",),
    "d_vocab": ("vocab_size",),
}
"""Size -> what families call it; the first name that a config has counts."""

POSITION_LIMITS = ("max_position_embeddings", "max_seq_len")
"""What families call the number of positions that a model knows."""

WRITTEN_LIMITS = (*POSITION_LIMITS, "n_positions")
"""The same in config.json, where GPT-2 has a name of its own; a loaded config knows both names."""


def has_one_kv_head(look: Callable[[str], Any]) -> bool:
    """Whether all query heads share one key-value head (Falcon, GPTBigCode).

    Args:
        look: config key -> value, or None.
    """
    return look("multi_query") is True and not look("new_decoder_architecture")


def position_limit(config: Any) -> int | None:
    """How many positions a loaded model knows; None where its config names no limit."""
    limits = [getattr(config, name, None) for name in POSITION_LIMITS]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)
