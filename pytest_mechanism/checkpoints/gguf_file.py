"""A GGUF file as a checkpoint: the model that its header describes. No torch.

Such a file holds weights, sizes, the tokenizer and the chat template, so it takes the place of a
checkpoint's folder. transformers reads it with the library ``gguf``, which dequantises the weights.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.gguf_header import Header, Many, read_header
from pytest_mechanism.checkpoints.transformers_source import (
    assigned_value,
    constant,
    statements,
    transformers_folder,
)
from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.files import GGUF

NEEDS_LIBRARY = "a GGUF file needs the library gguf: pip install 'pytest-mechanism[gguf]'"

OTHER_NAMES = {
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax-m2",
}
"""Name of an architecture in transformers' table -> its name in GGUF files, where the two differ."""

NOT_DECODERS = {"general", "tokenizer", "t5", "umt5", "mamba"}
"""Keys of transformers' table that are no decoder-only model with attention."""

SIZES = {
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "hidden_size": "embedding_length",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
"""What config.json calls a size -> what GGUF calls it, after the architecture's name."""

FACTORS = ("rope.scaling.factor", "rope.scale_linear")
"""Factors of rotary positions; 0 and 1 are none. The second is the first's name in older files."""

EMBEDDING = "token_embd.weight"
EXTRA_LAYERS, MOST_EXTRA = "nextn_predict_layers", 100


def checked_header(path: Path) -> Header:
    """The header of a GGUF file that holds one whole model.

    Raises:
        MechanismError: the library is missing, the file is damaged, or it holds something else.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MechanismError(NEEDS_LIBRARY)
    try:
        header = read_header(path)
    except OSError as problem:
        raise MechanismError(f"{path} cannot be read: {problem.strerror}") from None
    if (found := next(model_problems(header), None)) is not None:
        raise MechanismError(f"{path} {found}")
    return header


def model_problems(header: Header) -> Iterator[str]:
    """Why a GGUF file is not one whole model; nothing if it is."""
    if (parts := header.metadata.get("split.count", 1)) not in (0, 1):
        yield (
            f"is one of {str(parts)[:20]} parts of a model, and transformers reads whole models; join "
            "them: llama-gguf-split --merge FIRST-PART WHOLE.gguf"
        )
    if (kind := header.text("general.type")) not in ("", "model"):
        yield f"holds no model, but is of type {kind[:40]!r} (general.type in its metadata)"
    architecture = header.text("general.architecture")
    if not architecture:
        yield "does not say general.architecture, so it is not a model"
    valid = architectures()
    if valid and architecture not in valid:
        yield (
            f"has the architecture {architecture[:40]!r}, which transformers does not read from GGUF "
            f"files; {choices(architecture, valid)}"
        )
    if not header.tensors:
        yield "has no weights, only a vocabulary; name a file with weights"
    if not any(tensor.name == EMBEDDING for tensor in header.tensors):
        yield f"has no tensor {EMBEDDING}, so it is not a language model"
    if not isinstance(header.metadata.get("tokenizer.ggml.tokens"), Many):
        yield "has no tokenizer (tokenizer.ggml.tokens in its metadata)"


def unused_metadata(header: Header) -> str | None:
    """What a file says about its model that transformers does not read, so that it would make another
    model of it; or None."""
    architecture = header.text("general.architecture")
    if architecture == "gpt-oss":  # the only one whose scaling it reads
        return None
    scaling = f"{architecture}.rope.scaling.type"
    kind = header.text(scaling)
    if kind == "none":
        return None
    # llama.cpp scales linearly where a file names a factor and no type
    said: list[tuple[str, object]] = [(scaling, kind)] if kind else []
    for name in FACTORS:
        factor = header.metadata.get(f"{architecture}.{name}")
        if isinstance(factor, (int, float)) and factor not in (0, 1):
            said.append((f"{architecture}.{name}", factor))
    if not said:
        return None
    key, value = said[0]
    return (
        f"its rotary positions are scaled ({key} is {str(value)[:20]!r}), which transformers does not "
        "read from GGUF files, so it would be another model; convert the original checkpoint, and name "
        "its folder"
    )


def gguf_config(path: Path) -> dict[str, Any]:
    """The sizes in a GGUF file, under the names of config.json.

    Raises:
        MechanismError: the file is damaged, or holds no model.
    """
    header = checked_header(path)
    architecture = header.text("general.architecture")
    embedding = next(tensor for tensor in header.tensors if tensor.name == EMBEDDING)
    config: dict[str, Any] = {"vocab_size": embedding.shape[-1]}
    for name, key in SIZES.items():
        value = header.metadata.get(f"{architecture}.{key}")
        if isinstance(value, list):  # a number for each layer
            value = max(value, default=None)
        if isinstance(value, int):
            config[name] = value
    if "num_hidden_layers" in config:
        config["num_hidden_layers"] -= extra_layers(header)
    return config


def extra_layers(header: Header) -> int:
    """The number of layers after the last that predict further tokens; transformers leaves them out."""
    extra = header.metadata.get(f"{header.text('general.architecture')}.{EXTRA_LAYERS}")
    return extra if isinstance(extra, int) and 0 <= extra <= MOST_EXTRA else 0


def quantisation(path: Path) -> str:
    """How a GGUF file stores its weights, the most frequent way first: ``Q4_1, Q8_0``.

    Raises:
        MechanismError: the file is damaged, or holds no model.
    """
    stored: Counter[str] = Counter()
    for tensor in checked_header(path).tensors:
        if len(tensor.shape) > 1:  # norms and biases are always plain numbers
            stored[tensor.kind] += tensor.count
    return ", ".join(kind for kind, _ in stored.most_common())


def weights_in(path: Path) -> int:
    """The number of weights in a GGUF file.

    Raises:
        MechanismError: the file is damaged, or holds no model.
    """
    return sum(tensor.count for tensor in checked_header(path).tensors)


def files_in(folder: Path) -> list[str]:
    """The names of a folder's GGUF files."""
    try:
        return sorted(path.name for path in folder.glob(f"*{GGUF}") if path.is_file())
    except OSError:
        return []


@cache
def architectures() -> frozenset[str]:
    """The architectures that transformers reads from GGUF files; none if its tables are elsewhere."""
    found = table_keys("integrations/ggml.py", "GGUF_CONFIG_MAPPING") | table_keys(
        "integrations/gguf/gguf_conversion_mapping.py", "GGUF_ARCHS"
    )
    return frozenset(OTHER_NAMES.get(name, name) for name in found - NOT_DECODERS)


def table_keys(file: str, name: str) -> set[str]:
    """The keys of a table in a source file of transformers; none if there is no such table."""
    package = transformers_folder()
    for statement in statements(package / file) if package is not None else ():
        table = constant(assigned_value(statement, name))
        if isinstance(table, dict):
            return {key for key in table if isinstance(key, str)}
    return set()
