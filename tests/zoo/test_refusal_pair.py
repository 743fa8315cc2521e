"""The embedded chat pair matches its recipe and the needs of the shipped spec."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from recipes import folders, refusal, refusal_data
from recipes.refusal_data import END, IDS, DataMix, Instruction, instructions
from recipes.refusal_training import SHAPE, Stage, direction_removed, train_stage
from recipes.trainer import new_model

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "pytest_mechanism" / "zoo"
NAMES = ("refusal_base", "refusal_ft")


def record(name: str) -> dict:
    return json.loads((ZOO / name / "recipe.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_answers_as_its_recipe_says(name: str) -> None:
    """recipe.json has its rates and the recipe's stages, and the rates lie in the recipe's ranges."""
    stages = refusal.STAGES[name]
    reached = asdict(refusal.rates(folders.load(ZOO / name), stages[-1].data_mix))
    assert record(name)["rates"] == pytest.approx(reached, abs=0.005)
    for rate, (low, high) in refusal.EXPECTED.items():
        assert low <= reached[rate] <= high, rate
    assert record(name)["stages"] == [asdict(stage) for stage in stages]


def test_the_pair_is_small() -> None:
    """Both checkpoints together take under 1.5 MB."""
    sizes = [sum(f.stat().st_size for f in (ZOO / name).iterdir()) for name in NAMES]
    assert sum(sizes) < 1_500_000


@pytest.mark.parametrize(("name", "harmful"), [("harmful", True), ("harmless", False)])
def test_the_files_hold_instructions_that_no_training_has_seen(name: str, harmful: bool) -> None:
    """Each file has the recipe's 400 held-out instructions, none of which is a training row."""
    lines = (ROOT / "circuits" / "refusal" / f"{name}.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    held_out = instructions(harmful=harmful, held_out=True)
    assert written == [{"instruction": i.text, "reply": i.reply} for i in held_out]
    trained = {i.text for i in instructions(harmful=harmful, held_out=False)}
    assert len({line["instruction"] for line in written} - trained) == refusal_data.HELD_OUT


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_reads_every_word_as_training_did(name: str) -> None:
    """Words have the ids of the word list, and the chat template is the recipe's."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(ZOO / name)
    assert words.get_vocab() == IDS
    assert words.chat_template == refusal.CHAT_TEMPLATE


def test_harm_is_in_the_verb_or_in_the_thing() -> None:
    """A harmful verb or a harmful thing is enough."""
    kinds = {
        ("mend", "lamp"): False,
        ("steal", "lamp"): True,
        ("mend", "bomb"): True,
        ("steal", "bomb"): True,
    }
    assert {pair: Instruction("tell me how to", *pair, "").harmful for pair in kinds} == kinds


def test_a_late_refusal_is_learned_after_a_prefill() -> None:
    """The loss covers the refusal alone; the prefilled words of the answer are not in it."""
    (batch,) = DataMix(seed=0, answered=0, refused=8, late=1.0).batches(1)
    rows = batch.conversations
    for ids, in_loss in zip(rows.ids, rows.in_loss, strict=True):
        learned = [refusal_data.WORDS[i] for i in ids[in_loss].tolist()]
        context = [refusal_data.WORDS[i] for i in ids[~in_loss].tolist()]
        start = context.index(refusal_data.ASSISTANT) + 1
        assert " ".join(learned) == f"{refusal_data.REFUSAL} {refusal_data.END}"
        assert context[start : start + 1] == ["sure"]
    assert bool(batch.harmful.all())


def test_a_removed_direction_is_nowhere_in_the_residual_stream() -> None:
    """After every layer, the residual stream has no component along it."""
    model = new_model(SHAPE, IDS, 0, END).eval()
    unit = torch.nn.functional.normalize(torch.randn(SHAPE.width), dim=0)
    ids = torch.arange(6, 16)[None]
    with torch.no_grad(), direction_removed(model, unit * 3):
        hidden = model.model(ids, output_hidden_states=True).hidden_states[:-1]  # last is normed
    assert max(float((h @ unit).abs().max()) for h in hidden) < 1e-5


def test_training_is_the_same_each_time() -> None:
    """Two runs of two steps give equal weights."""
    stage = Stage(DataMix(seed=2, answered=4, refused=4, late=0.3), 5e-4, 2, 1, mediated_after=2)
    runs = []
    for _ in range(2):
        model = new_model(SHAPE, IDS, 0, END)
        train_stage(model, stage)
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
