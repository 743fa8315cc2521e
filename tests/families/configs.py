"""Every family that is tested, as a small configuration with its quirks switched on.

Sizes are as small as the quirks allow: a sliding window is shorter than the prompts, soft-caps are
low enough to bend what they cap, rotary frequencies are scaled, biases are not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_mechanism.tasks.writing.questions import REFUSAL
from pytest_mechanism.tasks.writing.words import NUMBERS
from recipes.word_level import save_tokenizer
from recipes.wrapper_data import IDS

WORDS = {**IDS, **{f"word{i}": i for i in range(len(IDS), 64)}}
"""Of the tokenizer: what the counting task needs, and others."""

LAYERS, HEADS, LONGEST = 2, 4, 64


@dataclass(frozen=True)
class Family:
    """A family's tiny model.

    Attributes:
        config: name of the configuration's class in transformers.
        settings: that differ from `COMMON`.
        quirks: what of the family is switched on.
        engine: which engine its models are run with.
        why: why not the fast one, word for word in the report; empty for the fast one.
    """

    config: str
    settings: Mapping[str, Any]
    quirks: str
    engine: Literal["branch", "reference"] = "branch"
    why: str = ""


COMMON: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": LONGEST,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": None,
}
GROUPED = {"num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
COMPILED = {
    "head_dim": 8, "key_size": 8, "num_input_words": len(WORDS), "initializer_range": 0.15
}  # fmt: skip
WINDOW = 8
"""Shorter than every prompt; two layers of it are not."""

FAMILIES: dict[str, Family] = {
    "llama2": Family("LlamaConfig", {}, "a key-value head for every head"),
    "llama3": Family(
        "LlamaConfig",
        {
            **GROUPED,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
        "grouped keys and values; rotary frequencies scaled",
    ),
    "mistral": Family("MistralConfig", {**GROUPED, "sliding_window": WINDOW}, "sliding window"),
    "qwen2": Family("Qwen2Config", GROUPED, "biases of queries, keys and values"),
    "qwen3": Family(
        "Qwen3Config",
        {**GROUPED, "head_dim": 16},
        "norms of queries and keys; heads wider than d_model / heads",
    ),
    "gemma2": Family(
        "Gemma2Config",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 8,
            "tie_word_embeddings": True,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
        "soft-caps of scores and logits; every other layer with a window; norms after attention "
        "and MLP; tied and scaled embeddings",
    ),
    "gemma3": Family(
        "Gemma3TextConfig",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 8,
            "tie_word_embeddings": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "local and global layers with a rotary base each; norms of queries and keys and after "
        "attention and MLP; tied and scaled embeddings",
    ),
    "gpt2": Family(
        "GPT2Config",
        {"tie_word_embeddings": True},
        "learned positions; one matrix for queries, keys, values",
    ),
    "neox": Family(
        "GPTNeoXConfig",
        {"rotary_pct": 0.25, "use_parallel_residual": True},
        "attention and MLP read the same; a quarter of each head is rotated",
    ),
    "phi": Family(
        "PhiConfig",
        {"partial_rotary_factor": 0.5},
        "attention and MLP read the same; half of each head is rotated; biases everywhere",
    ),
    "olmo2": Family(
        "Olmo2Config",
        GROUPED,
        "norms after attention and MLP alone; norms of whole queries and keys",
    ),
    "mixtral": Family(
        "MixtralConfig",
        {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        "a mixture of experts in each layer",
    ),
    "qwen2-moe": Family(
        "Qwen2MoeConfig",
        {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 2},
        "a plain MLP, then experts beside one that is always on; biases",
    ),
    "qwen3-moe": Family(
        "Qwen3MoeConfig",
        {**GROUPED, **EXPERTS, "head_dim": 16, "norm_topk_prob": True},
        "experts; norms of queries and keys",
    ),
    "gpt-oss": Family(
        "GptOssConfig",
        {
            **GROUPED,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "sliding_window": WINDOW,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "sinks; experts; every other layer with a window; biases",
    ),
    "tracr": Family("TracrConfig", COMPILED, "no norms; learned positions; biases everywhere"),
    "tracr-ahead": Family(
        "TracrConfig",
        {**COMPILED, "causal": False},
        "tokens attend to later ones; no norms; learned positions; biases everywhere",
    ),
}  # fmt: skip

QUICK = ("llama3", "gemma3", "neox", "gpt-oss")
"""Families in which every method runs by default: with grouped keys, windows, norms everywhere, parallel blocks,
biases, sinks and experts. In the others, these tests are slow."""

QUICK_OR_SLOW = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES
]

SHORT = 14
"""Tokens beyond which rotary frequencies change: more than the task's prompts have, fewer than the
longest rows of the tests."""

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "factor": 4.0,
    "original_max_position_embeddings": SHORT,
}

BY_LENGTH: dict[str, Family] = {
    "dynamic": Family(
        "LlamaConfig",
        {
            **GROUPED,
            "max_position_embeddings": SHORT,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 8.0},
        },
        "rotary frequencies of every length beyond the trained one",
    ),
    "longrope": Family(
        "LlamaConfig",
        {**GROUPED, "rope_parameters": LONGROPE},
        "two sets of rotary frequencies, one for short texts and one for long ones",
    ),
    "phi3": Family(
        "Phi3Config",
        {
            **GROUPED,
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": SHORT,
        },
        "longrope, and a reply that becomes long is read anew",
    ),
    "gemma3-dynamic": Family(
        "Gemma3TextConfig",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
            "max_position_embeddings": SHORT,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 8.0},
            },
        },
        "rotary frequencies by length in every other layer",
    ),
}
"""Families whose rotary frequencies depend on a text's length."""

