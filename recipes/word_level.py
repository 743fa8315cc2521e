"""The tokenizer of the embedded checkpoints: one token for each word of a list."""

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
    """Starts every prompt with ``<bos>``, where heads without a target can attend."""
    words = Tokenizer(WordLevel(dict(ids), unk_token=UNKNOWN))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=PAD, unk_token=UNKNOWN, bos_token=BOS
    )


def save_tokenizer(folder: Path, ids: Mapping[str, int], longest: int) -> None:
    """Writes the tokenizer of a word list."""
    write_tokenizer(tokenizer(ids), folder, longest)


def write_tokenizer(
    words: PreTrainedTokenizerFast, folder: Path, longest: int, chat_template: str | None = None
) -> None:
    """Writes a tokenizer so that old and new versions of transformers read it."""
    words.model_max_length = longest
    words.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes its new name
    if chat_template is not None:
        config["chat_template"] = chat_template
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
