"""A compiled program in memory: its words, labels and arrays, whether these fit, and how wide its checkpoint is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_mechanism.checkpoints.npz import Array
from pytest_mechanism.files import BadFile

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
