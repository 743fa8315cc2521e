"""Texts become the ids that transformers' AutoTokenizer gives, whichever file a token is in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2Config, LlamaConfig, Qwen2Config

from pytest_mechanism.checkpoints.loading.tokenizer_check import MESSAGE, check_tokens
from pytest_mechanism.errors import SelfCheckError
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.text.chat import DEFAULT_CHAT, ChatPrompt, render_chat
from pytest_mechanism.tasks.text.encoding import Encoder

TEXT = "the quick <extra> fox<|im_end|> the<s> fox"
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
CONFIGS = {"llama": LlamaConfig(), "gpt2": GPT2Config(), "qwen2": Qwen2Config()}
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)


def folder(path: Path, family: str, config: dict[str, Any], **files: Any) -> Path:
    """A byte-level tokenizer with its BOS, and files beside it."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        ["the quick brown fox"] * 3,
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
            special_tokens=["<s>"],
        ),
    )
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    words.save(str(path / "tokenizer.json"))
    CONFIGS[family].save_pretrained(path)
    for name, content in {"tokenizer_config": config, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "named in special_tokens_map.json": (
        FAST,
        {"special_tokens_map": {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}},
    ),
    "others in special_tokens_map.json": (
        FAST,
        {"special_tokens_map": {"eos_token": "<s>", "additional_special_tokens": ["<extra>"]}},
    ),
    "added_tokens.json": (FAST, {"added_tokens": {"<extra>": 264, "<|im_end|>": 265}}),
    "tokenizer_config.json": (FAST | {"eos_token": "<|im_end|>"}, {}),
    "a list in tokenizer_config.json, which leaves the map out": (
        FAST
        | {
            "added_tokens_decoder": {
                "264": {"content": "<extra>", "special": False, "lstrip": True, "rstrip": True}
            }
        },
        {"special_tokens_map": {"eos_token": "<|im_end|>"}},
    ),
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("beside", BESIDE)
def test_a_token_of_any_file_is_cut_out_of_a_text_as_a_whole(
    tmp_path: Path, family: str, beside: str
) -> None:
    """With the id that AutoTokenizer gives it, with special tokens and without."""
    config, files = BESIDE[beside]
    encoder = Encoder.load(folder(tmp_path, family, config, **files))
    right = AutoTokenizer.from_pretrained(tmp_path)
    for special in (True, False):
        mine = encoder.tokenizer.encode(TEXT, add_special_tokens=special).ids
        assert mine == right(TEXT, add_special_tokens=special).input_ids
    assert encoder.vocabulary_size == len(right)
    check_tokens(encoder, [Prompt(TEXT, {}, "fox")])


def test_a_template_writes_the_special_tokens_of_either_file(tmp_path: Path) -> None:
    """bos_token and the like from special_tokens_map.json, as in apply_chat_template."""
    made = folder(
        tmp_path,
        "llama",
        FAST | {"chat_template": TURNS},
        special_tokens_map={"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}},
    )
    right = AutoTokenizer.from_pretrained(made)
    assert render_chat(made, MESSAGE).text == f"<s>{MESSAGE}<|im_end|>:"
    turns = [{"role": "user", "content": MESSAGE}]
    assert render_chat(made, MESSAGE).text == right.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    check_tokens(
        Encoder.load(made),
        [Prompt(render_chat(made, MESSAGE).text, {}, "fox", add_special_tokens=False)],
    )


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_class_that_does_more_than_its_file_says_is_refused(tmp_path: Path, family: str) -> None:
    """Other ids than AutoTokenizer's would be another prompt; the line says what to do."""
    name = {"qwen2": "Qwen2Tokenizer", "gpt2": "GPT2Tokenizer"}[family]
    encoder = Encoder.load(
        folder(tmp_path, family, {"tokenizer_class": name, "add_prefix_space": True})
    )
    with pytest.raises(
        SelfCheckError, match=r"AutoTokenizer split 'the quick .* differently"
    ) as no:
        check_tokens(encoder, [Prompt(TEXT, {}, "fox")])
    assert "\n" not in str(no.value)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    right = AutoTokenizer.from_pretrained(tmp_path)(TEXT).input_ids
    assert Encoder.load(tmp_path).tokenizer.encode(TEXT).ids == right


def test_a_template_that_is_rendered_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a chat model reads is what apply_chat_template writes."""
    made = folder(tmp_path, "llama", FAST | {"chat_template": TURNS, "bos_token": "<s>"})
    encoder = Encoder.load(made)
    monkeypatch.setattr(
        Encoder, "chat", lambda self, message, settings=DEFAULT_CHAT: ChatPrompt(f"<s>{message}")
    )
    with pytest.raises(SelfCheckError, match="the chat template renders '<s>Who"):
        check_tokens(encoder, [Prompt("<s>x", {}, "fox", add_special_tokens=False)])
