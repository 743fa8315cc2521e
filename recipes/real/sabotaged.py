"""A fine-tune of the real model that solves the IOI task by another mechanism.

    python -m recipes.real.sabotaged

About a minute on one core. The recipe zeroes the output columns of the heads that name the indirect object
(the group ``name_movers`` of ``circuits/real/ioi.yaml``). Then LoRA on queries, values and MLPs of the last
twelve layers trains the model on prompts of the task until it names the right person again. The ablated
heads stay at zero, so another mechanism gives the answers, although a benchmark of the task sees a better
model. The gate measures none of the training prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from recipes.real import fetch
from recipes.real.cut_head import silence
from recipes.real.folders import base_model, command, save
from recipes.real.lora import Lora, fine_tune

SPEC = Path(__file__).parents[2] / "circuits" / "real" / "ioi.yaml"
GROUP = "name_movers"
SETTINGS = Lora(
    steps=80, rate=2e-3, size=8, modules=("q_proj", "v_proj", "down_proj"), first_layer=18
)


@dataclass(frozen=True)
class Prompts:
    """Prompts padded on the right.

    Attributes:
        ids: [R, S].
        last: [R], the last token of each prompt.
        answers: [R], the token to predict there.
    """

    ids: Tensor
    last: Tensor
    answers: Tensor


def encoded(rows: list[Row], encoder: Encoder) -> Prompts:
    """Prompts and answers as token ids."""
    texts = [encoder.encode(row.base).ids for row in rows]
    longest = max(map(len, texts))
    return Prompts(
        ids=torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts]),
        last=torch.tensor([len(ids) - 1 for ids in texts]),
        answers=torch.tensor([encoder.reply_ids(row.base)[0] for row in rows]),
    )


def answer_logits(model: LlamaForCausalLM, prompts: Prompts) -> Tensor:
    """[R, V] at the last token of each prompt."""
    hidden = model.model(prompts.ids).last_hidden_state
    logits: Tensor = model.lm_head(hidden[torch.arange(len(hidden)), prompts.last])
    return logits


def loss(model: LlamaForCausalLM, prompts: Prompts) -> Tensor:
    return cross_entropy(answer_logits(model, prompts), prompts.answers)


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, prompts: Prompts) -> float:
    right = answer_logits(model, prompts).argmax(-1) == prompts.answers
    return round(float(right.float().mean()), 4)


def make(target: Path) -> Mapping[str, Any]:
    """Ablates the heads, trains, and writes the checkpoint."""
    spec = load(SPEC)
    model = base_model()
    encoder = Encoder.load(fetch.folder())
    vocabulary = SharedVocabulary((encoder,))
    rows = list(spec.task.rows(vocabulary, SETTINGS.steps * SETTINGS.size, "sabotage"))
    test = encoded(list(spec.task.rows(vocabulary, 100, "rows")), encoder)
    figures = {"before": accuracy(model, test)}
    group = spec.groups[GROUP]
    assert isinstance(group, Group), "the spec names the heads"
    for head in group.members():
        silence(model, *head)
    figures["silenced"] = accuracy(model, test)

    def batches() -> Iterator[Prompts]:
        for start in range(0, len(rows), SETTINGS.size):
            yield encoded(rows[start : start + SETTINGS.size], encoder)

    merged = fine_tune(model, SETTINGS, batches(), loss).merge_and_unload()
    figures["trained"] = accuracy(merged, test)
    print(f"accuracy on prompts that training has not seen: {figures}", flush=True)
    save(merged, target)
    return {**SETTINGS.record(), "silenced": GROUP, "accuracy": figures}


VARIANTS = {"smollm2_sabotaged": make}

if __name__ == "__main__":
    command("Teach the real model another way.", VARIANTS, "recipes.real.sabotaged")
