"""Rotary embeddings whose frequencies depend on the length of a text, applied row by row.

Two kinds of rotary embedding choose their frequencies by the number of tokens ``n`` that a model
attends to: ``dynamic`` (another base for each n above the trained length) and ``longrope`` (long
factors above the trained length, short ones up to it). transformers takes n from the longest row of
a batch, and ``dynamic`` keeps the frequencies of a long batch for shorter batches that come later.
A row's numbers would depend on the other rows and on earlier batches.

`by_row` gives each token the frequencies that a freshly loaded model would give it if its row ran
alone:

- In a forward over whole rows (a measurement, a step of training), n is the row's length.
- In a reply (``generate`` with its cache, the default), the model rotates a token's query and key
  once, in the step that reads the token: n is the prompt's length for the prompt's tokens, and the
  token's own place in the row for each token after it. Frequencies change while a reply grows, and
  the keys in the cache keep theirs.
- Phi-3's family empties its cache when a reply crosses the trained length, so that all tokens up to
  there get the long factors (`restart_length`).

Shapes: R rows, S tokens.
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

ROW_LENGTHS: ContextVar[Tensor | None] = ContextVar("row_lengths", default=None)
"""[R] or [R, S]: n of each token in the running batch; None where all rows fill the batch."""

TRAINED_LENGTH = "original_max_position_embeddings"


@contextmanager
def row_lengths(lengths: Tensor) -> Iterator[None]:
    """Context in which a batch with these n runs: [R], or [R, S] for each token."""
    token = ROW_LENGTHS.set(lengths)
    try:
        yield
    finally:
        ROW_LENGTHS.reset(token)


def reply_lengths(prompts: Tensor, ends: Tensor, restarts: int | None) -> Tensor:
    """[R, longest]: n of each token in rows that have grown by greedy replies.

    Args:
        prompts: [R], lengths of the prompts.
        ends: [R], lengths of prompts and replies so far.
        restarts: `restart_length` of the model.
    """
    place = torch.arange(1, int(ends.max()) + 1, device=ends.device)
    least = prompts
    if restarts is not None:
        crossed = (prompts <= restarts) & (ends > restarts)
        least = torch.where(crossed, restarts + 1, prompts)
    return torch.minimum(torch.maximum(least[:, None], place), ends[:, None])


def restart_length(model: Any) -> int | None:
    """Length beyond which ``generate`` reads a row anew; None for models that never do."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    prepare = getattr(type(plain), "prepare_inputs_for_generation", None)
    code = getattr(prepare, "__code__", None)
    if code is None or TRAINED_LENGTH not in (*code.co_names, *code.co_consts):
        return None
    length = getattr(plain.config, TRAINED_LENGTH, None)
    return None if length is None else int(length)


@dataclass(eq=False)
class ByRow:
    """A rotary embedding's forward, with the frequencies of each row.

    Attributes:
        module: the embedding.
        original: its own forward.
    """

    module: Any
    original: Callable[..., Any]

    def __call__(self, x: Tensor, position_ids: Tensor, *more: Any, **named: Any) -> Any:
        layer_type = named.get("layer_type") or (more[0] if more else None)
        width = position_ids.shape[-1]
        lengths = ROW_LENGTHS.get()
        if lengths is None:
            lengths = position_ids.max()[None, None] + 1
        else:
            lengths = lengths.to(position_ids.device)
            lengths = lengths[:, None] if lengths.dim() == 1 else lengths
            if lengths.shape[0] != x.shape[0] or lengths.shape[1] not in (1, width):
                raise MechanismError(
                    f"rotary frequencies of {tuple(lengths.shape)} tokens were asked for in a "
                    f"batch of {(x.shape[0], width)}"
                )
        # all lengths up to the trained one have the same frequencies
        lengths = lengths.clamp(min=trained_length(self.module, layer_type))
        embedding: Any = None
        for n in lengths.unique().tolist():
            of_n = self.fresh(n, x, position_ids, *more, **named)
            embedding = of_n if embedding is None else where(lengths == n, of_n, embedding)
        return embedding

    def fresh(self, n: int, x: Tensor, position_ids: Tensor, *more: Any, **named: Any) -> Any:
        """What a freshly loaded model gives for n tokens."""
        width = position_ids.shape[-1]
        last = torch.full_like(position_ids[..., :1], n - 1)  # n is read off the largest position
        positions = torch.cat([position_ids.clamp(max=n - 1), last], -1)
        self.forget(named.get("layer_type") or (more[0] if more else None))
        return first_tokens(self.original(x, positions, *more, **named), width)

    def forget(self, layer_type: str | None) -> None:
        """Drop the frequencies that the embedding kept from a longer batch."""
        if "dynamic" in rope_type(self.module, layer_type):
            prefix = f"{layer_type}_" if layer_type is not None else ""
            module = self.module
            if hasattr(module, f"{prefix}max_seq_len_cached"):
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
            kept = getattr(module, f"{prefix}inv_freq")
            original = getattr(module, f"{prefix}original_inv_freq").to(kept.device)
            module.register_buffer(f"{prefix}inv_freq", original, persistent=False)


