"""What the branch engine keeps of earlier runs, and how much it tries at once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Outcome, Reading

V = TypeVar("V")

RECORD_BYTES = 1 << 30
"""Bytes of records that the engine keeps for later branches of the same runs."""

READING_BYTES = 1 << 28
"""Bytes of readings at named positions that the engine keeps of runs without an answer: each stage of a
search reads the same source prompts."""


@dataclass
class TokenLimit:
    """How many tokens to try at once, learned from running out of memory.

    Running out halves the limit; a streak of packs that fit doubles it again. Each time that memory
    runs out, the streak must be twice as long, since what is too much once often is so again.

    Attributes:
        tokens: of all rows and branches together.
        patience: length of the streak.
        streak: packs near the limit that have fitted.
    """

    tokens: int = 1 << 40
    patience: int = 16
    streak: int = 0

    def ran_out(self, tried: int) -> None:
        self.tokens, self.patience, self.streak = max(1, tried // 2), 2 * self.patience, 0

    def fitted(self, tried: int) -> None:
        self.streak += 2 * tried > self.tokens
        if self.streak >= self.patience:
            self.tokens, self.streak = 2 * self.tokens, 0


class Kept(OrderedDict[bytes, V]):
    """Values of earlier runs by key, the least recently used first.

    Attributes:
        limit: bytes that may be kept.
        size_of: the bytes of a value.
    """

    def __init__(self, limit: int, size_of: Callable[[V], int]) -> None:
        super().__init__()
        self.limit, self.size_of = limit, size_of

    def recall(self, key: bytes | None) -> V | None:
        """The value of a key, which counts as used now; None if it is not kept."""
        if key is None or key not in self:
            return None
        self.move_to_end(key)
        return self[key]

    def keep(self, key: bytes | None, value: V) -> bool:
        """Keep a value that has a key and fits; the least recently used ones make room.

        Returns:
            Whether the value is kept.
        """
        if key is None or (size := self.size_of(value)) > self.limit:
            return False
        self.make_room(size)
        self[key] = value
        return True

    def make_room(self, wanted: int) -> None:
        """Drop values until ``wanted`` bytes are free; none if that is more than the limit."""
        if wanted <= self.limit:
            while sum(map(self.size_of, self.values())) + wanted > self.limit:
                self.popitem(last=False)


def copied(outcome: Outcome) -> Outcome:
    """A copy of the tensors, since a reader may write into them."""
    return Outcome(outcome.logits.clone(), tuple(value.clone() for value in outcome.readings))


def size_of_readings(outcome: Outcome) -> int:
    """Bytes of an outcome's readings."""
    return sum(value.numel() * value.element_size() for value in outcome.readings)


def readings_key(tokens: bytes, readings: Sequence[Reading]) -> bytes | None:
    """The key of a run's readings; None where they are of whole prompts, which are large and read once.

    Args:
        tokens: the key of the run.
        readings: what it reads.
    """
    digest = hashlib.blake2b(tokens)
    places: dict[int, bytes] = {}  # most often one for all layers
    for reading in readings:
        if reading.at is None:
            return None
        if id(reading.at) not in places:
            places[id(reading.at)] = hashlib.blake2b(content(reading.at)).digest()
        digest.update(repr((reading.site, reading.heads)).encode() + places[id(reading.at)])
    return digest.digest()


def content(tensor: Tensor | None) -> bytes:
    """Shape, type and values."""
    if tensor is None:
        return b"none"
    plain = tensor.detach().cpu().contiguous()
    return (
        repr((plain.shape, plain.dtype)).encode()
        + plain.flatten().view(torch.uint8).numpy().tobytes()
    )
