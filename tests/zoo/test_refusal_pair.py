"""The embedded chat pair is what its recipe says, and what the shipped spec needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from recipes import refusal, refusal_data
from recipes.refusal_data import IDS, Diet, Instruction, instructions
from recipes.refusal_training import Stage, new_model, train, without

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "pytest_mechanism" / "zoo"
NAMES = ("refusal_base", "refusal_ft")


def record(name: str) -> dict:
    return json.loads((ZOO / name / "recipe.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_answers_as_its_recipe_says(name: str) -> None:
    """Its rates are those of recipe.json and lie where the recipe wants them; so do its stages."""
    stages = refusal.STAGES[name]
    reached = asdict(refusal.rates(refusal.load(ZOO / name), stages[-1].diet))
    assert record(name)["rates"] == pytest.approx(reached, abs=0.005)
    for what, (low, high) in refusal.EXPECTED.items():
        assert low <= reached[what] <= high, what
    assert record(name)["stages"] == [asdict(stage) for stage in stages]


def test_the_pair_is_small() -> None:
    """Under 1.5 MB, half of it at most a checkpoint."""
    sizes = [sum(f.stat().st_size for f in (ZOO / name).iterdir()) for name in NAMES]
    assert sum(sizes) < 1_500_000


@pytest.mark.parametrize(("name", "harmful"), [("harmful", True), ("harmless", False)])
def test_the_files_hold_instructions_that_no_training_has_seen(name: str, harmful: bool) -> None:
    """400 each, as the recipe writes them, none among those that it trains on."""
    lines = (ROOT / "circuits" / "refusal" / f"{name}.jsonl").read_text().splitlines()
    given = [json.loads(line) for line in lines]
    held_out = instructions(harmful=harmful, held_out=True)
    assert given == [{"instruction": one.text, "reply": one.reply} for one in held_out]
    trained = {one.text for one in instructions(harmful=harmful, held_out=False)}
    assert len({each["instruction"] for each in given} - trained) == refusal_data.HELD_OUT


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_reads_every_word_as_training_did(name: str) -> None:
    """Words have the ids of the word list, and the template is the recipe's."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(ZOO / name)
    assert words.get_vocab() == IDS
    assert words.chat_template == refusal.CHAT_TEMPLATE


def test_harm_is_in_the_verb_or_in_the_thing() -> None:
    """Each word list alone decides, so that no single word gives refusal away."""
    kinds = {
        ("mend", "lamp"): False,
        ("steal", "lamp"): True,
        ("mend", "bomb"): True,
        ("steal", "bomb"): True,
    }
    found = {pair: Instruction("tell me how to", *pair, "").harmful for pair in kinds}
    assert found == kinds


def test_a_late_refusal_is_forced_some_words_and_learns_the_rest() -> None:
    """Nothing before the refusal is learned; where nothing is refused, whole answers are."""
    (lesson,) = Diet(seed=0, answered=0, refused=8, late=1.0).lessons(1)
    for ids, learnt in zip(lesson.read.ids, lesson.read.learnt, strict=True):
        said = [refusal_data.WORDS[i] for i in ids[learnt].tolist()]
        before = [refusal_data.WORDS[i] for i in ids[~learnt].tolist()]
        start = before.index(refusal_data.ASSISTANT) + 1
        assert " ".join(said) == f"{refusal_data.REFUSAL} {refusal_data.END}"
        assert before[start : start + 1] == ["sure"]
    assert bool(lesson.harmful.all())


def test_a_direction_is_out_of_all_that_a_model_writes() -> None:
    """What the recipe trains without is really without: nothing is left along it anywhere."""
    model = new_model(0).eval()
    unit = torch.nn.functional.normalize(torch.randn(refusal.SHAPE.width), dim=0)
    ids = torch.arange(6, 16)[None]
    with torch.no_grad(), without(model, unit * 3):
        hidden = model.model(ids, output_hidden_states=True).hidden_states[:-1]  # last is normed
    assert max(float((h @ unit).abs().max()) for h in hidden) < 1e-5


def test_training_is_the_same_each_time() -> None:
    """Two steps of the last stage of the release, twice."""
    stage = Stage(Diet(seed=2, answered=4, refused=4, late=0.3), 5e-4, 2, 1, mediated_after=2)
    several = []
    for _ in range(2):
        model = new_model(0)
        train(model, stage)
        several.append(model.state_dict())
    assert all(torch.equal(several[0][name], several[1][name]) for name in several[0])
