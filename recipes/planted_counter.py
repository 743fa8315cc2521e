"""A handmade counter and a unit that hides its count, on which methods have a known answer; no checkpoint.

A Llama of 3 layers, width 64 and 2 heads, for the counting task with strings of one length and
questions about ``a``. Weights that are not named below are small noise. Let e(w) be the direction of
a word and T the number of tokens of a prompt.

attention of one layer
    attends to all tokens equally, since its queries and keys are zero. Its first head reads e(a)
    and writes to the direction COUNT. The question names the operand once, so COUNT is c (n + 1) at
    the last token, where n is the answer and c = sqrt(64) / T comes from the norm.

words
    The logit of the number m is proportional to m COUNT / c - (m + m^2 / 2 - 5) ART. Since ART is 1
    at the last token, this is m n - m^2 / 2 + 5, which is largest for m = n and above the 0 of all
    words that are no numbers.

the unit that hides the answer
    in the next layer, always active: a hidden unit of the MLP or a head reads ART and writes to the
    direction HIDE, and the logit of REFUSE is a large multiple of HIDE.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.tasks.writing.questions import REFUSAL
from recipes.word_level import save_tokenizer
from recipes.wrapper_data import FORBIDDEN, IDS, WAYS, ZERO

LENGTH = 8
TOKENS = LENGTH + 6
"""Tokens of a prompt: ``<bos>``, verb, operand, SOT, the letters of the string, EOT, ART."""

WIDTH, HEADS, LAYERS = 64, 2, 3
COUNT, HIDE = WIDTH - 1, WIDTH - 2
NOISE = 0.001

UNIT, HEAD = 3, 1
"""The hidden unit, or the head, of its layer that hides the answer."""

SETTINGS: dict[str, Any] = {
    "family": "counting", "letters": "abc", "refuse": FORBIDDEN, "ways": WAYS, "shortest": LENGTH,
    "longest": LENGTH, "most": LENGTH, "rows": 100,
}  # fmt: skip
TASK = Counting(CountingParameters(**SETTINGS))


def counter(
    hidden_by: Literal["nothing", "neuron", "head"] = "nothing", written_in: int = 1, seed: int = 0
) -> LlamaForCausalLM:
    """The model.

    Args:
        hidden_by: the kind of unit that hides the count.
        written_in: the layer, from 0, that writes the count; the hiding unit is in the next layer.
        seed: of the noise.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(IDS), hidden_size=WIDTH, intermediate_size=16, num_attention_heads=HEADS,
            num_hidden_layers=LAYERS, max_position_embeddings=32, initializer_range=NOISE,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        nn.init.eye_(model.model.embed_tokens.weight)
        write_count(model, written_in)
        write_unembedding(model)
        after = model.model.layers[min(written_in + 1, LAYERS - 1)]
        if hidden_by == "neuron":
            after.mlp.gate_proj.weight[UNIT, IDS["ART"]] = 2.0
            after.mlp.up_proj.weight[UNIT, IDS["ART"]] = 2.0
            after.mlp.down_proj.weight[:, UNIT] = 0.0
            after.mlp.down_proj.weight[HIDE, UNIT] = 1.0
        elif hidden_by == "head":
            first = HEAD * WIDTH // HEADS
            after.self_attn.v_proj.weight[first, IDS["ART"]] = 1.0
            after.self_attn.o_proj.weight[:, first] = 0.0
            after.self_attn.o_proj.weight[HIDE, first] = 150.0
    return model.eval()


def write_count(model: LlamaForCausalLM, layer: int) -> None:
    """Makes the layer write COUNT = c (n + 1)."""
    attention = model.model.layers[layer].self_attn
    for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        part.weight.zero_()
    attention.v_proj.weight[0, IDS[FORBIDDEN]] = 1.0
    attention.o_proj.weight[COUNT, 0] = 1.0


def write_unembedding(model: LlamaForCausalLM) -> None:
    """Sets the logits of the numbers and of REFUSE; those of other words are zero."""
    words = model.lm_head.weight.zero_()
    number = torch.arange(LENGTH + 1.0)
    words[ZERO : ZERO + LENGTH + 1, COUNT] = number * TOKENS / WIDTH**0.5
    words[ZERO : ZERO + LENGTH + 1, IDS["ART"]] = 5 - number - number**2 / 2
    words[IDS[REFUSAL], HIDE] = 10.0


def save(model: LlamaForCausalLM, folder: Path) -> Path:
    """Writes a checkpoint with its tokenizer."""
    model.save_pretrained(folder)
    save_tokenizer(folder, IDS, 32)
    return folder
