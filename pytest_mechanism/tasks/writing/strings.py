"""Random strings whose letters have random frequencies, and the distribution of their counts.

The frequencies of a string's letters follow a flat Dirichlet distribution, so that counts vary far
more than with even letters. Integrating the multinomial over the simplex shows that all ways to
distribute a string's places among the letters are then equally likely. So the counts are drawn
directly, on condition that no letter has too many, and their distribution is exact.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb


@lru_cache(maxsize=100_000)
def shares(places: int, letters: int, most: int) -> int:
    """The number of ways to distribute places among letters, at most ``most`` to a letter.

    By inclusion and exclusion over the letters that have too many.
    """
    if letters == 0:
        return int(places == 0)
    return sum(
        (-1) ** over
        * comb(letters, over)
        * comb(places - over * (most + 1) + letters - 1, letters - 1)
        for over in range(min(letters, places // (most + 1)) + 1)
    )


@dataclass(frozen=True)
class Strings:
    """All strings with lengths from ``shortest`` to ``longest``, equally likely, and with at most
    ``most`` of a letter."""

    letters: str
    shortest: int
    longest: int
    most: int

    def draw(self, rng: random.Random) -> str:
        """A string: its length, then one letter's count after the other, then their order."""
        left = rng.randint(self.shortest, self.longest)
        string: list[str] = []
        for i, letter in enumerate(self.letters):
            others = len(self.letters) - i - 1
            # a count is as likely as there are ways to distribute the rest among the other letters
            weights = [shares(left - k, others, self.most) for k in range(min(left, self.most) + 1)]
            count = rng.choices(range(len(weights)), weights)[0]
            string += letter * count
            left -= count
        rng.shuffle(string)
        return "".join(string)

    def two_counts(self) -> Mapping[tuple[int, int], Fraction]:
        """The probabilities of the counts of one letter and of another one in a string."""
        return two_counts(self)

    def best_guess(self, correlated: float | None) -> float:
        """The probability of the most frequent count of a letter.

        Args:
            correlated: share of the strings in which the letter occurs exactly once more often than
                another one; the counts of both letters can be guessed then. None for strings as they are
                drawn.
        """
        plain = float(max(self.counts()))
        if correlated is None:
            return plain
        counts = self.two_counts()
        matched = float(sum(p for (one, other), p in counts.items() if one == other + 1))
        share = {True: correlated / (matched or 1), False: (1 - correlated) / (1 - matched or 1)}
        guesses: Counter[tuple[str, int]] = Counter()
        for (one, other), p in counts.items():
            for guess in (("one", one), ("other", other)):
                guesses[guess] += float(p) * share[one == other + 1]  # type: ignore[assignment]
        return min(1.0, float(max(guesses.values()))) or plain

    def counts(self) -> list[Fraction]:
        """The probabilities of the counts 0, 1, ... ``most`` of a letter in a string."""
        lengths = range(self.shortest, self.longest + 1)
        return [
            sum(
                (
                    Fraction(
                        shares(length - k, len(self.letters) - 1, self.most),
                        shares(length, len(self.letters), self.most),
                    )
                    for length in lengths
                    if length >= k
                ),
                Fraction(0),
            )
            / len(lengths)
            for k in range(self.most + 1)
        ]


@lru_cache(maxsize=100)
def two_counts(strings: Strings) -> Mapping[tuple[int, int], Fraction]:
    """See `Strings.two_counts`."""
    letters, most = len(strings.letters), strings.most
    lengths = range(strings.shortest, strings.longest + 1)
    result: dict[tuple[int, int], Fraction] = {}
    for one in range(most + 1):
        for other in range(most + 1):
            ways = [
                Fraction(shares(n - one - other, letters - 2, most), shares(n, letters, most))
                for n in lengths
                if n >= one + other
            ]
            result[one, other] = sum(ways, Fraction(0)) / len(lengths)
    return result
