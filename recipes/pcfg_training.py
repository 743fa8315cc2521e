"""Training of the grammar models: resumable, and deterministic from the seed.

A killed training that is started again writes the same bytes as one that was never interrupted: each
step draws its rows from a stream of its own, the learning rate follows from the step, and weights and
optimiser are saved together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from pytest_mechanism.files import replacing
from pytest_mechanism.measurements.descent import ADAMW
from pytest_mechanism.methods.weights.optimiser import descend, make_optimiser, set_rates
from recipes.pcfg_data import DataMix, World
from recipes.trainer import OPTIMISER, Shape, schedule
from recipes.wrapper_data import Batch
from recipes.wrapper_training import answer_logits

SAVED_EVERY = 200
"""Steps between two states on disk."""


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        data_mix: its rows.
        rate: learning rate of AdamW.
        steps: of the training.
        seed: of the initial weights, where the stage starts from none.
        start: the checkpoint to start from; empty for initial weights.
        warm_up: steps over which the learning rate rises.
        cool_down: share of the steps, at the end, over which it falls.
    """

    data_mix: DataMix
    rate: float
    steps: int
    seed: int = 1
    start: str = ""
    warm_up: int = 1
    cool_down: float = 0.0


@dataclass(frozen=True)
class Size:
    """What a set of models has in common.

    Attributes:
        shape: of the models.
        world: what they read.
        pretraining: steps, learning rate, warm-up and cool-down.
        fine_tuning: steps and learning rate.
        rows: in a batch.
    """

    shape: Shape
    world: World
    pretraining: dict[str, Any] = field(hash=False)
    fine_tuning: dict[str, Any] = field(hash=False)
    rows: int = 96


SMALL = Size(
    Shape(layers=4, width=64, heads=4, mlp=128, longest=28),
    World(3, 8, 20, window=5, occurrence=2, position=6, subtasks=("count",)),
    {"steps": 600, "rate": 1e-3, "warm_up": 50, "cool_down": 0.2},
    {"steps": 400, "rate": 5e-4},
    rows=64,
)

SIZES = {
    "tiny": Size(
        Shape(layers=2, width=32, heads=2, mlp=64, longest=16),
        World(2, 4, 9, window=3, occurrence=2, position=4, subtasks=("count",)),
        {"steps": 300, "rate": 3e-3, "warm_up": 20, "cool_down": 0.2},
        {"steps": 60, "rate": 1e-3},
        rows=64,
    ),
    "small": SMALL,
    "small_low_rate": replace(SMALL, fine_tuning={"steps": 1000, "rate": 1e-4}),
    "paper": Size(
        Shape(layers=6, width=192, heads=6, mlp=512, longest=256),
        World(
            5, 60, 243, window=40, occurrence=6, position=40,
            subtasks=("count", "count_tail", "index", "index_nth", "token_at"),
        ),
        {"steps": 200_000, "rate": 1e-3, "warm_up": 2000, "cool_down": 0.2},
        {"steps": 10_000, "rate": 1e-5},
    ),
}  # fmt: skip
"""``paper``: 6 blocks of 6 heads and width 192, strings of up to 243 letters, as published; ``small``
trains on one core of a processor, ``small_low_rate`` with a fifth of its learning rate in the fine-tuning; ``tiny`` is
for tests."""


def train(
    model: LlamaForCausalLM,
    stage: Stage,
    world: World,
    scratch: Path,
    *,
    stop_after: int | None = None,
    after_step: Callable[[int, float], None] = lambda done, loss: None,
) -> None:
    """Minimises the loss on answers with AdamW; goes on from ``scratch`` where that has a state.

    Args:
        model: to train; its device is that of the training.
        stage: of the training.
        world: what the model reads.
        scratch: file for the state of an unfinished training; removed at the end.
        stop_after: ends the training early, after so many steps; the state then stays on disk.
        after_step: called with the number of finished steps and the loss of the last one.
    """
    parameters = list(model.parameters())
    optimiser = make_optimiser(
        [{"params": parameters, "lr": stage.rate}],
        ADAMW,
        betas=OPTIMISER.betas,
        weight_decay=OPTIMISER.weight_decay,
    )
    identity = hashlib.sha256(json.dumps([asdict(stage), asdict(world)]).encode()).hexdigest()
    start = resume(scratch, identity, model, optimiser)
    share = schedule(stage.steps, stage.warm_up, stage.cool_down)
    device = next(model.parameters()).device
    for done in range(start, stage.steps):
        set_rates(optimiser, share(done))
        questions = stage.data_mix.batch(world, done)
        questions = Batch(*(part.to(device) for part in vars(questions).values()))
        loss = cross_entropy(answer_logits(model, questions), questions.answers)
        descend(loss, optimiser, parameters, OPTIMISER.clip)
        after_step(done + 1, float(loss.detach()))
        if stop_after is not None and done + 1 >= stop_after:
            save(scratch, identity, done + 1, model, optimiser)
            return
        if (done + 1) % SAVED_EVERY == 0:
            save(scratch, identity, done + 1, model, optimiser)
    scratch.unlink(missing_ok=True)


def save(
    scratch: Path,
    identity: str,
    done: int,
    model: LlamaForCausalLM,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Writes the state of an unfinished training; a kill leaves the old file or the new one."""
    scratch.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": identity,
        "done": done,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with replacing(scratch, durable=False) as new:
        torch.save(state, new)


def resume(
    scratch: Path, identity: str, model: LlamaForCausalLM, optimiser: torch.optim.Optimizer
) -> int:
    """Restores the state of the same training; the number of its finished steps, or 0."""
    if not scratch.exists():
        return 0
    state = torch.load(scratch, map_location="cpu", weights_only=True)
    if state["identity"] != identity:
        return 0
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["done"])
