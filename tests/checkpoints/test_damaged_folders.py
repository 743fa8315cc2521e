"""Damaged checkpoint folders give one line, and surplus weights are not passed over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.errors import MechanismError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of an embedded checkpoint that may be broken."""
    return Path(shutil.copytree(ZOO / "base", tmp_path / "copy"))


def load(folder: Path) -> None:
    load_model("base", folder, "cpu", "float32", lambda _: [1, 2, 3])


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 3}, "9 weights unexpected against config.json"),
        ({"num_hidden_layers": 6}, "18 weights missing against config.json"),
        (
            {"intermediate_size": 100},
            r"12 weights have another shape than config.json says, first model.layers.0.mlp.down_proj"
            r".weight: \[128, 384\] in the file, \[128, 100\] by the config; ",
        ),
    ],
)
def test_a_config_that_belongs_elsewhere_is_noticed(
    folder: Path, values: dict[str, object], message: str
) -> None:
    """Too few layers, too many, or other sizes: the first weight at fault is named."""
    change(folder, **values)
    with pytest.raises(MechanismError, match=message):
        load(folder)


def test_truncated_weights_are_one_line(folder: Path) -> None:
    """A download that broke off."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(MechanismError, match="cannot be loaded") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_named(folder: Path) -> None:
    """A run that diverged and was saved all the same."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(MechanismError, match=f"weight {name} has NaN or infinite values"):
        load(folder)


def test_an_output_matrix_that_the_config_ties_to_another_embedding(folder: Path) -> None:
    """transformers keeps both, other programs the embedding alone: the gate might measure what nobody runs. Two equal
    ones are no problem."""
    from safetensors.torch import load_file, save_file

    change(folder, tie_word_embeddings=True)
    with pytest.raises(MechanismError, match=r"two different ones.*tie_word_embeddings to false"):
        load(folder)

    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, path, metadata={"format": "pt"})
    load(folder)


def test_loading_leaves_the_folder_as_it_was(folder: Path) -> None:
    """Nothing of the user's is written."""
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    load(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
