"""A compiled program as two files: parameters (.npz, in Tracr's names) and labels (.json).

    {"vocab": {"BOS": 0, "a": 1}, "residual_labels": ["tokens:a", "count_1:0", ...], "num_heads": 1,
     "key_size": 11, "causal": true, "output_values": {"0": 0, "1": 1}, "examples": [...]}

The arrays are those of Tracr's ``params``, under ``module/array``, as in
``transformer/layer_0/attn/query/w`` of shape [width, heads * size]. ``output_values`` are the values of
Tracr's output encoder; null, or nothing, for a program whose output is a number. Optional: ``output``
(the label of the output's variable), ``bos`` (the start token; null for a program without), ``examples``
(``{"input": [...], "output": [...]}``, on which the import runs the program), ``num_layers``,
``mlp_hidden_size``, ``max_seq_len``, ``layer_norm``, ``activation``.

Nothing is unpickled, and a file is checked before its arrays are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.npz import Array, read_arrays
from pytest_mechanism.checkpoints.tracr_program import (
    LAYER,
    PARTS,
    POSITIONS,
    TOKENS,
    Example,
    Program,
    check_shapes,
    check_size,
)
from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.files import BadFile, read_json

MOST_WORDS = 100_000
"""Words of a vocabulary, values of an output, labels."""
MOST_EXAMPLES = 100_000
MOST_TEXT = 1 << 26
"""Bytes of the labels file."""
STARTS = ("BOS", "bos", "compiler_bos", "<bos>")
"""What the start token is called where the file does not say."""


def read_program(stem: Path) -> Program:
    """The program in ``stem.json`` and ``stem.npz``.

    Raises:
        MechanismError: a file is missing, damaged or too large, or the two do not fit.
    """
    labels = stem.with_name(f"{stem.name}.json")
    arrays = stem.with_name(f"{stem.name}.npz")
    try:
        said = read_json(labels, MOST_TEXT)
        read = read_arrays(arrays)
    except FileNotFoundError:
        missing = arrays if labels.exists() else labels
        raise MechanismError(
            f"no file {missing}; a compiled program is two files, {stem.name}.json and {stem.name}.npz"
        ) from None
    if not isinstance(said, dict):
        raise BadFile(labels, "must hold a JSON object")
    program = from_labels(labels, said, read)
    check_shapes(program)
    check_size(program)
    return program


def from_labels(path: Path, said: Mapping[str, Any], arrays: Mapping[str, Array]) -> Program:
    """A program from what its labels file says.

    Raises:
        MechanismError: a key is missing or of another kind.
    """
    check_kinds(path, said)
    arrays = {name.removeprefix("compiled_transformer_model/"): a for name, a in arrays.items()}
    layers = count(path, said, "num_layers", layers_in(arrays))
    heads = count(path, said, "num_heads")
    needed = [LAYER.format(number) + part for number in range(layers) for part in PARTS]
    if missing := [name for name in (TOKENS, POSITIONS, *needed) if name not in arrays]:
        raise BadFile(path, f"has {layers} layers, but its arrays lack {missing[0]}")
    values = said.get("output_values")
    named = isinstance(values, (dict, list)) and len(values) > 0
    keys = arrays[LAYER.format(0) + "attn/key/w"]
    words = by_number(path, "vocab", said.get("vocab"))
    size = count(path, said, "key_size", keys.shape[-1] // heads if keys.ndim == 2 else 1)
    return Program(
        path,
        arrays,
        words,
        tuple(said["residual_labels"]),
        heads,
        layers,
        size,
        said["causal"],
        by_number(path, "output_values", values) if named else (),
        said.get("output"),
        start_token(path, said, words),
        examples(path, said.get("examples") or []),
    )


def check_kinds(path: Path, said: Mapping[str, Any]) -> None:
    """Checks the keys that are neither numbers nor words.

    Raises:
        BadFile: what a key says is not of its kind, or not what Tracr compiles.
    """
    for key, only in {"layer_norm": False, "activation": "relu"}.items():
        if said.get(key, only) != only:
            raise BadFile(path, f"{key} is {said[key]!r}; compiled programs have {only!r}")
    if not isinstance(causal := said.get("causal"), bool):
        raise BadFile(path, f"causal is {causal!r}; say true (attention looks back only) or false")
    labels = said.get("residual_labels")
    if not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
        raise BadFile(path, "residual_labels must be a list of texts")
    if len(set(labels)) < len(labels):
        raise BadFile(path, "residual_labels: a label appears twice")
    if not isinstance(said.get("output"), (str, type(None))):
        raise BadFile(path, "output must be a label, as text")


def layers_in(arrays: Mapping[str, Array]) -> int:
    """How many layers have an array."""
    numbers = (name.split("/")[1].removeprefix("layer_") for name in arrays if name.count("/") >= 2)
    return max((int(n) + 1 for n in numbers if n.isdecimal() and len(n) < 6), default=0)


def by_number(path: Path, key: str, value: Any) -> tuple[str, ...]:
    """Words in the order of their numbers, from a list or from ``{word: number}``."""
    if isinstance(value, list):
        value = {str(word): number for number, word in enumerate(value)}
    if not isinstance(value, dict) or not 0 < len(value) <= MOST_WORDS:
        raise BadFile(
            path, f"{key} must be an object of 1 to {MOST_WORDS:,} words and their numbers"
        )
    if sorted(map(str, value.values())) != sorted(map(str, range(len(value)))):
        raise BadFile(
            path, f"{key}: the numbers of {len(value)} words must be 0 to {len(value) - 1}"
        )
    words = tuple(sorted(value, key=lambda word: int(value[word])))
    if wrong := [word for word in words if word.split() != [word] or not word.isprintable()]:
        raise BadFile(
            path,
            f"{key}: {wrong[0]!r} is not a word: it is empty, or has a space or a control character in it",
        )
    return words


def count(path: Path, said: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = said.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_WORDS:
        raise BadFile(path, f"{key} is {value!r}; it must be a number from 1 to {MOST_WORDS:,}")
    return value


def start_token(path: Path, said: Mapping[str, Any], words: tuple[str, ...]) -> str | None:
    """The word with which every input begins, or None."""
    if "bos" not in said:
        return next((word for word in STARTS if word in words), None)
    bos = said["bos"]
    if bos is not None and bos not in words:
        raise BadFile(path, f"bos: no word {bos!r} in vocab; {choices(str(bos), words)}")
    return None if bos is None else str(bos)


def examples(path: Path, value: Any) -> tuple[Example, ...]:
    """Recorded inputs and outputs, with a word of output for each word of input."""
    if not isinstance(value, list) or len(value) > MOST_EXAMPLES:
        raise BadFile(path, f"examples must be a list of at most {MOST_EXAMPLES:,}")
    found = []
    for number, item in enumerate(value, 1):
        keys = item if isinstance(item, dict) else {}
        given, written = keys.get("input"), keys.get("output")
        if not (isinstance(given, list) and isinstance(written, list) and given):
            raise BadFile(path, f"examples: number {number} needs lists input and output")
        if len(given) != len(written):
            raise BadFile(
                path,
                f"examples: number {number} has {len(given)} words of input, "
                f"but {len(written)} of output",
            )
        found.append(Example(tuple(map(str, given)), tuple(map(str, written))))
    return tuple(found)
