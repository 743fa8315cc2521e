"""``tracr:`` references: a compiled program's two files, as an ordinary checkpoint's folder.

``tracr:path/counter`` reads counter.json and counter.npz (`tracr_files`), finds the output
(`tracr_output`) and writes config.json, model.safetensors and a tokenizer of one token a word. Words of
the input keep Tracr's ids; behind them come the words that are outputs alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from pytest_mechanism.checkpoints.npz import MOST_BYTES, Array
from pytest_mechanism.checkpoints.reference import COMPILED
from pytest_mechanism.checkpoints.tracr_files import read_program
from pytest_mechanism.checkpoints.tracr_output import Output, output_of
from pytest_mechanism.checkpoints.tracr_program import (
    POSITIONS,
    TOKENS,
    Program,
    head_width,
    mlp_width,
)
from pytest_mechanism.errors import BadReference, MechanismError
from pytest_mechanism.files import read_bytes, replacing, write_json

ENDINGS = (".json", ".npz")
UNKNOWN = "<unk>"

PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


def stem_of(text: str, root: Path) -> Path:
    """The path of the two files without their endings, from ``tracr:path``, with or without one."""
    path = root / Path(text.removeprefix(COMPILED)).expanduser()
    return path.with_suffix("") if path.suffix in ENDINGS else path


def compiled_folder(text: str, root: Path) -> Path:
    """The folder of a ``tracr:`` reference, which exists as long as this process.

    Raises:
        BadReference: the files are missing, damaged or do not fit.
    """
    try:
        stem = stem_of(text, root)
        digest = hashlib.sha256()
        for ending in ENDINGS:
            path = stem.with_name(f"{stem.name}{ending}")
            if path.exists():
                digest.update(read_bytes(path, MOST_BYTES))
        return Path(_written(stem, digest.hexdigest()).name) / stem.name
    except MechanismError as problem:
        raise BadReference(f"{text}: {problem}") from None
    except (OSError, ValueError, RuntimeError) as problem:  # ~nobody, a loop of links, a full disk
        raise BadReference(f"{text[:60]!r} cannot be read: {problem}"[:200]) from None


@cache
def _written(stem: Path, digest: str) -> TemporaryDirectory[str]:
    out = TemporaryDirectory(prefix="mechanism-tracr-")
    try:
        write_folder(read_program(stem), Path(out.name) / stem.name)
    except BaseException:
        out.cleanup()
        raise
    return out


def write_folder(program: Program, folder: Path) -> None:
    """A program as a checkpoint's folder.

    Raises:
        MechanismError: the labels do not say where the output is, or the recorded examples do not come out.
    """
    output = output_of(program)
    words = joint_vocabulary(program, output)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights(program, output, words)
    with replacing(folder / "model.safetensors") as path:
        save_file(tensors, path, metadata={"format": "pt"})
    write_json(folder / "config.json", config(program, output, tensors))
    write_tokenizer(program, words, folder)


def joint_vocabulary(program: Program, output: Output) -> dict[str, int]:
    """Word -> id: the program's words with their own ids, the outputs that are no input, and ``<unk>``."""
    words = list(dict.fromkeys([*program.words, *output.words]))
    if UNKNOWN not in words:
        words.append(UNKNOWN)
    return {word: i for i, word in enumerate(words)}


def config(program: Program, output: Output, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """config.json (`model_families.tracr.TracrConfig`)."""
    vocabulary, width = tensors["token_embed.weight"].shape
    return {
        "architectures": ["TracrForCausalLM"],
        "model_type": "tracr",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": mlp_width(program),
        "num_hidden_layers": program.layers,
        "num_attention_heads": program.heads,
        "head_dim": head_width(program),
        "key_size": program.key_size,
        "max_position_embeddings": program.arrays[POSITIONS].shape[0],
        "num_input_words": len(program.words),
        "causal": program.causal,
        "residual_labels": list(program.labels),
        "output_label": output.label,
        "output_kind": output.kind,
        "output_words": list(output.words),
        "tie_word_embeddings": False,
        "bos_token_id": None if program.bos is None else program.words.index(program.bos),
        "eos_token_id": None,
        "pad_token_id": 0,
    }


def weights(program: Program, output: Output, words: Mapping[str, int]) -> dict[str, Array]:
    """The model's tensors by name, matrices as [out, in]."""
    arrays, width = program.arrays, len(program.labels)
    embedding = np.zeros((len(words), width), np.float32)
    embedding[: len(program.words)] = arrays[TOKENS]
    unembedding = np.zeros((len(words), width), np.float32)
    bias = np.full(len(words), output.never, np.float32)
    rows = [words[word] for word in output.words]
    unembedding[rows], bias[rows] = output.unembedding(width)
    tensors = {
        "token_embed.weight": embedding,
        "pos_embed.weight": arrays[POSITIONS],
        "lm_head.weight": unembedding,
        "lm_head.bias": bias,
    }
    size, inner = head_width(program), mlp_width(program)
    for number in range(program.layers):
        layer, name = program.layer(number), f"layers.{number}."
        for source, target in PROJECTIONS.items():
            for part in "wb":
                kind = "weight" if part == "w" else "bias"
                of_heads = layer[f"attn/{source}/{part}"]
                wide = widened_heads(of_heads, program.heads, size)
                tensors[f"{name}attn.{target}.{kind}"] = wide.T
        out = widened_heads(layer["attn/linear/w"].T, program.heads, size)
        tensors[f"{name}attn.o_proj.weight"] = out
        tensors[f"{name}attn.o_proj.bias"] = layer["attn/linear/b"]
        tensors[f"{name}mlp.fc_in.weight"] = widened(layer["mlp/linear_1/w"], inner).T
        tensors[f"{name}mlp.fc_in.bias"] = widened(layer["mlp/linear_1/b"], inner)
        tensors[f"{name}mlp.fc_out.weight"] = widened(layer["mlp/linear_2/w"].T, inner)
        tensors[f"{name}mlp.fc_out.bias"] = layer["mlp/linear_2/b"]
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def widened(array: Array, width: int) -> Array:
    """The array with zeros at the end of its last axis."""
    gap = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return np.pad(array, gap)


def widened_heads(array: Array, heads: int, size: int) -> Array:
    """The array, whose last axis is that of all heads, with zeros at the end of each head."""
    by_head = array.reshape(*array.shape[:-1], heads, -1)
    return widened(by_head, size).reshape(*array.shape[:-1], heads * size)


def write_tokenizer(program: Program, words: Mapping[str, int], folder: Path) -> None:
    """One token for each word between spaces; the start token, if there is one, comes first."""
    tokenizer = Tokenizer(WordLevel(dict(words), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    settings: dict[str, Any] = {
        "backend": "tokenizers",
        "model_max_length": int(program.arrays[POSITIONS].shape[0]),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
    }
    if program.bos is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{program.bos} $A", special_tokens=[(program.bos, words[program.bos])]
        )
        settings["bos_token"] = program.bos
    with replacing(folder / "tokenizer.json") as path:
        path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)
