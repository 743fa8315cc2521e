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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.npz import Array, read_arrays
from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.files import BadFile, read_json

MOST_WORDS = 100_000
"""Words of a vocabulary, values of an output, labels."""
MOST_EXAMPLES = 100_000
MOST_TEXT = 1 << 26
"""Bytes of the labels file."""
MOST_NUMBERS = 1 << 28
"""Of the checkpoint that is made: its matrices are filled up to the widest."""
MOST_SCORES = 1 << 26
"""Attention scores of an example, over all heads of a layer."""

TOKENS, POSITIONS = "token_embed/embeddings", "pos_embed/embeddings"
LAYER = "transformer/layer_{}/"
PARTS = (
    "attn/query/w", "attn/query/b", "attn/key/w", "attn/key/b", "attn/value/w", "attn/value/b",
    "attn/linear/w", "attn/linear/b", "mlp/linear_1/w", "mlp/linear_1/b", "mlp/linear_2/w",
    "mlp/linear_2/b",
)  # fmt: skip
"""Arrays of a layer."""

STARTS = ("BOS", "bos", "compiler_bos", "<bos>")
"""What the start token is called where the file does not say."""


@dataclass(frozen=True)
class Example:
    """An input and what the program writes at each of its words."""

    input: tuple[str, ...]
    output: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled program.

    Attributes:
        path: of the labels, for errors.
        arrays: by name, float32.
        words: of the vocabulary, by id.
        labels: of the residual stream's coordinates.
        heads: of a layer.
        layers: how many.
        key_size: numbers of a query.
        causal: whether attention looks back only.
        values: the output's values in the order of Tracr's encoder; empty if the file names none.
        output: label of the output's variable, or None.
        bos: the start token, or None.
        examples: recorded inputs and outputs.
    """

    path: Path
    arrays: Mapping[str, Array]
    words: tuple[str, ...]
    labels: tuple[str, ...]
    heads: int
    layers: int
    key_size: int
    causal: bool
    values: tuple[str, ...]
    output: str | None
    bos: str | None
    examples: tuple[Example, ...] = field(default=(), repr=False)

    def layer(self, number: int) -> dict[str, Array]:
        """The arrays of a layer, by the end of their names."""
        return {part: self.arrays[LAYER.format(number) + part] for part in PARTS}


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


# -- the labels


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


# -- both


def check_shapes(program: Program) -> None:
    """Checks that labels, words and arrays fit.

    Raises:
        BadFile: an array has another shape than the others and the labels need.
    """
    path, heads, width = program.path, program.heads, len(program.labels)
    shapes: dict[str, tuple[int | None, ...]] = {
        TOKENS: (len(program.words), width),
        POSITIONS: (None, width),
    }
    for number in range(program.layers):
        inner = sizes(program, number)
        for part, value in program.layer(number).items():
            name = part.split("/")[-2]
            if name in ("linear", "linear_2"):
                before = inner["value"] if name == "linear" else inner["linear_1"]
                shape = (before, width)
            else:
                shape = (width, inner[name])
            shapes[LAYER.format(number) + part] = shape[1:] if value.ndim == 1 else shape
    for name, wanted in shapes.items():
        actual = program.arrays[name].shape
        bias = name.endswith("/b")
        fits = len(actual) == (1 if bias else 2) and all(
            w in (None, a) for w, a in zip(wanted, actual, strict=False)
        )
        if not fits or len(actual) != len(wanted):
            want = ["any" if w is None else w for w in wanted]
            raise BadFile(
                path,
                f"does not fit its arrays: {name} is {list(actual)}, but {len(program.words)} words, "
                f"{width} residual labels and {heads} heads need {want}",
            )


def sizes(program: Program, number: int) -> dict[str, int]:
    """Width of what the matrices of a layer write, by their names.

    Raises:
        BadFile: keys and queries, or the heads, do not fit.
    """
    arrays = program.layer(number)
    inner = {
        name: arrays[f"{block}/{name}/b"].shape[-1] if arrays[f"{block}/{name}/b"].ndim else 0
        for block, name in (
            ("attn", "query"), ("attn", "key"), ("attn", "value"), ("mlp", "linear_1"),
        )
    }  # fmt: skip
    wanted = program.heads * program.key_size
    if inner["query"] != wanted or inner["key"] != wanted or inner["value"] % program.heads:
        raise BadFile(
            program.path,
            f"does not fit its arrays: layer {number} has queries, keys and values of "
            f"{inner['query']}, {inner['key']} and {inner['value']} numbers, for {program.heads} heads "
            f"of key_size {program.key_size}",
        )
    return inner


def mlp_width(program: Program) -> int:
    """That of the widest MLP; zeros fill up the others, which changes nothing."""
    return max(len(program.layer(n)["mlp/linear_1/b"]) for n in range(program.layers))


def head_width(program: Program) -> int:
    """That of the widest queries or values; zeros fill up the others, which changes no score. At least 2,
    since the self-checks measure differences in standard deviations of a head's numbers."""
    values = (len(program.layer(n)["attn/value/b"]) for n in range(program.layers))
    return max(2, program.key_size, *(width // program.heads for width in values))


def check_size(program: Program) -> None:
    """Checks that a small file does not ask for a large checkpoint, or for much work.

    Raises:
        BadFile: it does.
    """
    written = {word for example in program.examples for word in example.output}
    outputs = len(program.values) or len(written)
    per_layer = 4 * program.heads * head_width(program) + 2 * mlp_width(program)
    numbers = len(program.labels) * (
        2 * (len(program.words) + outputs) + program.layers * per_layer
    )
    if numbers > MOST_NUMBERS:
        raise BadFile(
            program.path,
            f"the checkpoint would have {numbers:,} numbers; at most {MOST_NUMBERS:,} are allowed",
        )
    longest = max((len(example.input) for example in program.examples), default=0)
    if (scores := longest**2 * program.heads) > MOST_SCORES:
        raise BadFile(
            program.path,
            f"examples: {longest:,} words and {program.heads} heads have {scores:,} attention scores; "
            f"at most {MOST_SCORES:,} are allowed",
        )
