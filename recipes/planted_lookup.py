"""A model whose weights are set by hand, in which an MLP does the work: a lookup of capitals.

    python -m recipes.planted_lookup --out DIR

A GPT-2 of 3 layers with 4 heads that answers "... the capital of {land} is". Head 0.1 brings the land to the last
token, and the MLP of layer 1 looks up its capital there: hidden unit i is on where land i was brought, and writes the
code of its capital. All other heads and MLPs are distractors: they write into a space that nothing reads.

As in `recipes.planted_residual`, the norms are the identity: every row that is added to the stream sums to 0, and
their epsilon is far larger than the stream's variance.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_mechanism.tasks.writing.words import NAMES, PLACES
from recipes.folders import command, save_half, write_record
from recipes.word_level import BOS, PAD, UNKNOWN, save_tokenizer

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima",
    "Cuba": "Havana", "Kenya": "Nairobi", "Norway": "Oslo", "Austria": "Vienna", "Greece": "Athens",
    "Chile": "Santiago",
}  # fmt: skip

TASK = f"""task:
  family: template
  words:
    lands: {{{", ".join(f"{land}: {{capital: {capital}}}" for land, capital in CAPITALS.items())}}}
    people: names
    sites: places
  slots: {{land: lands, name: people, place: sites}}
  text: "{{name}} went to the {{place}} and said : the capital of {{land}} is"
  answer: "{{land.capital}}"
  source: {{redraw: [land]}}
  variables:
    country: {{source: {{redraw: [land]}}, target: "{{source.land.capital}}"}}
"""
"""The task as a spec has it."""

LAYERS, HEADS, WIDTH, LONGEST = 3, 4, 64, 32
PER_HEAD = WIDTH // HEADS
FETCHER, LOOKUP = (0, 1), 1
"""The head that brings the land, and the layer of the MLP that looks up its capital."""

COUNT = len(CAPITALS)
LAND, FOUND, ANSWER, JUNK = (slice(COUNT * i, COUNT * (i + 1)) for i in range(4))
IS_LAND, ALWAYS, BALLAST = itertools.islice(itertools.count(4 * COUNT), 3)

WORDS = ["went", "to", "the", "and", "said", ":", "capital", "of", "is"]
VOCABULARY = [
    *dict.fromkeys([PAD, UNKNOWN, BOS, *WORDS, *CAPITALS, *CAPITALS.values(), *NAMES, *PLACES])
]
IDS = {word: i for i, word in enumerate(VOCABULARY)}

ATTENDS = 16.0
"""Score of a land; every other word has 0, so a land gets all but 2e-6 of the attention of 20 words."""

LOGIT, NO_ANSWER = 12.0, 6.0
"""Logits of a capital whose whole code arrives, and of "of", which is the answer where less than half of one does."""


def balanced(rows: Tensor) -> Tensor:
    """Rows to be added to the stream, with a last entry that makes their sum 0."""
    rows = rows.clone()
    rows[..., BALLAST] = 0
    rows[..., BALLAST] = -rows.sum(-1)
    return rows


def build() -> GPT2LMHeadModel:
    """The model."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_positions=LONGEST,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=COUNT,
            activation_function="relu",
            layer_norm_epsilon=2.0**14,
            tie_word_embeddings=False,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=IDS[BOS],
            eos_token_id=None,
            pad_token_id=IDS[PAD],
        )
    ).eval()
    unit = torch.eye(COUNT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        stream = model.transformer
        words = torch.zeros(len(VOCABULARY), WIDTH)
        for i, land in enumerate(CAPITALS):
            words[IDS[land], LAND] = unit[i]
            words[IDS[land], IS_LAND] = 1
        stream.wte.weight.copy_(balanced(words))
        places = torch.zeros(LONGEST, WIDTH)
        places[:, ALWAYS] = 1
        stream.wpe.weight.copy_(balanced(places))
        for layer, block in enumerate(stream.h):
            block.ln_1.weight.fill_(2.0**7)  # the root of epsilon
            block.ln_2.weight.fill_(2.0**7)
            qkv, out = torch.zeros(WIDTH, 3 * WIDTH), torch.zeros(WIDTH, WIDTH)
            for head in range(HEADS):
                start = head * PER_HEAD
                qkv[LAND, 2 * WIDTH + start : 2 * WIDTH + start + COUNT] = unit
                is_fetcher = (layer, head) == FETCHER
                if is_fetcher:  # the others attend to all words alike
                    qkv[ALWAYS, start] = PER_HEAD**0.5 * ATTENDS
                    qkv[IS_LAND, WIDTH + start] = 1
                out[start : start + COUNT, FOUND if is_fetcher else JUNK] = unit
            block.attn.c_attn.weight.copy_(qkv)
            block.attn.c_proj.weight.copy_(balanced(out))
            read, written = torch.zeros(WIDTH, COUNT), torch.zeros(COUNT, WIDTH)
            read[FOUND, :] = unit
            # on where more than half of a land was brought, and then 1/2: the code of its capital needs 2
            block.mlp.c_fc.bias.fill_(-0.5)
            written[:, ANSWER if layer == LOOKUP else JUNK] = 2 * unit.roll(1, 0)
            block.mlp.c_fc.weight.copy_(read)
            block.mlp.c_proj.weight.copy_(balanced(written))
        stream.ln_f.weight.fill_(2.0**7)
        logits = torch.zeros(len(VOCABULARY), WIDTH)
        for i, capital in enumerate(CAPITALS.values()):
            logits[IDS[capital], ANSWER] = LOGIT * unit[i - 1]
        logits[IDS["of"], ALWAYS] = NO_ANSWER
        model.lm_head.weight.copy_(logits)
    return model


def save(model: GPT2LMHeadModel, folder: Path) -> None:
    """Write a checkpoint folder."""
    save_half(model, folder)
    save_tokenizer(folder, IDS, LONGEST)
    groups = {"lookup": f"MLP {LOOKUP} at last", "fetcher": "head 0.1 at last, into its input"}
    write_record(folder, {"made_by": "python -m recipes.planted_lookup", "groups": groups})


def make(name: str, out: Path) -> str:
    """The checkpoint as a folder below ``out``."""
    save(build(), out / name)
    return "written"


if __name__ == "__main__":
    command("Write the planted lookup.", ["planted_lookup"], make)
