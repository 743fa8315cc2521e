"""Measurement contexts of models that count: made by hand, or with random weights of several families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.methods.context import MeasurementContext, make_context
from pytest_mechanism.progress import Silent
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from recipes.planted_counter import TASK, counter, save
from recipes.wrapper_data import IDS

FAMILIES = ("llama", "llama-gqa", "gpt2")


def random_weights(family: str, seed: int = 0) -> Any:
    """A tiny model of a family that has learned nothing."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(IDS), initializer_range=0.3, **sizes))
    config = LlamaConfig(
        vocab_size=len(IDS), hidden_size=32, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2 if family == "llama-gqa" else 4,
        max_position_embeddings=32, initializer_range=0.3, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def load_counter(folder: Path, dtype: str = "float32", batch: int = 64) -> MeasurementContext:
    """The measurement context of a checkpoint, as the runner makes it."""
    vocabulary = SharedVocabulary((Encoder.load(folder),))
    rows = TASK.rows(vocabulary, 8, "self-check")
    ids = list(vocabulary.encoders[0].encode(rows[0].base).ids)
    model = load_model("base", folder, "cpu", dtype, lambda _: ids)
    return make_context(
        model, TASK, vocabulary, ModelOptions(dtype=dtype, batch_size=batch), Silent(), rows
    )


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a model with its tokenizer."""
    return lambda model: save(model, tmp_path_factory.mktemp("counter"))


@pytest.fixture(scope="session")
def context_of_model(saved: Callable[..., Path]) -> Callable[[Any], MeasurementContext]:
    """The measurement context of a model in float64."""
    return lambda model: load_counter(saved(model), "float64")


@pytest.fixture(scope="session")
def planted(saved: Callable[..., Path]) -> Callable[..., MeasurementContext]:
    """The measurement context of a counter made by hand, made once for each set of options."""
    made: dict[Any, MeasurementContext] = {}

    def of(**options: Any) -> MeasurementContext:
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = load_counter(saved(counter(**options)))
        return made[key]

    return of


@pytest.fixture(scope="session")
def random_counter(saved: Callable[..., Path]) -> Callable[..., MeasurementContext]:
    """The measurement context of random weights, in float64 by default, cached by its arguments."""
    made: dict[Any, MeasurementContext] = {}

    def of(family: str = "llama", seed: int = 0, dtype: str = "float64") -> MeasurementContext:
        key = (family, seed, dtype)
        if key not in made:
            made[key] = load_counter(saved(random_weights(family, seed)), dtype)
        return made[key]

    return of


@pytest.fixture(scope="session", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, random_counter: Callable[..., MeasurementContext]
) -> MeasurementContext:
    """Random weights of each family in turn."""
    return random_counter(request.param)
