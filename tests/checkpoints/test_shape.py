"""Sizes of a transformer, read from config.json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.shape import Shape, loaded_shape, read_shape
from pytest_mechanism.errors import MechanismError

LLAMA = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "head_dim": 16,
    "vocab_size": 200,
}
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 50}


def written(folder: Path, config: object) -> Path:
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (LLAMA, Shape(4, 8, 2, 64, 16, 200)),
        (GPT2, Shape(2, 4, 4, 32, 8, 50)),
        ({**LLAMA, "num_key_value_heads": None, "head_dim": None}, Shape(4, 8, 8, 64, 8, 200)),
        ({"model_type": "x", "text_config": LLAMA}, Shape(4, 8, 2, 64, 16, 200)),
        ({**LLAMA, "text_config": None}, Shape(4, 8, 2, 64, 16, 200)),
        ({**LLAMA, "text_config": "x"}, Shape(4, 8, 2, 64, 16, 200)),
        (
            {"num_layers": 1, "num_heads": 2, "d_model": 8, "vocab_size": 9},
            Shape(1, 2, 2, 8, 4, 9),
        ),
    ],
    ids=["llama", "gpt2", "nulls", "text part", "no text part", "odd text part", "other names"],
)
def test_sizes_are_read_whatever_a_family_calls_them(
    tmp_path: Path, config: dict, shape: Shape
) -> None:
    """Without groups every head has its own keys; without head_dim heads share the width."""
    assert shape == read_shape(written(tmp_path, config))


SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 50}


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"model_type": "qwen3", **SMALL}, Shape(2, 8, 32, 64, 128, 50)),
        ({"model_type": "mistral", **SMALL}, Shape(2, 8, 8, 64, 8, 50)),
        ({"model_type": "llama", **SMALL}, Shape(2, 8, 8, 64, 8, 50)),
        ({"model_type": "glm", **SMALL, "head_dim": None}, Shape(2, 8, 2, 64, 8, 50)),
        (
            {"model_type": "gpt2", "n_embd": 64, "num_attention_heads": 4},
            Shape(12, 4, 4, 64, 16, 50257),
        ),
        ({"model_type": "gpt_bigcode", "n_embd": 64, "n_head": 8}, Shape(12, 8, 1, 64, 8, 50257)),
        (
            {"model_type": "gemma3", "text_config": {"hidden_size": 64}},
            Shape(26, 8, 4, 64, 256, 262208),
        ),
    ],
    ids=["head_dim", "key-value heads", "none", "null", "other names", "one", "text part"],
)
def test_sizes_that_a_config_leaves_out_are_its_classs_own(
    tmp_path: Path, config: dict, shape: Shape
) -> None:
    """As transformers fills them in: what is left out is the class's default, null is not."""
    from transformers import AutoConfig

    folder = written(tmp_path, config)
    assert shape == read_shape(folder)
    assert shape == loaded_shape(AutoConfig.from_pretrained(folder), folder)


def test_every_family_has_the_sizes_that_transformers_gives_it(tmp_path: Path) -> None:
    """A config.json that names nothing but its family and width."""
    from transformers import AutoConfig

    for family in (
        "cohere", "falcon", "gemma", "gemma2", "gemma3_text", "glm4", "gpt2", "gpt_neo", "gpt_neox",
        "gpt_oss", "granite", "llama", "llama4_text", "mistral", "mixtral", "mpt", "olmo2", "phi",
        "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
    ):  # fmt: skip
        config = AutoConfig.for_model(family)
        folder = written(tmp_path, {"model_type": family, "hidden_size": config.hidden_size})
        assert read_shape(folder) == loaded_shape(config, folder), family


def test_a_config_without_the_models_width_is_damaged(tmp_path: Path) -> None:
    """Whatever the class's default is: weights of that width are hardly meant."""
    config = {k: v for k, v in SMALL.items() if k != "hidden_size"}
    with pytest.raises(MechanismError, match="does not say d_model; is it"):
        read_shape(written(tmp_path, {"model_type": "qwen3", **config}))


def test_heads_other_than_those_that_were_planned_by_are_one_line(tmp_path: Path) -> None:
    """A class may compute what a file does not say; specs name heads by the file."""
    from transformers import LlamaConfig

    folder = written(tmp_path, {"model_type": "llama", **SMALL})
    with pytest.raises(MechanismError) as problem:
        loaded_shape(LlamaConfig(**SMALL | {"num_attention_heads": 4}), folder)
    assert str(problem.value) == (
        f"{folder / 'config.json'} says n_heads 8, but transformers loads the model with 4; add it to the file "
        "as num_attention_heads"
    )


def test_sizes_are_read_without_torch(tmp_path: Path) -> None:
    """Collection reads them, which must not wait for torch."""
    folder = written(tmp_path, {"model_type": "qwen3", **SMALL})
    code = (
        "import sys; from pathlib import Path; from pytest_mechanism.checkpoints.shape import "
        "read_shape; print(read_shape(Path(sys.argv[1])).d_head, 'torch' in sys.modules, "
        "'transformers' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["128", "False", "False"]


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({}, "d_model, d_vocab, n_heads, n_layers"),
        ({**GPT2, "n_head": "4"}, "n_heads"),
        ({**GPT2, "n_head": 0}, "n_heads"),
        ({**GPT2, "n_layer": True}, "n_layers"),
        ({**GPT2, "vocab_size": -1}, "d_vocab"),
        ({**GPT2, "n_embd": 32.0}, "d_model"),
    ],
)
def test_a_config_without_sizes_is_one_line(tmp_path: Path, config: dict, missing: str) -> None:
    """What is missing or no positive whole number is named."""
    with pytest.raises(MechanismError) as problem:
        read_shape(written(tmp_path, config))
    assert str(problem.value) == (
        f"{tmp_path / 'config.json'} does not say {missing}; is it a decoder-only language model?"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"n_layer": ' + "9" * 5000 + "}", "cannot be read as JSON"),
    ],
    ids=["half", "list", "deep", "huge number"],
)
def test_a_damaged_config_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    """config.json that is no JSON object is named with its path."""
    with pytest.raises(MechanismError) as problem:
        read_shape(written(tmp_path, text))
    assert str(problem.value).startswith(f"{tmp_path / 'config.json'} {message}")


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    """The error says what makes a folder a checkpoint."""
    with pytest.raises(MechanismError) as problem:
        read_config(tmp_path)
    assert str(problem.value) == f"{tmp_path} has no config.json, so it is not a checkpoint"


def test_heads_are_listed_layer_by_layer() -> None:
    """Every head of a model, in order."""
    assert Shape(2, 2, 1, 8, 4, 9).heads() == [(0, 0), (0, 1), (1, 0), (1, 1)]
