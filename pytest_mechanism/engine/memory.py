"""What the branch engine keeps of earlier runs beside records, and how much it tries at once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Outcome, Reading

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


@dataclass
class KeptReadings:
    """Readings of runs without an answer, for the next run that asks for the same.

    Attributes:
        kept: by key, the least recently used first; `READING_BYTES` at most.
    """

    kept: OrderedDict[bytes, Outcome] = field(default_factory=OrderedDict)

    def get(self, key: bytes | None) -> Outcome | None:
        if key is None or key not in self.kept:
            return None
        self.kept.move_to_end(key)
        return copied(self.kept[key])

    def put(self, key: bytes | None, outcome: Outcome) -> None:
        """Keep an outcome; others make room."""
        if key is None or size(outcome) > READING_BYTES:
            return
        while sum(map(size, self.kept.values())) + size(outcome) > READING_BYTES:
            self.kept.popitem(last=False)
        self.kept[key] = copied(outcome)


def copied(outcome: Outcome) -> Outcome:
    """The same numbers in memory of their own, since whoever reads may write into them."""
    return Outcome(outcome.logits.clone(), tuple(value.clone() for value in outcome.readings))


def size(outcome: Outcome) -> int:
    """Bytes of its readings."""
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
