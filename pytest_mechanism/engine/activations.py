"""Activations at some positions and heads: read, edited, written into others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Positions, Tokens
from pytest_mechanism.engine.layout import Location
from pytest_mechanism.engine.plumbing import index_tensor, positions, with_heads


def gather(
    activation: Float[Tensor, "rows tokens heads width"],
    at: Positions | None,
    heads: tuple[int, ...] | None,
) -> Float[Tensor, "rows _ _ width"]:
    """A copy of some heads at some positions, or columns; None stands for all."""
    values = activation
    if at is not None:
        rows = torch.arange(values.shape[0], device=values.device)[:, None]
        values = values[rows, at.to(values.device)]
    if heads is not None:
        values = values[:, :, index_tensor(tuple(heads), values.device)]
    return values.clone() if values is activation else values


def edited_run(
    activation: Float[Tensor, "rows tokens *heads width"], edit: Edit, tokens: Tokens
) -> Float[Tensor, "rows tokens *heads width"]:
    """A run's own activation after one of the run's edits."""
    old = with_heads(activation)
    if edit.at is None and edit.heads is None and edit.keep is None:
        new = edit.value.to(old).expand_as(old).contiguous()  # some families take views of it
    else:
        new = old.clone()
        put(new, old, [(Location(positions(tokens, edit.at).to(old.device), None), edit)])
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
    edits: Sequence[tuple[Location, Edit]],
) -> None:
    """Write edits of equal numbers of heads into ``new``."""
    rows, _, n_heads, d = old.shape
    columns, heads, values, keeps, computed = [], [], [], [], []
    for location, edit in edits:
        chosen = tuple(range(n_heads)) if edit.heads is None else tuple(edit.heads)
        count = location.columns.shape[1]
        shape = (rows, count, len(chosen), d)
        columns.append(location.columns)
        heads.append(index_tensor(chosen, old.device).expand(count, -1))
        values.append(edit.value.to(old).expand(shape))
        if edit.keep is not None:
            keeps.append(edit.keep.to(old).expand(shape))
        if location.computed is not None:
            computed.append(location.computed)
    at, of = torch.cat(columns, 1)[:, :, None], torch.cat(heads)[None]
    row = torch.arange(rows, device=old.device)[:, None, None]
    value = torch.cat(values, 1)
    if keeps:
        keep = torch.cat(keeps, 1)
        value = keep * old[row, at, of] + (1 - keep) * value
    if value.requires_grad:
        repeats = [named_before(edit.at, location.columns) for location, edit in edits]
        value = torch.where(torch.cat(repeats, 1)[:, :, None, None], value.detach(), value)
    if computed:
        r, column = torch.cat(computed, 1).nonzero(as_tuple=True)
        new[r[:, None], at[r, column], of[0, column]] = value[r, column]
    else:
        new[row, at, of] = value


def named_before(
    at: Positions | None, columns: Int[Tensor, "rows places"]
) -> Bool[Tensor, "rows places"]:
    """Where a row has named the position before: a repeat would count twice in a gradient."""
    if at is None:
        return torch.zeros_like(columns, dtype=torch.bool)
    first = (at[:, :, None] == at[:, None, :]).int().argmax(-1)
    return first != torch.arange(at.shape[1], device=at.device)
