"""How often one answer is right about strings of a grammar, whatever the string."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from pytest_mechanism.tasks.writing.grammar import Grammar

GUESSES = 10_000
"""Strings of the grammar from which the chance of a guess is estimated."""

Weighted = Sequence[tuple[str, float]]
"""Strings with their weights, which sum to 1."""


def guessed_strings(
    grammar: Grammar,
    usable: Callable[[str], bool],
    matched: Callable[[str], bool],
    share: float | None,
) -> Weighted:
    """Usable strings, weighted so that those which are matched have this share of the weight.

    ``share`` is None for strings as the grammar gives.
    """
    rng = random.Random("pcfg/guesses")
    drawn = (grammar.draw(rng) for _ in range(GUESSES))
    strings = [string for string in drawn if string is not None and usable(string)]
    if share is None:
        return [(string, 1 / len(strings)) for string in strings]
    known = [matched(string) for string in strings]
    weights = {True: share / max(1, sum(known))}
    weights[False] = (1 - share) / max(1, len(strings) - sum(known))
    return [(string, weights[each]) for string, each in zip(strings, known, strict=True)]


def best_guess(
    strings: Weighted, operands: Mapping[str, float], answer: Callable[[str, str], str | None]
) -> float:
    """The share of the most frequent answer to questions about operands, each with its weight; 1 where
    there is no string."""
    guesses: Counter[str | None] = Counter()
    for string, weight in strings:
        for operand, share in operands.items():
            guesses[answer(string, operand)] += weight * share  # type: ignore[assignment]
    return min(1.0, max(guesses.values(), default=1.0))
