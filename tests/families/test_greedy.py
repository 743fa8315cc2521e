"""Greedy replies with a cache of keys and values are those without one, in every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from configs import BESIDE, BY_LENGTH, FAMILIES, SHORT, random_model

from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal import greedy
from pytest_mechanism.methods.refusal.refusal_score import HookedModel
from pytest_mechanism.model_families import rotary

ContextFactory = Callable[..., MeasurementContext]

IDS = torch.randint(5, 60, (8, SHORT - 2), generator=torch.Generator().manual_seed(1))
ROWS = Tokens(IDS, torch.tensor([12, 4, 9, 12, 9, 5, 9, 12]))
"""Prompts of few lengths, below and above the window of `configs.WINDOW`."""

COUNT = 6


PHI3 = "phi3"
"""Its ``generate`` empties the cache on its way, so its replies are padded."""

QUICK = ("llama3", "mistral", "gemma2", "gpt2", "gpt-oss", "dynamic")
COMPILED = {"tracr", "tracr-ahead"}
"""Not of transformers, so their replies are padded."""
OTHERS = sorted({*FAMILIES, *BESIDE, *BY_LENGTH} - {*QUICK, *COMPILED, PHI3})


@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_cached_replies_are_the_padded_replies(
    context_of: ContextFactory, name: str, hooked: bool
) -> None:
    """Token by token, and in the logits from which the refusal score is read."""
    model = HookedModel(context_of(name)) if hooked else rotary.by_row(random_model(name))
    padded = greedy.padded_replies(model, ROWS, COUNT)
    cached = greedy.cached_replies(model, ROWS, COUNT)
    assert cached is not None
    assert cached.ids.tolist() == padded.ids.tolist()
    torch.testing.assert_close(cached.first, padded.first, atol=2e-4, rtol=1e-4)


def test_a_reply_that_is_read_anew_is_not_cached() -> None:
    """Phi-3's ``generate`` empties its cache where a reply crosses the trained length."""
    model = rotary.by_row(random_model(PHI3))
    short = Tokens(IDS[:, :6], torch.full((8,), 6))
    assert greedy.cache_pays(model, short, COUNT)
    assert not greedy.cache_pays(model, ROWS, COUNT)


@pytest.mark.parametrize(
    ("lengths", "count", "device", "pays"),
    [
        ([40] * 60, 6, "cpu", True),
        ([40] * 60, 1, "cpu", False),  # nothing to keep
        ([38, 40] * 30, 6, "meta", False),  # two groups take twice as many forwards
        ([40] * 600, 6, "meta", True),
        ([5] * 2, 3, "cpu", False),  # too little to save
        (list(range(20, 60)), 6, "cpu", True),  # each row alone
    ],
)
def test_the_cache_is_used_where_it_computes_less(
    lengths: list[int], count: int, device: str, pays: bool
) -> None:
    """On a CPU nearly always; on a GPU (here: any other device) for large batches."""
    model = random_model("llama2")
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long, device=device)
    tokens = Tokens(ids, torch.tensor(lengths))
    assert greedy.cache_pays(model, tokens, count) == pays


def test_a_further_token_takes_a_token_with_a_cache_and_a_whole_prompt_without() -> None:
    """60 prompts of 40 tokens: 60 tokens instead of 2,400. A family whose cache is not used reads 12 tokens
    and all of the reply so far again."""
    ids = torch.zeros(60, 40, dtype=torch.long)
    same_length = Tokens(ids, torch.full((60,), 40))
    cached = greedy.next_token_work(random_model("llama2"), same_length, COUNT)
    padded = greedy.next_token_work(rotary.by_row(random_model(PHI3)), ROWS, COUNT)
    assert (cached, padded) == (1 / 40, (13 + 14 + 15 + 16 + 17) / 5 / 12)


@dataclass
class Forgetful:
    """A model whose layers forget what the cache should hold.

    Attributes:
        model: the model.
    """

    model: Any

    def get_base_model(self) -> Any:
        return self.model

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return self.model(input_ids)


def test_a_cache_that_loses_tokens_is_not_used() -> None:
    """The replies are then those without a cache."""
    model = random_model("llama2")
    assert greedy.cached_replies(Forgetful(model), ROWS, COUNT) is None
    wanted = greedy.padded_replies(model, ROWS, COUNT).ids
    assert greedy.greedy_replies(Forgetful(model), ROWS, COUNT).ids.tolist() == wanted.tolist()
