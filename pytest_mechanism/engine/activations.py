"""Activations at some positions and heads: read, edited, written into others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Positions, Tokens
from pytest_mechanism.engine.layout import Location
from pytest_mechanism.engine.plumbing import (
    chosen_heads,
    index_tensor,
    positions,
    with_heads,
)


def gather(
    activation: Float[Tensor, "rows tokens heads width"],
    at: Positions | None,
    heads: tuple[int, ...] | None,
) -> Float[Tensor, "rows _ _ width"]:
    """A copy of some heads at some positions, or columns; None stands for all."""
    values = chosen_heads(activation, heads)
    if at is not None:
        rows = index_tensor(tuple(range(values.shape[0])), values.device)[:, None]
        return values[rows, at.to(values.device)]
    copied = values.untyped_storage().data_ptr() != activation.untyped_storage().data_ptr()
    return values if copied else values.clone()


def edited_run(
    activation: Float[Tensor, "rows tokens *heads width"], edit: Edit, tokens: Tokens
) -> Float[Tensor, "rows tokens *heads width"]:
    """A run's own activation after one of the run's edits."""
    old = with_heads(activation)
    if edit.at is None and edit.heads is None and edit.keep is None:
        new = edit.value.to(old).expand_as(old).contiguous()  # some families take views of it
    else:
        new = old.clone()
        put(new, old, Location(positions(tokens, edit.at), None), [edit])
    return new if activation.dim() == 4 else new.squeeze(2)


def marked(location: Location, width: int) -> Bool[Tensor, "rows columns"]:
    """True in the columns of a location's tokens, of ``width`` columns."""
    columns, computed = location
    marks = torch.zeros(columns.shape[0], width + 1, dtype=torch.bool, device=columns.device)
    if computed is not None:  # other tokens mark an extra column, which is cut off again
        columns = torch.where(computed, columns, width)
    return marks.scatter_(1, columns, value=True)[:, :width]


def put(
    new: Float[Tensor, "rows columns heads width"],
    old: Float[Tensor, "rows columns heads width"],
    location: Location,
    edits: Sequence[Edit],
) -> None:
    """Write edits of equal numbers of places and heads into ``new``.

    Args:
        new: what is written into.
        old: the activation before these edits.
        location: columns of all edits, one edit after the other.
        edits: what is written; all of them keep a share of the old values, or none does.
    """
    rows, _, n_heads, d = old.shape
    count = location.columns.shape[1] // len(edits)
    chosen = [tuple(range(n_heads)) if e.heads is None else tuple(e.heads) for e in edits]
    numbers = tuple(head for heads in chosen for _ in range(count) for head in heads)
    shape = (rows, count, len(chosen[0]), d)
    at = location.columns.to(old.device)[:, :, None]
    of = index_tensor(numbers, old.device).view(1, at.shape[1], -1)
    row = index_tensor(tuple(range(rows)), old.device)[:, None, None]
    value = joined([edit.value.to(old).expand(shape) for edit in edits])
    if edits[0].keep is not None:
        shares = [edit.keep.to(old).expand(shape) for edit in edits if edit.keep is not None]
        keep = joined(shares)
        value = keep * old[row, at, of] + (1 - keep) * value
    if value.requires_grad:
        repeats = [
            named_before(edit.at, columns)
            for edit, columns in zip(edits, location.columns.split(count, 1), strict=True)
        ]
        value = torch.where(torch.cat(repeats, 1)[:, :, None, None], value.detach(), value)
    if location.computed is not None:
        r, column = location.computed.nonzero(as_tuple=True)
        new[r[:, None], at[r, column], of[0, column]] = value[r, column]
    else:
        new[row, at, of] = value


def joined(values: Sequence[Float[Tensor, "rows _ heads width"]]) -> Float[Tensor, "rows _ _ _"]:
    """One after the other; a single one as it is."""
    return values[0] if len(values) == 1 else torch.cat(list(values), 1)


def named_before(
    at: Positions | None, columns: Int[Tensor, "rows places"]
) -> Bool[Tensor, "rows places"]:
    """Where a row has named the position before: a repeat would count twice in a gradient."""
    if at is None:
        return torch.zeros_like(columns, dtype=torch.bool)
    first = (at[:, :, None] == at[:, None, :]).int().argmax(-1)
    return first != torch.arange(at.shape[1], device=at.device)
