"""Greedy replies, token by token.

A reply of N tokens t_1 ... t_N to a prompt x is t_i = argmax P(t | x, t_1 ... t_(i-1)).

There are two ways to the same tokens:

- *Padded*: one forward of the whole batch, prompts and replies so far, for each token. Padding on the
  right does not move positions.
- *Cached*: rows of equal length run together, without padding, and keep their keys and values, so that
  each further token costs a forward of one token. Positions, windows and rotary frequencies are
  those of ``generate`` on the row alone.

The cached way computes less, but runs more forwards if prompts have many lengths, and each forward takes
some time however few tokens it has (`least_tokens`). `greedy_replies` takes the cheaper way. It compares
the logits of the last cached token of one row with a forward without a cache: a family whose cache does
something else gets the padded way.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pytest_mechanism.engine.finite import not_finite
from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.engine.tolerance import TOLERANCE
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.model_families.attention import attention_mask
from pytest_mechanism.model_families.rotary import reply_lengths, restart_length, row_lengths

LEAST_TOKENS = {"cpu": 16}
"""Tokens that take as long as a forward of one token, by kind of device."""

LEAST_TOKENS_ELSEWHERE = 2048
"""On a GPU, which needs thousands of tokens at once to be busy."""


class NotFiniteError(MeasurementError):
    """Logits that are NaN or infinite.

    Attributes:
        rows: True for rows with such logits.
    """

    def __init__(self, rows: Bool[Tensor, " rows"]) -> None:
        super().__init__("the logits of a reply are not finite numbers (NaN or infinity)")
        self.rows = rows


@dataclass(frozen=True, eq=False)
class Replies:
    """Replies to a batch of prompts.

    Attributes:
        ids: token ids.
        first: logits at the last token of each prompt.
        bad: rows with logits that are NaN or infinite.
    """

    ids: Int[Tensor, "rows count"]
    first: Float[Tensor, "rows d_vocab"]
    bad: Bool[Tensor, " rows"]


def greedy_replies(model: Any, tokens: Tokens, count: int) -> Replies:
    """Replies equal to ``generate(do_sample=False)`` of the plain model on each row alone.

    Args:
        model: has the call of a plain model.
        tokens: the prompts.
        count: tokens in a reply.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    replies = cached_replies(model, tokens, count) if cache_pays(model, tokens, count) else None
    replies = replies or padded_replies(model, tokens, count)
    if bool(replies.bad.any()):
        raise NotFiniteError(replies.bad)
    return replies


