"""What a compiled program writes: the words of its output, and where the residual stream has them.

A categorical output has a direction for each of its values, labelled ``variable:value``; a numerical
output is one number, in the direction labelled ``variable``. Tracr's files do not name the variable.
It follows from the values of the output's encoder, or from the recorded examples: the variable
must give all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_mechanism.checkpoints.npz import Array
from pytest_mechanism.checkpoints.tracr_program import POSITIONS, TOKENS, Program
from pytest_mechanism.errors import choices
from pytest_mechanism.files import BadFile

SHARPNESS = 10.0
"""Logits by which a right word exceeds every other: compiled outputs are ones and zeros, whose softmax
would be nearly flat."""

TIE = 1e-9
"""By how much a word's logit exceeds the next one's where a program writes nothing: like Tracr's argmax,
the first value wins. Less than what leaks through a softmax, which decides in Tracr, too."""

SAME = 1e-4
"""Largest difference of two spellings of one number."""

NEVER = -20.0
"""Logit of words that are inputs alone, below that of any output."""

NO_VARIABLES = ("one",)
WIDTH = "_selector_width_attn_output"
"""Directions of numbers that no program writes."""


@dataclass(frozen=True, eq=False)
class Output:
    """The output of a program.

    Attributes:
        label: of its variable.
        words: of its values.
        numbers: the values as numbers; empty for a categorical output.
        coordinates: of the residual stream: one for each value, or that of the number.
        spellings: other spellings of a number -> its word.
    """

    label: str
    words: tuple[str, ...]
    numbers: tuple[float, ...]
    coordinates: tuple[int, ...]
    spellings: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return "numerical" if self.numbers else "categorical"

    def unembedding(self, width: int) -> tuple[Array, Array]:
        """Weights [words, width] and biases [words] whose logits are largest for the value.

        For a number x and its values v, ``s (2 x v - v^2) = s (x^2 - (x - v)^2)``, linear in x, is
        largest for the nearest value; s makes the difference of neighbours `SHARPNESS`.
        """
        weight = np.zeros((len(self.words), width), np.float64)
        if not self.numbers:
            weight[range(len(self.words)), list(self.coordinates)] = SHARPNESS
            bias = -TIE * np.arange(len(self.words))
        else:
            values = np.array(self.numbers)
            scale = self.scale
            weight[:, self.coordinates[0]] = 2 * scale * values
            bias = -scale * values**2
        return weight.astype(np.float32), bias.astype(np.float32)

    @property
    def scale(self) -> float:
        """s of `unembedding`."""
        return SHARPNESS / min(self.gaps) ** 2

    @property
    def gaps(self) -> list[float]:
        """Distances of neighbouring values."""
        ordered = sorted(self.numbers)
        return [b - a for a, b in pairwise(ordered)] or [1.0]

    @property
    def never(self) -> float:
        """Bias of words that are inputs alone: between two values, x^2 - (x - v)^2 of the nearer is
        at least minus the square of half their distance."""
        return NEVER if not self.numbers else NEVER - self.scale * (max(self.gaps) / 2) ** 2


def output_of(program: Program) -> Output:
    """The output of a program.

    Raises:
        MechanismError: the labels do not say where it is, or the recorded examples do not come out.
    """
    candidates = {output.label: output for output in possible(program)}
    if program.output is not None:
        if program.output not in candidates:
            raise BadFile(
                program.path,
                f"output: no variable {program.output!r} has these values; "
                f"{choices(program.output, candidates)}",
            )
        candidates = {program.output: candidates[program.output]}
    if not candidates:
        raise BadFile(
            program.path,
            f"no residual label belongs to the output; values: {', '.join(program.values[:20])}"
            if program.values
            else "output_values names no values, and no residual label is a number's",
        )
    problems = differences(program, candidates)
    fitting = [label for label in candidates if label not in problems]
    if not fitting:
        label = next(iter(candidates))
        raise BadFile(
            program.path,
            f"the parameters do not give its examples, read from {label!r}: {problems[label]}",
        )
    if len(fitting) > 1:
        raise BadFile(
            program.path,
            f"several variables may be the output; add the key output, {choices('', fitting)}",
        )
    return candidates[fitting[0]]


def possible(program: Program) -> Iterator[Output]:
    """The variables that have the output's values."""
    directions: dict[str, dict[str, int]] = {}
    for coordinate, label in enumerate(program.labels):
        variable, colon, value = label.rpartition(":")
        if colon:
            directions.setdefault(variable, {})[value] = coordinate
    fitting = [name for name, found in directions.items() if found.keys() >= {*program.values}]
    exact = [name for name in fitting if directions[name].keys() == {*program.values}]
    if program.values and fitting:
        for name in exact if program.output is None and exact else fitting:
            places = tuple(directions[name][value] for value in program.values)
            yield Output(name, program.values, (), places)
        return
    words, numbers, spellings = number_words(program)
    if not words:
        return
    for coordinate, label in enumerate(program.labels):
        if ":" not in label and label not in NO_VARIABLES and not label.endswith(WIDTH):
            yield Output(label, words, numbers, (coordinate,), spellings)


