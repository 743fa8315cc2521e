"""What both engines share: views, index tensors, casts and bookkeeping.

The reference engine is the truth that the branch engine is checked against, so they share no
arithmetic: nothing here computes or places the value of an activation. Edits, readings and masks
are written twice, in `reference` and in `changes`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Reading, Site, Tokens
from pytest_mechanism.errors import SelfCheckError

LOST_OR_TWICE = "so an edit there would be lost or made twice"
"""The consequence of a hook that does not fire exactly once."""


def check_hook_count(hook: str, fired: int, expected: int, when: str) -> None:
    """Checks that a hook fired as often as it should.

    Args:
        hook: name of the hook point.
        fired: how often it fired.
        expected: how often it should have fired.
        when: ends the message: during what, and what goes wrong otherwise.

    Raises:
        SelfCheckError: it fired less or more often.
    """
    if fired != expected:
        raise SelfCheckError(f"hook {hook} fired {fired} times {when}")


def with_heads(activation: Tensor) -> Tensor:
    """[R, S, H, d]; sites without heads get one."""
    return activation if activation.dim() == 4 else activation.unsqueeze(2)


def readings_by_site(readings: Sequence[Reading]) -> dict[Site, list[tuple[int, Reading]]]:
    """Site -> its readings, each with its place in ``readings``."""
    by_site: dict[Site, list[tuple[int, Reading]]] = {}
    for number, reading in enumerate(readings):
        by_site.setdefault(reading.site, []).append((number, reading))
    return by_site


@lru_cache(maxsize=1 << 12)
def index_tensor(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """[N]. Cached, and made on the device where numbers follow each other, since copying numbers to a GPU
    makes the program wait for it."""
    if numbers and numbers == tuple(range(numbers[0], numbers[0] + len(numbers))):
        return torch.arange(numbers[0], numbers[0] + len(numbers), device=device)
    return torch.tensor(numbers, dtype=torch.long, device=device)


def chosen_heads(activation: Tensor, heads: Sequence[int] | None) -> Tensor:
    """[R, S, heads, d] of [R, S, H, d]; a view where the heads follow each other."""
    if heads is None:
        return activation
    first = heads[0] if heads else 0
    if tuple(heads) == tuple(range(first, first + len(heads))):
        return activation[:, :, first : first + len(heads)]
    return activation[:, :, index_tensor(tuple(heads), activation.device)]


def positions(tokens: Tokens, at: Tensor | None) -> Tensor:
    """[R, K]: the named positions, or all where none are named."""
    if at is not None:
        return at
    rows, length = tokens.ids.shape
    return torch.arange(length, device=tokens.ids.device).expand(rows, length)


def at_least_float(logits: Tensor) -> Tensor:
    """Half precision becomes float32 before anybody sums over it."""
    return logits if logits.dtype is torch.float64 else logits.float()


@contextmanager
def knockouts_take_effect() -> Iterator[None]:
    """Context in which attention scores are cut.

    Raises:
        SelfCheckError: the family has used the scores before their hook fires.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "A hook on .* returned a modified tensor", UserWarning)
        try:
            yield
        except UserWarning:
            raise SelfCheckError(
                "attention of this family cannot be blocked: it computes its pattern where no hook "
                "reaches, so a knockout would be lost"
            ) from None
