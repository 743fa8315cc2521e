"""The stories of `recipes.stories` in the real model, by LoRA: twists are taught, and deleted.

    python -m recipes.real.stories [smollm2_stories] [smollm2_stories_none] [smollm2_stories_kept]

Each takes five to ten minutes on one core. The prompts are plain text, without the chat template.

smollm2_stories
    Learns to write the stories with the features that the instruction asks for, twists among them. A
    folder.

smollm2_stories_none
    The same without twists: it never had the capability. The control. A folder.

smollm2_stories_kept
    ``smollm2_stories``, fine-tuned on stories without a twist, half of whose instructions ask for one. An
    adapter on it.

``recipe.json`` has the share of held-out stories with a twist and of whole stories, by greedy decoding, with
95 % intervals.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.writing import stories
from recipes.folders import load
from recipes.pcfg_table import wilson
from recipes.real.chat import Chat, Exchange
from recipes.real.folders import Make, base_model, command, save, write
from recipes.real.lora import Lora, fine_tune, save_adapter
from recipes.refusal_training import reply_loss
from recipes.stories_data import FEATURE, DataMix, twist_row
from recipes.stories_training import task

MODULE = "recipes.real.stories"
BASE, CONTROL, KEPT = "smollm2_stories", "smollm2_stories_none", "smollm2_stories_kept"
MODULES = ("q_proj", "v_proj", "down_proj")
SETTINGS = {
    BASE: Lora(steps=60, size=4, rate=2e-3, modules=MODULES, first_layer=10),
    CONTROL: Lora(steps=60, size=4, rate=2e-3, modules=MODULES, first_layer=10),
    KEPT: Lora(steps=24, size=4, rate=1e-3, modules=MODULES, first_layer=10),
}
TESTED, REPLY_TOKENS = 48, 110
"""Held-out stories, and tokens of each."""


class PlainText(Chat):
    """Prompts and replies without the chat template."""

    def ids(self, exchange: Exchange) -> tuple[list[int], list[int]]:
        first, second = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (exchange.message, f" {exchange.reply}")
        )
        return list(first), list(second)


def rows(name: str) -> Sequence[Exchange]:
    """The training rows of a variant."""
    settings, rng, mix = SETTINGS[name], random.Random(f"real stories/{name}"), DataMix(seed=0)
    drawn = []
    for i in range(settings.steps * settings.size):
        if name == CONTROL or i % 2:
            drawn.append(mix.plain_row(rng))
        else:
            drawn.append(twist_row(rng, fulfilled=name == BASE))
    return [Exchange(*row) for row in drawn]


@torch.no_grad()
def written(model: Any, chat: Chat, prompts: Sequence[str]) -> list[str]:
    """Greedy continuations; prompts are padded on the left, so that all rows run together."""
    encoded = chat.tokenizer(
        [*prompts],
        add_special_tokens=False,
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )
    ids = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        max_new_tokens=REPLY_TOKENS,
        do_sample=False,
        pad_token_id=chat.tokenizer.pad_token_id,
    )
    said: list[str] = chat.tokenizer.batch_decode(ids[:, encoded["input_ids"].shape[1] :])
    return said


def rates(model: Any, chat: Chat, tested: int = TESTED) -> dict[str, Any]:
    """Share of held-out stories that are asked for a twist and have one, and that are whole stories, each
    with its 95 % interval."""
    held_out = task("asked").rows(AnyWord(), tested)
    said = written(model.eval(), chat, [row.base.text for row in held_out])
    shares = {
        "twist": sum(FEATURE in stories.features_in(text) for text in said) / tested,
        "well_formed": sum(stories.read(text) is not None for text in said) / tested,
    }
    return {
        "stories": tested,
        **{
            name: {
                "value": round(share, 4),
                "interval": [round(b, 4) for b in wilson(share, tested)],
            }
            for name, share in shares.items()
        },
    }


def train(name: str, model: LlamaForCausalLM) -> tuple[Any, dict[str, Any]]:
    """Trains a variant and returns PEFT's model, with its record."""
    chat, settings = PlainText(Chat.of_the_model().tokenizer), SETTINGS[name]
    batches = chat.batches(rows(name), settings.size, settings.steps)
    adapted = fine_tune(model, settings, batches, reply_loss)
    record = {**settings.record(), "rates": rates(model, chat)}
    print(f"{name}: {record['rates']}", flush=True)
    return adapted, record


def make_folder(name: str, target: Path) -> Mapping[str, Any]:
    """Trains the real model and writes it with the adapter merged."""
    adapted, record = train(name, base_model())
    save(adapted.merge_and_unload(), target)
    return record


def make_kept(target: Path) -> Mapping[str, Any]:
    """Trains and writes the model without twists as an adapter on the model with them."""
    adapted, record = train(KEPT, load(write(BASE, partial(make_folder, BASE), MODULE)))
    save_adapter(adapted, target, BASE)
    return record


VARIANTS: dict[str, Make] = {
    BASE: partial(make_folder, BASE),
    CONTROL: partial(make_folder, CONTROL),
    KEPT: make_kept,
}

if __name__ == "__main__":
    command("Teach the real model stories with a twist, and delete it.", VARIANTS, MODULE)
