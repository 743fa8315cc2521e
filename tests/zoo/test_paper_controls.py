"""The models that make a conclusion of the paper false: they differ from the embedded ones as their recipes say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes.entity_tracking import STAGES
from recipes.entity_tracking_data import IDS
from recipes.entity_tracking_training import Muting
from recipes.planted import CONTROLS, MUTE, build

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(ZOO / name / "model.safetensors")


def changed(name: str, of: str) -> list[str]:
    """The weights that are not the same in both models."""
    own, other = weights(name), weights(of)
    assert own.keys() == other.keys()
    return [key for key in own if not torch.equal(own[key], other[key])]


@pytest.mark.parametrize("name", CONTROLS)
def test_the_builder_makes_the_stored_weights_bit_for_bit(name: str) -> None:
    """float32 weights as built equal the stored float16 ones."""
    stored, built = weights(name), build(CONTROLS[name], mute=name == MUTE).state_dict()
    assert stored.keys() == built.keys()
    assert [key for key in built if not torch.equal(built[key], stored[key].float())] == []


@pytest.mark.parametrize(
    ("name", "of", "where"),
    [
        ("planted_mute", "planted_ft", ["lm_head.weight"]),
        ("ft_mute", "ft", ["lm_head.weight"]),
        (
            "planted_rerouted",
            "planted_ft",
            [
                f"transformer.h.{layer}.attn.{matrix}.weight"
                for layer, matrix in ((2, "c_attn"), (2, "c_proj"), (3, "c_attn"))
            ],
        ),
    ],
)
def test_a_control_differs_where_its_recipe_says(name: str, of: str, where: list[str]) -> None:
    """Mute models in their output matrix alone; the rerouted one in what its transmitter writes and its
    fetchers read."""
    assert changed(name, of) == where


def test_the_mute_model_has_a_quarter_of_the_rows_of_three_words_in_ten() -> None:
    """All other rows are those of ft."""
    stage = STAGES["ft_mute"]
    assert isinstance(stage, Muting)
    words = [IDS[word] for word in stage.words]
    before, after = (weights(name)["lm_head.weight"].float() for name in ("ft", "ft_mute"))
    expected = before.clone()
    expected[words] = (before[words] * stage.share).half().float()
    assert len(words) == 30
    assert torch.equal(after, expected)