def number_words(
    program: Program,
) -> tuple[tuple[str, ...], tuple[float, ...], dict[str, str]]:
    """The words of a numerical output, their numbers, and the word of each other spelling: from the file's
    ``output_values``, or from its examples. Numbers that differ by rounding are one."""
    written: Iterable[str] = program.values or (
        word
        for example in program.examples
        for given, word in zip(example.input, example.output, strict=True)
        if given != program.bos
    )
    spelt: dict[float, str] = {}
    for word in written:
        try:
            number = float(word)
        except ValueError:
            return (), (), {}
        if not np.isfinite(number):
            return (), (), {}
        if number not in spelt or len(word) < len(spelt[number]):
            spelt[number] = word
    words: list[str] = []
    numbers: list[float] = []
    spellings: dict[str, str] = {}
    for number in sorted(spelt):
        if numbers and number - numbers[-1] <= SAME * max(1.0, abs(number)):
            spellings[spelt[number]] = words[-1]
        else:
            words.append(spelt[number])
            numbers.append(number)
    of_number = dict(zip(numbers, words, strict=True))
    spellings |= {word: of_number[float(word)] for word in written_twice(program, of_number)}
    return tuple(words), tuple(numbers), spellings


def written_twice(program: Program, of_number: dict[float, str]) -> set[str]:
    """Spellings of a word's number in the examples, such as 1.00 for 1.0."""
    words = {word for example in program.examples for word in example.output}
    return {w for w in words if is_number(w) and float(w) in of_number}


def is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def ids_of(program: Program, words: Sequence[str], number: Mapping[str, int]) -> NDArray[np.int64]:
    """Token ids of an example's input, by the number of each word.

    Raises:
        MechanismError: a word is unknown, or there are too many.
    """
    limit = program.arrays[POSITIONS].shape[0]
    if len(words) > limit:
        raise BadFile(
            program.path, f"examples: an input has {len(words)} words; there are {limit} positions"
        )
    if unknown := [word for word in words if word not in number]:
        raise BadFile(program.path, f"examples: {choices_of(unknown[0], program.words)}")
    return np.array([number[word] for word in words])


def choices_of(word: str, words: Sequence[str]) -> str:
    return f"no word {word!r} in vocab; {choices(word, words)}"


def final_residual(program: Program, ids: NDArray[np.int64]) -> Array:
    """The residual stream after the last layer, [tokens, width]: the program in numpy."""
    x = program.arrays[TOKENS][ids] + program.arrays[POSITIONS][: len(ids)]
    tokens, heads = len(ids), program.heads
    hidden = np.zeros((tokens, tokens), np.float32)
    if program.causal:
        hidden[np.triu_indices(tokens, 1)] = -1e30
    for number in range(program.layers):
        a = program.layer(number)
        q, k, v = (
            (x @ a[f"attn/{name}/w"] + a[f"attn/{name}/b"]).reshape(tokens, heads, -1)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("thd,Thd->htT", q, k) / np.sqrt(np.float32(program.key_size)) + hidden
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        z = np.einsum("htT,Thd->thd", weights, v).reshape(tokens, -1)
        x = x + z @ a["attn/linear/w"] + a["attn/linear/b"]
        inner = np.maximum(x @ a["mlp/linear_1/w"] + a["mlp/linear_1/b"], 0)
        x = x + inner @ a["mlp/linear_2/w"] + a["mlp/linear_2/b"]
    return np.asarray(x, np.float32)


def differences(program: Program, candidates: Mapping[str, Output]) -> dict[str, str]:
    """Where an example does not come out, for each variable from which some example does not. Tracr defines no
    output at a start token."""
    found: dict[str, str] = {}
    number = {word: i for i, word in enumerate(program.words)}
    width = len(program.labels)
    read = {label: output.unembedding(width) for label, output in candidates.items()}
    for count, example in enumerate(program.examples, 1):
        if len(found) == len(candidates):
            break
        residual = final_residual(program, ids_of(program, example.input, number))
        for label, output in candidates.items():
            if label in found:
                continue
            if not np.isfinite(residual).all():
                found[label] = f"example {count} gives NaN or infinite numbers"
                continue
            weight, bias = read[label]
            written = [output.words[i] for i in (residual @ weight.T + bias).argmax(1)]
            for place, (given, wanted, actual) in enumerate(
                zip(example.input, example.output, written, strict=True), 1
            ):
                if given != program.bos and output.spellings.get(wanted, wanted) != actual:
                    found[label] = (
                        f"example {count}, word {place}: {actual!r} instead of {wanted!r}"
                    )
                    break
    return found
