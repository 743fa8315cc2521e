"""Rotary frequencies that depend on how long a text is, made the row's own.

Two kinds of rotary embedding choose their frequencies by the number of tokens ``n`` that a model
has before it: ``dynamic`` (another base for each n above the trained length) and ``longrope`` (a
long set of factors above it, a short one up to it). transformers takes n from the longest row of a
batch, and ``dynamic`` keeps the frequencies of a long batch for shorter ones that come later. A
row's numbers would depend on what stands beside it and on what was run before.

Here each token gets the frequencies that plain transformers, freshly loaded, gives it for the row
alone (`by_row`):

- In a forward over a whole row (a measurement, a step of training), n is the row's length.
- In a reply (``generate`` with its cache, the default), a token's query and key are rotated once, in
  the step that reads it: n is the prompt's length for the prompt's tokens, and its own place in the
  row for each token after it. Frequencies change while a reply grows, and the keys in the cache
  stay as they are.
- Phi-3's family empties its cache when a reply crosses the trained length, so that all tokens up to
  there get the long factors (`restart`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mechanism.errors import MechanismError

SEEN: ContextVar[Tensor | None] = ContextVar("seen", default=None)
"""[R] or [R, S]: the n of each token of the batch that runs; None where all rows are as long as
the batch is wide."""

BOUNDARY = "original_max_position_embeddings"


@contextmanager
def seen(count: Tensor) -> Iterator[None]:
    """Context in which a batch of these lengths, [R] or for each token [R, S], runs."""
    token = SEEN.set(count)
    try:
        yield
    finally:
        SEEN.reset(token)


def of_reply(lengths: Tensor, ends: Tensor, restarts: int | None) -> Tensor:
    """[R, longest]: the n of each token of rows that have grown by greedy replies.

    Args:
        lengths: [R], of the prompts.
        ends: [R], of prompts and replies so far.
        restarts: see `restart`.
    """
    place = torch.arange(1, int(ends.max()) + 1, device=ends.device)
    least = lengths
    if restarts is not None:
        crossed = (lengths <= restarts) & (ends > restarts)
        least = torch.where(crossed, restarts + 1, lengths)
    return torch.minimum(torch.maximum(least[:, None], place), ends[:, None])


def restart(model: Any) -> int | None:
    """Tokens beyond which ``generate`` reads a row anew; None for models that never do."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    prepare = getattr(type(plain), "prepare_inputs_for_generation", None)
    code = getattr(prepare, "__code__", None)
    if code is None or BOUNDARY not in (*code.co_names, *code.co_consts):
        return None
    found = getattr(plain.config, BOUNDARY, None)
    return None if found is None else int(found)


@dataclass(eq=False)
class ByRow:
    """A rotary embedding's forward, with the frequencies of each row.

    Attributes:
        module: the embedding.
        right: its own forward.
    """

    module: Any
    right: Callable[..., Any]

    def __call__(self, x: Tensor, position_ids: Tensor, *more: Any, **named: Any) -> Any:
        layer = named.get("layer_type") or (more[0] if more else None)
        width = position_ids.shape[-1]
        counts = SEEN.get()
        if counts is None:
            counts = position_ids.max()[None, None] + 1
        else:
            counts = counts.to(position_ids.device)
            counts = counts[:, None] if counts.dim() == 1 else counts
            if counts.shape[0] != x.shape[0] or counts.shape[1] not in (1, width):
                raise MechanismError(
                    f"rotary frequencies of {tuple(counts.shape)} tokens were asked for in a batch "
                    f"of {(x.shape[0], width)}"
                )
        # up to the trained length, all are alike
        counts = counts.clamp(min=boundary(self.module, layer))
        found: Any = None
        for n in counts.unique().tolist():
            one = self.fresh(n, x, position_ids, *more, **named)
            found = one if found is None else chosen(counts == n, one, found)
        return found

    def fresh(self, n: int, x: Tensor, position_ids: Tensor, *more: Any, **named: Any) -> Any:
        """What a freshly loaded model gives where it has n tokens before it."""
        width = position_ids.shape[-1]
        last = torch.full_like(position_ids[..., :1], n - 1)  # n is read off the largest position
        places = torch.cat([position_ids.clamp(max=n - 1), last], -1)
        self.forget(named.get("layer_type") or (more[0] if more else None))
        return first(self.right(x, places, *more, **named), width)

    def forget(self, layer: str | None) -> None:
        """Frequencies of longer batches that were kept."""
        if "dynamic" in kind(self.module, layer):
            lead = f"{layer}_" if layer is not None else ""
            module = self.module
            if hasattr(module, f"{lead}max_seq_len_cached"):
                setattr(module, f"{lead}max_seq_len_cached", module.original_max_seq_len)
            own = getattr(module, f"{lead}inv_freq")
            right = getattr(module, f"{lead}original_inv_freq").to(own.device)
            module.register_buffer(f"{lead}inv_freq", right, persistent=False)


def kind(module: Any, layer: str | None) -> str:
    """The kind of a rotary embedding, of layers of one type where types differ."""
    types = module.rope_type
    return str(types.get(layer) if isinstance(types, dict) else types)


def boundary(module: Any, layer: str | None = None) -> int:
    """The trained length, up to which frequencies are one; 0 where they never change."""
    if isinstance(module.rope_type, dict) and layer is None:
        return max(boundary(module, each) for each in module.rope_type)
    if "dynamic" in kind(module, layer):
        return int(module.original_max_seq_len)
    given = module.config.rope_parameters
    own = given.get(layer, given)
    return int(own.get(BOUNDARY, 0)) if kind(module, layer) == "longrope" else 0


def first(found: Any, width: int) -> Any:
    """So many tokens of [R, S, ...], or of several."""
    if isinstance(found, tuple):
        return tuple(first(each, width) for each in found)
    return found[:, :width]


def chosen(where: Tensor, one: Any, other: Any) -> Any:
    """[R, S, ...] of the first where [R, 1 or S] says so, else of the second."""
    if isinstance(one, tuple):
        return tuple(chosen(where, a, b) for a, b in zip(one, other, strict=True))
    return torch.where(where[..., None], one, other)


def rotary(model: nn.Module) -> list[Any]:
    """The embeddings of a model whose frequencies depend on length."""

    def depends(types: Any) -> bool:
        kinds = types.values() if isinstance(types, dict) else [types]
        return any(isinstance(k, str) and ("dynamic" in k or k == "longrope") for k in kinds)

    return [m for m in model.modules() if depends(getattr(m, "rope_type", None))]


def by_row(model: Any) -> Any:
    """The model, its rows no longer dependent on each other's lengths.

    Raises:
        MechanismError: its frequencies depend on length in a way that is not understood.
    """
    found = rotary(model)
    for module in found:
        if not isinstance(module.__dict__.get("forward"), ByRow):
            module.forward = ByRow(module, module.forward)
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    named = str(given)
    if not found and ("'dynamic'" in named or "longrope" in named or "'su'" in named):
        raise MechanismError(
            f"a {type(model).__name__} takes rotary frequencies from the longest row of a batch in "
            "code of its own, so a row's numbers would depend on what stands beside it"
        )
    return model


@contextmanager
def plain(model: Any) -> Iterator[None]:
    """Context in which a model is as transformers made it."""
    kept = [m.__dict__["forward"] for m in rotary(model) if "forward" in m.__dict__]
    try:
        for each in kept:
            each.forget(None)
            each.module.forward = each.right
        yield
    finally:
        for each in kept:
            each.module.forward = each
