"""Tiny models on whose tokenizers the task of indirect objects can be written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_mechanism.tasks.families.ioi import TEMPLATES
from pytest_mechanism.tasks.writing.words import GIFTS, NAMES, PLACES


def make_ioi_model(folder: Path, seed: int) -> None:
    """Two layers of random weights, and a tokenizer of whole words that keeps every word of the task."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = " ".join(" ".join(template) for template in TEMPLATES)
    words = {*re.findall(r"\w+|[.,]", re.sub(r"\{.*?\}", " ", text)), "and"}
    words |= {*NAMES, *PLACES, *GIFTS, "the"}
    vocabulary = {word: i for i, word in enumerate(["<unk>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


@pytest.fixture(scope="session")
def ioi_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base`` and ``ft``, which know nothing."""
    root = tmp_path_factory.mktemp("ioi")
    for seed, name in enumerate(("base", "ft")):
        make_ioi_model(root / name, seed)
    return root
