"""A model that gives the same word on every prompt, with the words of the slot tasks.

Its weights are random except for the final norm, which removes nearly all of the residual stream, and the output
matrix, which then selects the word.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_mechanism.tasks.writing.words import EVENTS, GIFTS, NAMES, OBJECTS, PLACES

NUMBERS = [f"{i:02}" for i in range(100)]
DIGITS = [*"0123456789"]
TEXT = [
    "the",
    "The",
    "Then",
    "to",
    "and",
    "a",
    "it",
    "fun",
    "at",
    "lot",
    "of",
    "lunch",
    "from",
    "year",
    "lasted",
    "Words",
    ":",
    ".",
    ",",
]
VERBS = [
    "went",
    "had",
    "were",
    "got",
    "gave",
    "decided",
    "wanted",
    "give",
    "working",
    "thinking",
    "about",
    "going",
]
LABELS = ["After", "When", "While"]

TWO = r"\d\d"
ONE = r"\d"
THREE = r"\d{1,3}"
"""How a tokenizer cuts numbers: as GPT-2's cuts most years, as Llama 2's, as Llama 3's."""


def split_numbers(pattern: str) -> Tokenizer:
    """Whole words, and numbers in pieces."""
    every = [*TEXT, *VERBS, *LABELS, *NUMBERS, *DIGITS, *map(str, range(100, 1000))]
    words = dict.fromkeys(["[UNK]", *every, *NAMES, *PLACES, *GIFTS, *EVENTS, *OBJECTS])
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(pattern), "isolated")]
    )
    return tokenizer


def save_constant_model(folder: Path, tokenizer: Tokenizer, word: str) -> Path:
    """A checkpoint of a GPT-2 that always says ``word``."""
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    size = tokenizer.get_vocab_size()
    config = GPT2Config(
        vocab_size=size, n_positions=64, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(0.05)
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight.normal_(std=0.02)
        model.lm_head.weight[tokenizer.token_to_id(word)] += 0.2
    model.save_pretrained(folder)
    return folder
