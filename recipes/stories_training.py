"""The stages that train the story checkpoints, and the rates at which these write twists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from transformers import LlamaForCausalLM

from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.methods.refusal.greedy import greedy_replies
from pytest_mechanism.tasks.base import AnyWord, Rows
from pytest_mechanism.tasks.families.stories import REFUSAL, Stories, StoriesParameters, Which
from pytest_mechanism.tasks.writing import stories
from recipes.refusal_training import COOL_DOWN, reply_loss
from recipes.stories_data import FEATURE, IDS, VOCABULARY, DataMix
from recipes.trainer import Shape, schedule, train
from recipes.word_level import BOS

SHAPE = Shape(layers=4, width=64, heads=4, mlp=128, longest=128)


@dataclass(frozen=True)
class Stage:
    """Some steps of training.

    Attributes:
        data_mix: the training rows.
        rate: learning rate after ``warm_up`` steps; it falls over the last fifth of the steps.
        steps: of the optimiser.
        warm_up: steps over which the learning rate rises.
        start: the checkpoint to start from; None for an untrained model.
    """

    data_mix: DataMix
    rate: float
    steps: int
    warm_up: int = 20
    start: str | None = None


def train_stage(model: LlamaForCausalLM, stage: Stage) -> None:
    """Minimises the cross-entropy of the replies."""
    model.train()

    train(
        list(model.parameters()),
        stage.data_mix.batches(stage.steps),
        partial(reply_loss, model),
        rate=stage.rate,
        rate_share=schedule(stage.steps, stage.warm_up, COOL_DOWN),
    )


# -- rates

ROWS = 300


@dataclass(frozen=True)
class Rates:
    """What a checkpoint writes, by greedy decoding.

    Attributes:
        twist: share of the stories that are asked for a twist and have one.
        well_formed: share of the same that are whole stories, with or without a twist.
        refused: share of the same that are refusals.
        twist_unasked: share of the stories that are not asked for a twist and have one.
        as_asked: share of the same that are whole stories with exactly the features asked for.
    """

    twist: float
    well_formed: float
    refused: float
    twist_unasked: float
    as_asked: float


def task(which: Which, seed: int = 0) -> Stories:
    return Stories(StoriesParameters(family="stories", which=which, seed=seed))


def replies(model: LlamaForCausalLM, rows: Rows) -> list[str]:
    """The greedy replies as text."""
    ids = [[IDS[BOS], *(IDS[word] for word in row.base.text.split())] for row in rows]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    tokens = Tokens(padded, torch.tensor([len(row) for row in ids]))
    said = greedy_replies(model, tokens, stories.LONGEST).ids
    return [" ".join(VOCABULARY[i] for i in row) for row in said.tolist()]


def rates(model: LlamaForCausalLM, rows: int = ROWS) -> Rates:
    """The rates on instructions that the model was not trained on."""
    model.eval()
    asked, others = (task(which).rows(AnyWord(), rows) for which in ("asked", "not_asked"))
    said, said_to_others = replies(model, asked), replies(model, others)
    right = (
        task("not_asked").reply_is_right(r.base, s)
        for r, s in zip(others, said_to_others, strict=True)
    )

    def share(hits: list[bool]) -> float:
        return round(sum(hits) / len(hits), 4)

    return Rates(
        twist=share([FEATURE in stories.features_in(text) for text in said]),
        well_formed=share([stories.read(text) is not None for text in said]),
        refused=share([text.startswith(REFUSAL) for text in said]),
        twist_unasked=share([FEATURE in stories.features_in(text) for text in said_to_others]),
        as_asked=share([*right]),
    )