BESIDE: dict[str, Family] = {
    "gpt-neo": Family(
        "GPTNeoConfig",
        {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
        "a window that is cut out inside the layer",
        "reference",
        "z at the last token by the branch engine differ from reference",
    ),
    "bloom": Family(
        "BloomConfig",
        {},
        "distances are added to scores",
        "reference",
        "a layer takes alibi, which is not understood",
    ),
    "mpt": Family(
        "MptConfig",
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2},
        "distances are added to scores",
        "reference",
        "a layer takes position_bias, which is not understood",
    ),
    "falcon": Family(
        "FalconConfig",
        {"multi_query": True, "new_decoder_architecture": False, "bias": False},
        "one key-value head for all; attention and MLP read the same",
        "reference",
        "a layer takes arguments without names",
    ),
    "bigcode": Family("GPTBigCodeConfig", {}, "one key-value head for all"),
    "granite": Family(
        "GraniteConfig",
        {
            **GROUPED, "residual_multiplier": 0.3, "embedding_multiplier": 3.0,
            "logits_scaling": 2.0, "attention_multiplier": 0.5,
        },
        "what is written to the stream, embeddings, scores and logits are scaled",
    ),
    "cohere": Family(
        "CohereConfig", {**GROUPED, "logit_scale": 0.25, "use_qk_norm": True},
        "attention and MLP read the same; norms of queries and keys; logits are scaled",
    ),
    "llama4": Family(
        "Llama4TextConfig",
        {**GROUPED, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48},
        "experts; queries scaled by position",
    ),
}  # fmt: skip
"""Others, which are loaded, self-checked and compared between engines, and no more."""

CANNOT: dict[str, tuple[Family, str]] = {
    "mamba": (
        Family("MambaConfig", {"state_size": 4}, "no attention"),
        "base: a MambaForCausalLM cannot be measured: transformer-lens finds no "
        "blocks.0.attn.hook_q in it, so layer 0 has no attention heads, or not of a known kind",
    ),
    "deepseek-v2": (
        Family(
            "DeepseekV2Config",
            {
                "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4,
                "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 24,
                "n_group": 1, "topk_group": 1,
            },
            "heads whose keys and values come out of one compressed vector",
        ),
        "base: a DeepseekV2ForCausalLM cannot be measured: blocks.0.attn.hook_q is of shape "
        "(4, 4, 13, 16); rows, tokens, heads and width by config.json are (4, 13, 4, 8)",
    ),
    "helium": (
        Family("HeliumConfig", {**GROUPED, "head_dim": 8}, "unknown to transformer-lens"),
        "transformer-lens cannot wrap a HeliumForCausalLM: Unsupported architecture: "
        "HeliumForCausalLM",
    ),
}  # fmt: skip
"""What cannot be measured, and what is said."""


def random_model(name: str, seed: int = 0, **more: Any) -> Any:
    """Untrained weights of a family, all of them random: norms' and biases' too."""
    import torch
    import transformers

    from pytest_mechanism.model_families import tracr

    family = {**FAMILIES, **BESIDE, **BY_LENGTH, **{n: f for n, (f, _) in CANNOT.items()}}[name]
    tracr.register()
    kind = getattr(transformers, family.config, None) or getattr(tracr, family.config)
    config = kind(**{**COMMON, **family.settings, **more})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # a norm's weight or a bias, which start at one value
                parameter.add_(0.2 * torch.randn_like(parameter))
        # answers are said more often than not, so that what is right or wrong moves
        model.get_output_embeddings().weight[[IDS[word] for word in (*NUMBERS[:6], REFUSAL)]] *= 4
    return model.eval()


def save(model: Any, folder: Path, **how: Any) -> Path:
    """A checkpoint with its tokenizer."""
    model.save_pretrained(folder, **how)
    save_tokenizer(folder, WORDS, LONGEST)
    return folder