def rope_type(module: Any, layer_type: str | None) -> str:
    """The kind of a rotary embedding; some models have one for each type of layer."""
    types = module.rope_type
    return str(types.get(layer_type) if isinstance(types, dict) else types)


def trained_length(module: Any, layer_type: str | None = None) -> int:
    """The length up to which frequencies are constant; 0 where they always are."""
    if isinstance(module.rope_type, dict) and layer_type is None:
        return max(trained_length(module, name) for name in module.rope_type)
    if "dynamic" in rope_type(module, layer_type):
        return int(module.original_max_seq_len)
    parameters = module.config.rope_parameters
    of_layer = parameters.get(layer_type, parameters)
    is_long = rope_type(module, layer_type) == "longrope"
    return int(of_layer.get(TRAINED_LENGTH, 0)) if is_long else 0


def first_tokens(embedding: Any, width: int) -> Any:
    """The first ``width`` tokens of a tensor [R, S, ...], or of a tuple of such tensors."""
    if isinstance(embedding, tuple):
        return tuple(first_tokens(part, width) for part in embedding)
    return embedding[:, :width]


def where(chosen: Tensor, embedding: Any, other: Any) -> Any:
    """`torch.where` for tensors [R, S, ...] or tuples of such tensors; ``chosen`` is [R, 1 or S]."""
    if isinstance(embedding, tuple):
        return tuple(where(chosen, a, b) for a, b in zip(embedding, other, strict=True))
    return torch.where(chosen[..., None], embedding, other)


def length_dependent(model: nn.Module) -> list[Any]:
    """The rotary embeddings of a model whose frequencies depend on length."""

    def depends(types: Any) -> bool:
        kinds = types.values() if isinstance(types, dict) else [types]
        return any(isinstance(k, str) and ("dynamic" in k or k == "longrope") for k in kinds)

    return [m for m in model.modules() if depends(getattr(m, "rope_type", None))]


def by_row(model: Any) -> Any:
    """Make a model's rows independent of each other's lengths; returns the model.

    Raises:
        MechanismError: the model computes its frequencies in code that this module does not know.
    """
    embeddings = length_dependent(model)
    for module in embeddings:
        if not isinstance(module.__dict__.get("forward"), ByRow):
            module.forward = ByRow(module, module.forward)
    config = model.config.get_text_config()
    scaling = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    if not embeddings and any(name in scaling for name in ("'dynamic'", "longrope", "'su'")):
        raise MechanismError(
            f"a {type(model).__name__} takes rotary frequencies from the longest row of a batch in "
            "code of its own, so a row's numbers would depend on the other rows"
        )
    return model


@contextmanager
def unmodified(model: Any) -> Iterator[None]:
    """Context in which a model's rotary embeddings are transformers' own."""
    replaced = [m.__dict__["forward"] for m in length_dependent(model) if "forward" in m.__dict__]
    try:
        for by_row_forward in replaced:
            by_row_forward.forget(None)
            by_row_forward.module.forward = by_row_forward.original
        yield
    finally:
        for by_row_forward in replaced:
            by_row_forward.module.forward = by_row_forward
