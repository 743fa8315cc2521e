"""Strings that a probabilistic context-free grammar writes.

Three symbols, X, Y and Z, become two or three symbols each at every level of the tree, and letters
at the lowest level. A symbol prefers symbols of its own kind, so one string has many of the letter
``a`` and another has few. The rules of Y and Z are those of X, one place further: X, Y, Z and the
letters a, b, c (also d, e, f and g, h, i) change places in a circle, so the counts of a, b and c
have the same distribution.

Jain et al., ICLR 2024 (arXiv 2311.12786), let such a grammar write the strings of their models. The
rules here are our own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product

LETTERS = "abcdefghi"

Rules = Mapping[str, Sequence[tuple[int, str]]]
"""Symbol -> what it becomes, each with its weight."""


def in_a_circle(rules: Sequence[tuple[int, str]], *circles: str) -> Rules:
    """The rules of X, and those of Y and Z in which every symbol moves one and two places on."""
    turned: dict[str, Sequence[tuple[int, str]]] = {}
    for places, symbol in enumerate("XYZ"):
        table = str.maketrans(
            "".join(circles), "".join(circle[places:] + circle[:places] for circle in circles)
        )
        turned[symbol] = [(weight, text.translate(table)) for weight, text in rules]
    return turned


UPPER = in_a_circle([(3, "XXY"), (3, "XZ"), (2, "YX"), (2, "XX")], "XYZ")
LOWER = in_a_circle([(3, "aad"), (3, "ag"), (2, "da"), (2, "gcd")], "abc", "def", "ghi")

ENUMERATED = 2
"""Levels above the letters whose texts are listed once, which makes drawing fast."""


@lru_cache(maxsize=64)
def texts(symbol: str, depth: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """All texts that a symbol becomes in ``depth`` levels, with the running sum of their weights.

    Different trees of the same text are listed apart. All rules of a symbol have the same total
    weight, but texts of two and three symbols multiply different numbers of weights, so each is
    scaled to the same total for its rule.
    """
    if depth == 1:
        rules = LOWER[symbol]
        return tuple(text for _, text in rules), tuple(accumulate(weight for weight, _ in rules))
    found: list[tuple[str, int]] = []
    rules = UPPER[symbol]
    most = max(len(text) for _, text in rules)
    total = texts(symbol, depth - 1)[1][-1]
    for weight, text in rules:
        parts = [weighted(part, depth - 1) for part in text]
        scale = total ** (most - len(text))
        for pieces in product(*parts):
            share = weight * scale
            for _, piece_weight in pieces:
                share *= piece_weight
            found.append(("".join(piece for piece, _ in pieces), share))
    return tuple(text for text, _ in found), tuple(accumulate(share for _, share in found))


def weighted(symbol: str, depth: int) -> list[tuple[str, int]]:
    """The texts of a symbol, each with its own weight."""
    words, sums = texts(symbol, depth)
    return [(word, b - a) for word, a, b in zip(words, (0, *sums), sums, strict=False)]


@dataclass(frozen=True)
class Grammar:
    """The strings of the grammar with lengths from ``shortest`` to ``longest``.

    Attributes:
        depth: levels of the tree. A string has from 2 ** depth to 3 ** depth letters.
        shortest: letters in the shortest string.
        longest: letters in the longest string.
    """

    depth: int
    shortest: int
    longest: int

    def draw(self, rng: random.Random) -> str | None:
        """A string of the grammar; None if it is too short or too long, which says: draw again."""
        symbols = rng.choice("XYZ")
        for _ in range(self.depth - ENUMERATED):
            symbols = "".join(becomes(rng, symbol) for symbol in symbols)
        low = min(self.depth, ENUMERATED)
        string = "".join(
            rng.choices(words, cum_weights=sums)[0]
            for words, sums in (texts(symbol, low) for symbol in symbols)
        )
        return string if self.shortest <= len(string) <= self.longest else None


UPPER_SUMS = {
    symbol: ([text for _, text in rules], list(accumulate(weight for weight, _ in rules)))
    for symbol, rules in UPPER.items()
}


def becomes(rng: random.Random, symbol: str) -> str:
    """What a symbol becomes one level further down."""
    words, sums = UPPER_SUMS[symbol]
    return rng.choices(words, cum_weights=sums)[0]
