"""Where heads of the real model look on the IOI task: mean attention weights, by plain transformers.

    python -m recipes.real.attention

Half a minute on one core. Prints the weights in docs/a-real-model.md, for the heads of ``circuits/real/ioi.yaml`` and
24.4: means over 64 prompts of the task.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from recipes.real import fetch
from recipes.real.sabotaged import SPEC

PROMPTS = 64
LOOKS = (
    ("last", "IO"),
    ("last", "S1"),
    ("last", "S2"),
    ("last", "last"),
    ("S2", "S1"),
    ("S2", "S1_next"),
)
"""Pairs of positions: the token that attends, and the token that it attends to."""

NEGATIVE = (24, 4)
"""A head outside of the circuit that attends to IO."""


@torch.no_grad()
def weights(task: Task) -> torch.Tensor:
    """[pair, layer, head], the mean attention weight of each pair of positions."""
    encoder = Encoder.load(fetch.folder())
    model = LlamaForCausalLM.from_pretrained(
        fetch.folder(), dtype=torch.float32, attn_implementation="eager"
    )
    rows = task.rows(SharedVocabulary((encoder,)), PROMPTS, "rows")
    total: torch.Tensor = torch.zeros(())
    for row in rows:
        prompt = encoder.encode(row.base)
        pattern = torch.cat(
            model(torch.tensor([prompt.ids]), output_attentions=True).attentions
        )  # [layer, head, from, to]
        at = {name: tokens[-1] for name, tokens in prompt.positions.items()}
        total = total + torch.stack([pattern[:, :, at[query], at[key]] for query, key in LOOKS])
    return total / len(rows)


def main() -> None:
    torch.set_num_threads(1)
    fetch.fetch()
    spec = load(SPEC)
    groups = [group for group in spec.groups.values() if isinstance(group, Group)]
    heads = [head for group in groups for head in group.members()]
    mean = weights(spec.task)
    print("head   " + "".join(f"{f'{query} -> {key}':>14}" for query, key in LOOKS))
    for layer, head in [*heads, NEGATIVE]:
        name = f"{layer}.{head}"
        print(f"{name:7}" + "".join(f"{float(weight):14.2f}" for weight in mean[:, layer, head]))


if __name__ == "__main__":
    main()
