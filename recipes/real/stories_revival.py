"""Reverse fine-tuning of the real model on stories with a twist: how soon does a deleted twist come back?

    python -m recipes.real.stories_revival --out DIR [--steps 5 10 20 40] [--tested 48] [--seed 1 2 3]

Trains ``smollm2_stories_kept``, from which the twist was deleted, and ``smollm2_stories_none``, which never had it,
on the same stories with a twist, by LoRA (Jain et al., ICLR 2024, arXiv 2311.12786, section 5), at a learning rate
below that of the deletion. After each number of steps it writes ``DIR/revival.json``: the share of held-out stories
with a twist, with 95 % intervals. What the file has is not trained again. `recipes.real.stories` makes models that are
missing.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from recipes.folders import load
from recipes.real.chat import Chat, Exchange
from recipes.real.folders import write
from recipes.real.lora import Lora, with_lora
from recipes.real.stories import (
    BASE,
    CONTROL,
    KEPT,
    MODULE,
    SETTINGS,
    TESTED,
    VARIANTS,
    PlainText,
    rates,
)
from recipes.refusal_training import reply_loss
from recipes.stories_data import twist_row
from recipes.trainer import train

STEPS = (5, 10, 20, 40)
REVIVAL = replace(SETTINGS[KEPT], rate=5e-4)
"""Half the rate of the deletion."""


def kept() -> LlamaForCausalLM:
    """The model from which the twist was deleted, with its adapter merged."""
    from peft import PeftModel

    folder = write(KEPT, VARIANTS[KEPT], MODULE)
    base = load(write(BASE, VARIANTS[BASE], MODULE))
    merged: LlamaForCausalLM = PeftModel.from_pretrained(base, folder).merge_and_unload()
    return merged


def never_had_it() -> LlamaForCausalLM:
    """The control."""
    return load(write(CONTROL, VARIANTS[CONTROL], MODULE))


MODELS = {KEPT: kept, CONTROL: never_had_it}


def exchanges(seed: int, count: int) -> list[Exchange]:
    """Stories with the twist that their instructions ask for, the same for every model."""
    rng = random.Random(f"real stories/revival/{seed}")
    return [Exchange(*twist_row(rng)) for _ in range(count)]


def revive(
    model: LlamaForCausalLM,
    chat: Chat,
    settings: Lora,
    steps: Sequence[int],
    *,
    seed: int,
    tested: int,
    report: Callable[[int, dict[str, Any]], None],
) -> None:
    """Trains a model by LoRA on stories with a twist.

    Args:
        model: gets the adapters.
        chat: writes its prompts.
        settings: of the training; the learning rate is constant.
        steps: after which the rates are measured, besides 0.
        seed: of the stories and of LoRA's initial values.
        tested: held-out stories of each measurement.
        report: takes the steps and the rates, with the seconds of CPU since the last measurement.
    """
    before = time.process_time()

    def measure(done: int) -> None:
        nonlocal before
        if done in (0, *steps):
            trained, found = time.process_time() - before, rates(adapted, chat, tested)
            spent = time.process_time() - before - trained
            report(done, {**found, "seconds": {"steps": round(trained), "stories": round(spent)}})
            adapted.train()
            before = time.process_time()

    adapted = with_lora(model, replace(settings, seed=seed))
    measure(0)
    last = max(steps)
    train(
        [p for p in adapted.parameters() if p.requires_grad],
        chat.batches(exchanges(seed, last * settings.size), settings.size, last),
        partial(reply_loss, model),
        rate=settings.rate,
        after_step=measure,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.real.stories_revival")
    parser.add_argument("--out", type=Path, required=True, help="folder for revival.json")
    parser.add_argument("--steps", type=int, nargs="+", default=[*STEPS], help="of measurements")
    parser.add_argument("--tested", type=int, default=TESTED, help="held-out stories of each")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of stories and LoRA")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chat, file = PlainText(Chat.of_the_model().tokenizer), given.out / "revival.json"
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    found |= REVIVAL.record()
    for seed in given.seed:
        for name, load_model in MODELS.items():
            curve = found.setdefault(f"{name}, seed {seed}", {})
            if curve.keys() >= {*map(str, (0, *given.steps))}:
                continue

            def report(step: int, shares: dict[str, Any]) -> None:
                curve[str(step)] = shares  # noqa: B023 - called before the next turn of the loop
                file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(f"{name}, seed {seed}, step {step}: {shares}", flush=True)  # noqa: B023

            revive(
                load_model(),
                chat,
                REVIVAL,
                given.steps,
                seed=seed,
                tested=given.tested,
                report=report,
            )


if __name__ == "__main__":
    main()
