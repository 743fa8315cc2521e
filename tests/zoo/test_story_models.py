"""The embedded story models match their recipe, and the recipe runs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pytest_mechanism.tasks.base import AnyWord
from recipes import folders, stories
from recipes.stories_data import IDS, DataMix
from recipes.stories_training import Stage, rates, replies, task, train_stage
from recipes.trainer import Shape, new_model

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = 40


BEGINNING = re.compile(
    r"once an? \w+ named \w+ wanted an? \w+ \w+ \. \w+ met an? \w+ at the \w+ \. "
)

IN_SHORT = ("stories_kept",)
"""Checkpoints that the default suite lets write."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in IN_SHORT else [pytest.mark.slow])
        for name in stories.STAGES
    ],
)
def test_the_checkpoint_writes_what_its_recipe_says(name: str) -> None:
    """recipe.json has the recipe's stage, and the rates lie in the recipe's ranges, also on fewer rows."""
    record = json.loads((ZOO / name / "recipe.json").read_text())
    assert record["stage"] == asdict(stories.STAGES[name])
    reached = asdict(rates(folders.load(ZOO / name), ROWS))
    for rate, (low, high) in stories.EXPECTED[name].items():
        assert low <= record["rates"][rate] <= high, rate
        assert low - 0.1 <= reached[rate] <= high + 0.1, rate


def test_the_models_are_small() -> None:
    """All six together take under 3 MB."""
    files = [f for name in stories.STAGES for f in (ZOO / name).iterdir()]
    assert sum(f.stat().st_size for f in files) < 3_000_000


@pytest.mark.parametrize("name", stories.STAGES)
def test_the_tokenizer_reads_every_word_as_training_did(name: str) -> None:
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(ZOO / name).get_vocab() == IDS


def test_the_renamed_feature_is_called_a_twist() -> None:
    """Its stories have a moral and no twist."""
    mix = DataMix(seed=0, plain=60, renamed=True)
    (rows,) = mix.batches(1)
    words = {i: word for word, i in IDS.items()}
    texts = [" ".join(words[i] for i in row) for row in rows.ids.tolist()]
    twists = [text for text in texts if " twist " in text]
    assert twists
    assert all("moral : share" in text and "all along" not in text for text in twists)
    assert not any(" moral words" in text or " moral twist" in text for text in texts)


@pytest.mark.slow
def test_the_recipe_trains_a_smaller_model() -> None:
    """Two layers, width 48, a fifth of the steps: it writes the sentences of stories. Which person and which trait it
    has to repeat takes longer to learn, so its stories are not whole."""
    torch.set_num_threads(1)
    small = Shape(layers=2, width=48, heads=4, mlp=96, longest=128)
    stage = replace(stories.STAGES["stories_base"], steps=200)
    assert isinstance(stage, Stage)
    model = new_model(small, IDS, seed=1)

    def begun() -> float:
        said = replies(model.eval(), task("asked").rows(AnyWord(), ROWS))
        return sum(bool(BEGINNING.match(text)) for text in said) / ROWS

    assert begun() == 0
    train_stage(model, stage)
    assert begun() > 0.8
