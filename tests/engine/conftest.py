"""Tiny random models, saved to a folder and loaded through the user's path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"


def save_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """A random model of a family with the embedded tokenizer."""
    import torch
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoConfig,
        GPTNeoForCausalLM,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        OPTConfig,
        OPTForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    vocabulary = 256
    common = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common))
    elif family == "llama-gqa":
        model = LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**common, num_key_value_heads=2, head_dim=16))
    elif family == "neox":
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**common))
    elif family == "neo":
        config = GPTNeoConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            max_position_embeddings=128,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            initializer_range=0.3,
        )
        model = GPTNeoForCausalLM(config)
    elif family == "opt":
        config = OPTConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=128,
            word_embed_proj_dim=32,
            init_std=0.3,
        )
        model = OPTForCausalLM(config)
    elif family == "gemma2":
        window = {"sliding_window": 3, "attn_logit_softcapping": 5.0}
        config = Gemma2Config(**common, **window, num_key_value_heads=2, head_dim=8)
        model = Gemma2ForCausalLM(config)
    else:
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_embd=32,
                n_layer=3,
                n_head=4,
                n_positions=128,
                initializer_range=0.3,
            )
        )
    model.save_pretrained(folder)
    shutil.copy(ZOO / "base" / "tokenizer_config.json", folder)
    tokenizer = json.loads((ZOO / "base" / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    # a word for every embedding: those without would be cut
    words |= {f"word{i}": i for i in range(len(words), vocabulary)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


FAMILIES = ("llama", "llama-gqa", "qwen3", "gpt2")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a family, made once."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


@pytest.fixture(scope="session")
def loaded(tiny: Callable[[str], Path]) -> Callable[[str, str], Any]:
    """The tiny model of a family in a dtype, loaded once; a test that changes it must restore it."""
    from pytest_mechanism.checkpoints.loading.model import load_model

    @cache
    def of(family: str, dtype: str = "float64") -> Any:
        return load_model("base", tiny(family), "cpu", dtype, lambda _: [5, 6, 7])

    return of


@pytest.fixture(params=FAMILIES, scope="session")
def model(request: pytest.FixtureRequest, loaded: Callable[[str], Any]) -> Any:
    """Each family in turn, in float64."""
    return loaded(request.param)


@pytest.fixture(scope="session")
def gqa(loaded: Callable[[str], Any]) -> Any:
    """A single family, for tests that do not depend on the family."""
    return loaded("llama-gqa")
