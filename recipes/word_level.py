"""The tokenizer of the embedded checkpoints: one token a word of a given list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, BOS = "<pad>", "<unk>", "<bos>"


def tokenizer(ids: Mapping[str, int]) -> PreTrainedTokenizerFast:
    """``<bos>`` goes first, so that a head with nothing to say can look there."""
    words = Tokenizer(WordLevel(dict(ids), unk_token=UNKNOWN))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=PAD, unk_token=UNKNOWN, bos_token=BOS
    )


def save_tokenizer(folder: Path, ids: Mapping[str, int], longest: int) -> None:
    """Writes the tokenizer so that old and new transformers read it."""
    words = tokenizer(ids)
    words.model_max_length = longest
    words.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes its new name
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
