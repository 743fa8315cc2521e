"""Tiny GGUF files for tests: Llamas with random weights and a byte-level tokenizer, written by the library
``gguf``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
WORDS = ["one", "two", "six", "red", "blue", "green", "apple", "pear"]
"""Each is one token after a space."""


@dataclass
class TinyModel:
    """What a file holds.

    Attributes:
        layers: number of layers.
        heads: query heads; half as many key-value heads.
        width: of the residual stream.
        kind: how matrices are stored.
        architecture: as the file says it.
        extra: further tensors.
        metadata: further entries, each a number or a text.
        tensors: whether it has weights at all.
        chat: the chat template, or nothing.
        seed: of the weights.
    """

    layers: int = 2
    heads: int = 4
    width: int = 64
    kind: str = "Q8_0"
    architecture: str = "llama"
    extra: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    metadata: dict[str, int | float | str] = field(default_factory=dict)
    tensors: bool = True
    chat: str = CHAT
    seed: int = 0

    def write(self, path: Path) -> Path:
        """Writes the file."""
        writer = gguf.GGUFWriter(path, self.architecture)
        vocabulary = self._tokenizer(writer)
        writer.add_block_count(self.layers)
        writer.add_context_length(256)
        writer.add_embedding_length(self.width)
        writer.add_feed_forward_length(2 * self.width)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.heads // 2)
        writer.add_rope_dimension_count(self.width // self.heads)
        writer.add_rope_freq_base(10_000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        for key, value in self.metadata.items():
            if isinstance(value, str):
                writer.add_string(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_float32(key, value)
        if self.tensors:
            self._weights(writer, vocabulary)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _tokenizer(self, writer: gguf.GGUFWriter) -> int:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=1000,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=SPECIAL,
            show_progress=False,
        )
        tokenizer.train_from_iterator([f" {word}" for word in WORDS for _ in range(9)], trainer)
        content = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(content["vocab"], key=content["vocab"].__getitem__)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in content["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)
        if self.chat:
            writer.add_chat_template(self.chat)
        return len(tokens)

    def _weights(self, writer: gguf.GGUFWriter, vocabulary: int) -> None:
        random = np.random.default_rng(self.seed)
        kind = gguf.GGMLQuantizationType[self.kind]

        def matrix(name: str, outputs: int, inputs: int) -> None:
            values = random.normal(0, 0.2, (outputs, inputs)).astype(np.float32)
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

        def ones(name: str) -> None:
            writer.add_tensor(name, np.ones(self.width, np.float32))

        width, inner, kv = self.width, 2 * self.width, self.width // 2
        matrix("token_embd.weight", vocabulary, width)
        for layer in range(self.layers):
            block = f"blk.{layer}"
            for name, outputs, inputs in (
                ("attn_q", width, width),
                ("attn_k", kv, width),
                ("attn_v", kv, width),
                ("attn_output", width, width),
                ("ffn_gate", inner, width),
                ("ffn_up", inner, width),
                ("ffn_down", width, inner),
            ):
                matrix(f"{block}.{name}.weight", outputs, inputs)
            ones(f"{block}.attn_norm.weight")
            ones(f"{block}.ffn_norm.weight")
        ones("output_norm.weight")
        for name, values in self.extra.items():
            writer.add_tensor(name, values)
