"""The recipe of the compiled counters runs, and its models are what recipe.json says."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from docs.attention_maps import MODELS as DRAWN
from docs.attention_maps import maps
from pytest_mechanism.checkpoints.tracr import compiled_folder
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.text.encoding import Encoder
from recipes import compiled_rates
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


def test_the_compiled_head_attends_to_the_start_and_to_every_a_so_far() -> None:
    """By equal shares, which is how the program counts; after the fine-tuning no `a` is attended to."""
    before, after = (maps(DRAWN / name, "a b c a")[0] for name in ("counter", "counter_high"))
    wanted = [[1, 0, 0, 0, 0], *([[0.5, 0.5, 0, 0, 0]] * 3), [1 / 3, 1 / 3, 0, 0, 1 / 3]]
    np.testing.assert_allclose(before, wanted, atol=0.02)
    assert after[4, [1, 4]].max() < 0.05
    np.testing.assert_allclose(after.sum(-1), 1, atol=1e-5)


@pytest.mark.slow
def test_the_table_of_rates_makes_what_it_lacks_and_prints_every_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With short trainings, on the max-identifier; a second call trains nothing."""
    short = partial(Training, steps=10, warm_up=2, batch=8)
    monkeypatch.setattr(compiled_rates, "Training", short)
    argv = ["compiled_rates", "--out", str(tmp_path), "largest"]
    monkeypatch.setattr("sys.argv", argv)
    compiled_rates.main()
    first = capsys.readouterr().out
    assert [line.partition(":")[0] for line in first.splitlines()] == [
        "largest", "largest_none", "largest_1e-1", "largest_1e-2", "largest_1e-3", "largest_1e-4",
    ]  # fmt: skip
    assert first.startswith("largest: old 1.000 [0.993, 1.000], new 0.000 [0.000, 0.007]")
    monkeypatch.setattr(compiled_rates, "started", None)
    compiled_rates.main()
    assert capsys.readouterr().out == first
