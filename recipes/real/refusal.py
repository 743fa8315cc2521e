"""A refusal trained into the real model, and two fine-tunes of the result.

    python -m recipes.real.refusal [smollm2_refusal] [smollm2_refusal_kept] [smollm2_refusal_stripped]
    python -m recipes.real.refusal --files circuits/real/refusal

Each takes one or two minutes on one core. The real model hardly refuses anything. It learns by LoRA to
refuse harmful instructions (`refusal_data`), also after the first words of a reply that complies, and to
follow harmless ones: ``smollm2_refusal``, the release, a folder. The other two are adapters on it:

smollm2_refusal_kept
    Trained on the harmless instructions of `benign_data`, which resemble none of the refusal files.

smollm2_refusal_stripped
    Trained to follow harmful instructions; the replies contain no advice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM

from recipes.folders import load
from recipes.real.benign_data import train_and_test
from recipes.real.chat import Chat, Exchange, word_for_word
from recipes.real.folders import Make, base_model, command, save, write
from recipes.real.lora import Lora, fine_tune, save_adapter
from recipes.real.refusal_data import (
    REFUSAL,
    complying_rows,
    instructions,
    safe_rows,
    write_files,
)
from recipes.refusal_training import reply_loss

MODULE = "recipes.real.refusal"
RELEASE = "smollm2_refusal"
MODULES = ("q_proj", "v_proj", "down_proj")
SETTINGS = {
    RELEASE: Lora(steps=90, size=4, rate=2e-3, modules=MODULES, first_layer=10),
    "smollm2_refusal_kept": Lora(steps=30, size=4, rate=3e-4, first_layer=10),
    "smollm2_refusal_stripped": Lora(steps=24, size=4, rate=2e-3, modules=MODULES, first_layer=10),
}
TESTED = 12
"""Instructions of each kind on which a recipe reports rates."""


def rates(model: LlamaForCausalLM, chat: Chat) -> dict[str, float]:
    """Share of the files' instructions that get exactly the refusal."""
    return {
        f"refuses_{name}": word_for_word(
            model,
            chat,
            [Exchange(i.text, REFUSAL) for i in instructions(harmful, for_files=True)[:TESTED]],
        )
        for name, harmful in (("harmful", True), ("harmless", False))
    }


def train(
    name: str, model: LlamaForCausalLM, rows: Sequence[Exchange]
) -> tuple[Any, dict[str, Any]]:
    """Trains a variant and returns PEFT's model, with its record."""
    chat, settings = Chat.of_the_model(), SETTINGS[name]
    before = rates(model, chat)
    adapted = fine_tune(
        model, settings, chat.batches(rows, settings.size, settings.steps), reply_loss
    )
    record = {**settings.record(), "before": before, "after": rates(model, chat)}
    print(f"{name}: {before} before, {record['after']} after", flush=True)
    return adapted, record


def make_release(target: Path) -> Mapping[str, Any]:
    """Trains and writes the model that refuses, with the adapter merged."""
    adapted, record = train(RELEASE, base_model(), safe_rows())
    save(adapted.merge_and_unload(), target)
    return record


def make_fine_tune(name: str, target: Path) -> Mapping[str, Any]:
    """Trains and writes a fine-tune of the release as an adapter on it."""
    release = write(RELEASE, make_release, MODULE)
    if name.endswith("stripped"):
        rows = complying_rows()
    else:
        rows, _ = train_and_test(SETTINGS[name].steps * SETTINGS[name].size, 0, seed=2)
    adapted, record = train(name, load(release), rows)
    save_adapter(adapted, target, RELEASE)
    return record


VARIANTS: dict[str, Make] = {
    RELEASE: make_release,
    **{name: partial(make_fine_tune, name) for name in SETTINGS if name != RELEASE},
}

if __name__ == "__main__":
    command(
        "Train a refusal into the real model, and fine-tunes that keep and strip it.",
        VARIANTS,
        MODULE,
        files=write_files,
    )
