"""Estimates of earlier runs: a JSON file for each claim and pair of checkpoints, in the store.

The file holds the estimates that the claim's last judgement asked for. It is only the place where that judgement
looks: an estimate is found by a hash of everything that it is computed from. A checksum guards against damage, not
against forgery.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import read_json, write_bytes

FORMAT = 1

MOST = 16 << 20
"""Maximum size of a file in bytes."""

Fields = tuple[float, tuple[float, float], float, int, int, str]
"""The fields of an `Estimate`."""


@dataclass
class EstimateFile:
    """Estimates by hash.

    Attributes:
        path: of the JSON file.
        earlier: what it holds.
        asked: the estimates that claims asked for since it was read.
    """

    path: Path
    earlier: dict[str, Fields]
    asked: dict[str, Fields] = field(default_factory=dict)

    def save(self) -> None:
        """Writes the estimates that claims asked for, atomically, if the file lacks one of them."""
        if self.asked.keys() <= self.earlier.keys():
            return
        content = {"format": FORMAT, "sha256": checksum(self.asked), "estimates": self.asked}
        with suppress(OSError):  # a lost file costs time alone
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, json.dumps(content).encode(), durable=False)


CURRENT: ContextVar[EstimateFile | None] = ContextVar("CURRENT", default=None)


@contextmanager
def keeping(path: Path | None) -> Iterator[None]:
    """Inside the block, estimates come from a file where it has them, and go into it; None keeps nothing."""
    file = None if path is None else EstimateFile(path, read(path))
    token = CURRENT.set(file)
    try:
        yield
    finally:
        CURRENT.reset(token)
    if file is not None:
        file.save()


def get(key: str) -> Fields | None:
    """The estimate with this hash, if the current file has it."""
    file = CURRENT.get()
    return None if file is None else file.earlier.get(key)


def put(key: str, estimate: Fields) -> None:
    """Keeps an estimate in the current file."""
    if (file := CURRENT.get()) is not None:
        file.asked[key] = estimate


def checksum(estimates: dict[str, Fields]) -> str:
    return hashlib.sha256(json.dumps(estimates, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> dict[str, Fields]:
    """The estimates of a file; none if it is missing, damaged, or from the future."""
    try:
        content = read_json(path, MOST)
        estimates = content["estimates"]
        if content["format"] != FORMAT or content["sha256"] != checksum(estimates):
            return {}
        return {key: fields_of(*estimate) for key, estimate in estimates.items()}
    except (MechanismError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def fields_of(
    value: float, interval: tuple[float, float], error: float, n: int, clusters: int, method: str
) -> Fields:
    """The fields of an estimate.

    Raises:
        TypeError: they are none.
        ValueError: likewise.
    """
    low, high = interval
    if not all(map(math.isfinite, (value, low, high, error))):
        raise ValueError("an estimate is finite")
    return float(value), (float(low), float(high)), float(error), int(n), int(clusters), str(method)
