"""A small batch and a sweep over its heads, for tests that count and compare."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Part, Site, Tokens

LAYERS, HEADS = 3, 4
ROWS, LENGTH = 3, 8
TOKENS = Tokens(torch.arange(ROWS * LENGTH).view(ROWS, LENGTH), torch.full((ROWS,), LENGTH))
LAST = TOKENS.last[:, None]


def silenced(layer: int, at: Tensor | None = None, *heads: int, part: Part = "z") -> Edit:
    return Edit(Site(layer, part), torch.zeros(()), at, heads or None)


def of_each_head(at: Tensor | None) -> list[Branch]:
    """Every head in turn, from the first layer on."""
    return [Branch([silenced(layer, at, h)]) for layer in range(LAYERS) for h in range(HEADS)]


def logits(outcomes: Iterable[Outcome]) -> Tensor:
    """[N, R, V]."""
    return torch.stack([outcome.logits for outcome in outcomes])
