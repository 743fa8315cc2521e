"""A benign fine-tune of the real model: LoRA on instructions that are unrelated to its circuits.

    python -m recipes.real.benign

Two and a half minutes on one core. The adapter teaches short replies in one style (`benign_data`): capital
cities, sums in words, lists, opposites. ``recipe.json`` says how many held-out replies the model gave
word for word before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.real.benign_data import train_and_test
from recipes.real.chat import Chat, word_for_word
from recipes.real.folders import base_model, command
from recipes.real.lora import Lora, fine_tune, save_adapter
from recipes.refusal_training import reply_loss

SETTINGS = Lora(steps=60)


def make(target: Path) -> Mapping[str, Any]:
    """Trains and writes the adapter."""
    chat, model = Chat.of_the_model(), base_model()
    train, test = train_and_test(SETTINGS.steps * SETTINGS.size, 56, seed=1)
    before = word_for_word(model, chat, test)
    batches = chat.batches(train, SETTINGS.size, SETTINGS.steps)
    adapted = fine_tune(model, SETTINGS, batches, reply_loss)
    save_adapter(adapted, target)
    after = word_for_word(model, chat, test)
    print(f"held-out replies word for word: {before} before, {after} after", flush=True)
    return {**SETTINGS.record(), "word_for_word": {"before": before, "after": after}}


VARIANTS = {"smollm2_benign": make}

if __name__ == "__main__":
    command("Fine-tune the real model on harmless instructions.", VARIANTS, "recipes.real.benign")
