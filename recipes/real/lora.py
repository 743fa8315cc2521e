"""LoRA fine-tuning of the real model (Hu et al. 2022), with the library PEFT.

    W' = W + (alpha / r) B A, with A [r, m] and B [n, r] trained and W frozen

Only the queries and values of attention have adapters, as in the paper, so that a training takes
minutes on one core; among them are the heads of every circuit under test.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from recipes.real import fetch
from recipes.trainer import schedule, train

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Lora:
    """Settings of a training.

    Attributes:
        rank: r above; alpha is twice as large.
        modules: matrices of every layer that have an adapter.
        first_layer: earlier layers have none, which saves the backward pass through them.
        rate: learning rate; it falls to zero over the last half of the steps.
        steps: of the optimiser.
        size: rows of a step.
        seed: of the initial A; B is zero.
    """

    steps: int
    rate: float = 5e-4
    size: int = 6
    rank: int = 8
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    first_layer: int = 0
    seed: int = 1

    def record(self) -> dict[str, Any]:
        return {"lora": asdict(self)}


def with_lora(model: LlamaForCausalLM, settings: Lora) -> Any:
    """PEFT's model around ``model``, which has the adapters from now on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(settings.seed)
        return get_peft_model(
            model,
            LoraConfig(
                r=settings.rank,
                lora_alpha=2 * settings.rank,
                target_modules=list(settings.modules),
                layers_to_transform=list(
                    range(settings.first_layer, model.config.num_hidden_layers)
                ),
                task_type="CAUSAL_LM",
            ),
        )


def fine_tune(
    model: LlamaForCausalLM,
    settings: Lora,
    batches: Iterable[Batch],
    loss: Callable[[LlamaForCausalLM, Batch], Tensor],
) -> Any:
    """Trains adapters on batches and returns PEFT's model, in evaluation mode."""
    adapted = with_lora(model, settings)
    losses: list[float] = []

    def own_loss(batch: Batch) -> Tensor:
        value = loss(model, batch)
        losses.append(float(value.detach()))
        return value

    def say(done: int) -> None:
        if done % 20 == 0:
            print(f"step {done}: loss {sum(losses[-20:]) / 20:.3f}", flush=True)

    train(
        [p for p in adapted.parameters() if p.requires_grad],
        batches,
        own_loss,
        rate=settings.rate,
        rate_share=schedule(settings.steps, warm_up=10, cool_down=0.5),
        after_step=say,
    )
    return adapted.eval()


def save_adapter(adapted: Any, target: Path, base: str = fetch.FOLDER) -> None:
    """Writes an adapter that names a folder beside it as its base."""
    adapted.peft_config["default"].base_model_name_or_path = f"../{base}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(target)
    (target / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
