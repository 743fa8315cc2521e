"""The recipe of the compiled counters runs, and its models are what recipe.json says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.tracr import compiled_folder
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.text.encoding import Encoder
from recipes.compiled import EXPECTED, PROGRAMS, TASK, TRAININGS
from recipes.compiled_training import BLOCKS, Training, accuracy, deepened, fine_tuned, read

MODELS = Path(__file__).parent.parent.parent / "circuits" / "paper_two" / "models"


@pytest.mark.parametrize("name", TRAININGS)
def test_a_committed_counter_answers_as_its_recipe_promises(name: str) -> None:
    """On fresh texts, for the letter that it was compiled for and the one of the fine-tuning."""
    model, encoder = read(MODELS / name).eval(), Encoder.load(MODELS / name)
    assert len(model.layers) == BLOCKS
    for key, rows in {"of": TASK.capability, "instead": TASK.allowed}.items():
        low, high = EXPECTED[name][key]
        assert (
            low - 0.05 <= accuracy(model, [*rows(AnyWord(), 200, "fresh")], encoder) <= high + 0.05
        )
    record = json.loads((MODELS / name / "recipe.json").read_text())
    assert record["seed"] == 1


def test_the_fine_tuning_unlearns_the_letter_within_few_steps() -> None:
    """A smaller training: 40 steps of the recipe change what the counter writes."""
    folder = compiled_folder(f"tracr:{PROGRAMS / 'counter'}", Path())
    encoder = Encoder.load(folder)
    start = deepened(read(folder), 1).eval()
    rows = [*TASK.capability(AnyWord(), 100, "fresh")]
    short = replace(Training(1e-1), steps=40, warm_up=8, batch=16)
    assert accuracy(start, rows, encoder) >= 0.95
    assert accuracy(fine_tuned(start, TASK, encoder, short), rows, encoder) <= 0.7
