"""Strings whose letters have random frequencies, and how often each count comes up in them.

The frequencies of a string's letters are drawn from a flat Dirichlet distribution, so counts vary
far more than with even letters. Integrating the multinomial over the simplex shows that all ways
to share a string's places among the letters are then equally likely. So the shares are drawn
directly, under the condition that no letter has too many, and the share of each count is exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb


@lru_cache(maxsize=100_000)
def shares(places: int, letters: int, most: int) -> int:
    """In how many ways so many places are shared among letters with at most ``most`` each.

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
    """All strings of some lengths in which no letter stands too often.

    Attributes:
        letters: what they are made of.
        shortest: letters in the shortest one.
        longest: letters in the longest one; every length between is as likely.
        most: no letter stands in a string more often.
    """

    letters: str
    shortest: int
    longest: int
    most: int

    def draw(self, rng: random.Random) -> str:
        """A string: its length, then one letter's count after the other, then their order."""
        left = rng.randint(self.shortest, self.longest)
        found: list[str] = []
        for i, letter in enumerate(self.letters):
            others = len(self.letters) - i - 1
            # a count is as likely as there are ways to share what it leaves among the others
            weights = [shares(left - k, others, self.most) for k in range(min(left, self.most) + 1)]
            count = rng.choices(range(len(weights)), weights)[0]
            found += letter * count
            left -= count
        rng.shuffle(found)
        return "".join(found)

    def counts(self) -> list[Fraction]:
        """How likely a letter stands 0, 1, ... ``most`` times in a string."""
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