def plain_model(model: Any) -> Any:
    """The plain Hugging Face model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


# -- padded


@torch.no_grad()
def padded_replies(model: Any, tokens: Tokens, count: int) -> Replies:
    """Without a cache.

    If rotary frequencies depend on length, each token keeps the frequencies that it has in the cache of
    ``generate`` (`model_families.rotary`).
    """
    restarts = restart_length(model)
    rows = torch.arange(len(tokens.ids), device=tokens.ids.device)
    ids = torch.cat([tokens.ids, tokens.ids.new_zeros(len(rows), count)], 1)
    bad = torch.zeros_like(tokens.lengths, dtype=torch.bool)
    first: list[Tensor] = []
    for i in range(count):
        ends = tokens.lengths + i
        so_far = ids[:, : int(ends.max())]
        mask = attention_mask(plain_model(model), so_far, ends)
        with row_lengths(reply_lengths(tokens.lengths, ends, restarts)):
            logits = model(input_ids=so_far, attention_mask=mask, use_cache=False).logits
        last = logits[rows, ends - 1]
        first = first or [last]
        ids[rows, ends] = last.argmax(-1)
        bad |= not_finite(last)
    places = tokens.lengths[:, None] + torch.arange(count, device=ids.device)
    return Replies(ids[rows[:, None], places], first[0], bad)


# -- cached


def cache_pays(model: Any, tokens: Tokens, count: int) -> bool:
    """Whether the model has a cache that gives the same tokens, and the cached way computes less."""
    plain, lengths = plain_model(model), tokens.lengths
    known = type(plain).__module__.startswith("transformers.")
    if count == 1 or not known:
        return False
    if not plain._supports_default_dynamic_cache():  # noqa: SLF001 - there is no public question
        return False
    restarts = restart_length(model)
    if restarts is not None and bool(((lengths <= restarts) & (lengths + count > restarts)).any()):
        return False  # ``generate`` would empty the cache on its way
    least = least_tokens(tokens)
    comparison = least + int(lengths.max()) + count
    return cached_work(lengths, count, least) + comparison < padded_work(lengths, count, least)


def least_tokens(tokens: Tokens) -> int:
    """Tokens that take as long as a forward of one token, on the device of the prompts."""
    return LEAST_TOKENS.get(tokens.ids.device.type, LEAST_TOKENS_ELSEWHERE)


def padded_work(lengths: Int[Tensor, " rows"], count: int, least: int) -> int:
    """Tokens that the padded way computes for replies of ``count`` tokens; a forward counts ``least`` at
    least."""
    rows, longest = len(lengths), int(lengths.max())
    return sum(max(least, rows * (longest + i)) for i in range(count))


def cached_work(lengths: Int[Tensor, " rows"], count: int, least: int) -> int:
    """The same for the cached way."""
    sizes = zip(*(part.tolist() for part in lengths.unique(return_counts=True)), strict=True)
    return sum(max(least, n * rows) + (count - 1) * max(least, rows) for n, rows in sizes)


def next_token_work(model: Any, tokens: Tokens, count: int) -> float:
    """What a further token of a reply takes, as a share of a forward of its prompt, in the way that
    `greedy_replies` goes.

    Args:
        model: has the call of a plain model.
        tokens: the prompts.
        count: tokens in a reply, at least 2.
    """
    lengths, least = tokens.lengths, least_tokens(tokens)
    work = cached_work if cache_pays(model, tokens, count) else padded_work
    later = work(lengths, count, least) - work(lengths, 1, least)
    return later / (count - 1) / padded_work(lengths, 1, least)


@torch.no_grad()
def cached_replies(model: Any, tokens: Tokens, count: int) -> Replies | None:
    """With a cache of keys and values; None if it does not give what a forward without it gives."""
    ids = tokens.ids.new_zeros(len(tokens.ids), count)
    bad = torch.zeros_like(tokens.lengths, dtype=torch.bool)
    first: dict[int, Tensor] = {}
    for n in tokens.lengths.unique().tolist():
        rows = (tokens.lengths == n).nonzero()[:, 0]
        for i, logits in enumerate(steps(model, tokens.ids[rows, :n], count)):
            if i == 0:
                first.update(zip(rows.tolist(), logits, strict=True))
            ids[rows, i] = logits.argmax(-1)
            bad[rows] |= not_finite(logits)
    row = rows[:1]  # of the longest
    whole = torch.cat([tokens.ids[row, :n], ids[row, : count - 1]], 1)
    ends = tokens.lengths[row] + count - 1
    with row_lengths(reply_lengths(tokens.lengths[row], ends, restart_length(model))):
        wanted = model(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False)
    plain = wanted.logits[:, -1]
    # NaN counts as a difference; the padded way finds it again
    gap = float((logits[:1].double() - plain.double()).abs().max())
    if not gap <= 3 * TOLERANCE[plain.dtype] * float(plain.double().std()):
        return None
    return Replies(ids, torch.stack([first[row] for row in range(len(ids))]), bad)


@torch.no_grad()
def steps(
    model: Any, prompts: Int[Tensor, "rows tokens"], count: int
) -> Iterator[Float[Tensor, "rows d_vocab"]]:
    """The logits for each token of greedy replies to prompts of one length."""
    from transformers import DynamicCache

    plain = plain_model(model)
    # the matrix of the vocabulary multiplies the last token alone, where the family can do so
    takes = inspect.signature(type(plain).forward).parameters
    more = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    cache = DynamicCache(config=plain.config)
    new, mask = prompts, torch.ones_like(prompts)
    for i in range(count):
        logits = model(
            input_ids=new, attention_mask=mask, past_key_values=cache, use_cache=True, **more
        ).logits[:, -1]
        yield logits
        if i < count - 1:
            new = logits.argmax(-1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(new)], 1)
