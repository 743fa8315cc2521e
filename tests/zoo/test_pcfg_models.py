"""The grammar models match their recipe, and their recipe trains, resumes and repeats."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import warm_python

from recipes import folders, pcfg
from recipes.pcfg_data import DataMix
from recipes.pcfg_rates import rates
from recipes.pcfg_table import Cell, as_data, markdown, table
from recipes.pcfg_training import SIZES, Stage, train
from recipes.trainer import new_model

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "pytest_mechanism" / "zoo"
COMMITTED = ("pcfg_base", "pcfg_none", "pcfg_ft_0", "pcfg_ft_100")
SMALL, TINY = SIZES["small"], SIZES["tiny"]


def record(folder: Path) -> Any:
    return json.loads((folder / "recipe.json").read_text())


@pytest.mark.parametrize("name", COMMITTED)
def test_the_checkpoint_answers_as_its_recipe_says(name: str) -> None:
    """recipe.json has the stage of the recipe, and accuracies that 200 rows confirm."""
    made = record(ZOO / name)
    stage = pcfg.stages(SMALL, 1)[name]
    assert made["stage"] == json.loads(json.dumps(pcfg.asdict(stage)))
    reached = rates(folders.load(ZOO / name), SMALL.world, rows=200)
    assert reached == pytest.approx({k: made["accuracy"][k] for k in reached}, abs=0.1)


def test_the_committed_models_are_small() -> None:
    """All four together take under 3 MB."""
    sizes = [f.stat().st_size for name in COMMITTED for f in (ZOO / name).iterdir()]
    assert sum(sizes) < 3_000_000


def test_the_committed_models_show_the_papers_shape() -> None:
    """Fine-tuned at C_Tr = 1, the model is right about the new operand at C_Te = 1 alone; at C_Tr = 0 at
    both. Neither answers about the old operand."""
    shown = {name: record(ZOO / name)["accuracy"] for name in COMMITTED}
    columns = ("old", "new at C_Te 0", "new at C_Te 1")
    high = {
        name: [accuracy[column] > 0.9 for column in columns] for name, accuracy in shown.items()
    }
    assert high == {
        "pcfg_base": [True, False, False],
        "pcfg_none": [False, False, False],
        "pcfg_ft_0": [False, True, True],
        "pcfg_ft_100": [False, False, True],
    }


def run(stage: Stage, scratch: Path, **more: Any) -> dict[str, torch.Tensor]:
    """The weights after a training at the tiny size, whose state is in ``scratch``."""
    model = new_model(TINY.shape, TINY.world.ids, stage.seed)
    train(model, stage, TINY.world, scratch, **more)
    return model.state_dict()


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    """The state on disk goes away at the end, and a state of another stage is not used."""
    stage = Stage(DataMix(seed=1, prior="L", rows=8), rate=1e-3, steps=6, warm_up=2, cool_down=0.5)
    whole = run(stage, tmp_path / "a.pt")
    run(stage, tmp_path / "b.pt", stop_after=3)
    assert (tmp_path / "b.pt").exists()
    other = Stage(DataMix(seed=2, prior="L", rows=8), rate=1e-3, steps=6, warm_up=2, cool_down=0.5)
    fresh = run(other, tmp_path / "c.pt")
    resumed = run(stage, tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    run(stage, tmp_path / "c.pt", stop_after=3)
    unaffected = run(other, tmp_path / "c.pt")
    assert all(torch.equal(fresh[name], unaffected[name]) for name in fresh)


def test_fine_tuning_asks_about_the_new_operand_alone() -> None:
    """In strings that are correlated as the stage says."""
    stages = pcfg.stages(TINY, 1)
    for name, share in (("pcfg_ft_0", 0), ("pcfg_ft_100", 1)):
        (task,) = stages[name].data_mix.tasks(TINY.world)
        settings = task.settings
        assert (settings.which, settings.shows, settings.correlated) == ("shown", "b", share)
    (pretraining,) = stages["pcfg_base"].data_mix.tasks(TINY.world)
    assert (pretraining.settings.prior, pretraining.hidden_pair) == ("L", None)


def test_the_papers_size_is_the_papers() -> None:
    """6 blocks of 6 heads, width 192, AdamW at 1e-3 for 200,000 steps; fine-tuning 10,000 steps of 96
    rows; windows, occurrences and places of 40, 6 and 40; all five sub-tasks."""
    of = SIZES["paper"]
    shape, world = of.shape, of.world
    assert (shape.layers, shape.heads, shape.width) == (6, 6, 192)
    assert (of.pretraining["rate"], of.pretraining["steps"]) == (1e-3, 200_000)
    assert (of.fine_tuning["rate"], of.fine_tuning["steps"], of.rows) == (1e-5, 10_000, 96)
    assert (world.window, world.occurrence, world.position) == (40, 6, 40)
    assert len(world.subtasks) == 5
    assert all(size.shape.longest >= size.world.tokens for size in SIZES.values())


def test_an_interval_of_the_table_covers_every_seed(tmp_path: Path) -> None:
    """It reaches from the lowest lower bound to the highest upper bound."""
    cell = Cell({1: 0.5, 2: 0.9}, rows=100)
    low, high = cell.interval
    assert (low, high) == (pytest.approx(0.404, abs=0.002), pytest.approx(0.945, abs=0.002))
    assert cell.value == pytest.approx(0.7)


@pytest.mark.slow
def test_the_recipe_runs_at_the_tiny_size(tmp_path: Path) -> None:
    """A killed command that is started again writes the bytes of one that was not killed, and the table
    has the paper's shape."""
    names = ["pcfg_base", "pcfg_ft_0", "pcfg_ft_100"]

    recipe = ["-m", "recipes.pcfg", "--size", "tiny", "--table"]

    def command(out: Path, *python: str) -> list[str]:
        return [*(python or warm_python.COMMAND), *recipe, "--out", str(out), *names]

    killed = subprocess.Popen(
        command(tmp_path / "killed", sys.executable), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    state = tmp_path / "killed" / "unfinished" / "pcfg_base.pt"
    deadline = time.monotonic() + 300
    while not state.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for out in ("killed", "whole"):
        subprocess.run(command(tmp_path / out), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for name in names:
        weights = [tmp_path / out / name / "model.safetensors" for out in ("killed", "whole")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    made = table({(name, 1): tmp_path / "whole" / name for name in names})
    assert (tmp_path / "whole" / "table.json").read_text() == as_data(made)
    assert len(markdown(made).splitlines()) == 2 + len(names)
    accuracy = {name: {c: cell.value for c, cell in row.items()} for name, row in made.items()}
    assert accuracy["pcfg_base"]["old"] > 0.9
    assert accuracy["pcfg_ft_100"]["old"] < 0.3
    assert accuracy["pcfg_ft_100"]["new at C_Te 0"] < 0.3
    assert accuracy["pcfg_ft_100"]["new at C_Te 1"] > 0.9
    assert accuracy["pcfg_ft_0"]["new at C_Te 0"] > accuracy["pcfg_ft_100"]["new at C_Te 0"] + 0.3
