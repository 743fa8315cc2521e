"""In which columns the tokens of several branches go.

Several branches of one run go through the model side by side, as further tokens (*columns*) of the same
rows: those that the branches may change (`engine.planning`). Each column attends to the run's tokens and
to its own branch's.

Shapes: ``active`` tokens of a branch, ``branches``, ``columns`` of all branches together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Positions, Tokens
from pytest_mechanism.engine.planning import NO_TOKEN, PlannedBranch, TensorCache
from pytest_mechanism.engine.plumbing import index_tensor, positions

SPARE_ROOM = 4
"""A prompt's keys and values have spare room for a quarter of its tokens (`replay.SharedCache`)."""


class Location(NamedTuple):
    """Where tokens of a branch are in a layout.

    Attributes:
        columns: of the tokens.
        computed: False for tokens that are not active; None where all are.
    """

    columns: Int[Tensor, "rows places"]
    computed: Bool[Tensor, "rows places"] | None


@dataclass(frozen=True, eq=False)
class Layout:
    """The columns of several branches. Branches that start in a lower layer go first, so that the
    tokens computed in a layer are always the first columns.

    Attributes:
        tokens: the run's.
        members: the branches, by first layer.
        cache: shared with other layouts of these tokens.
    """

    tokens: Tokens
    members: Sequence[PlannedBranch]
    cache: TensorCache = field(default_factory=TensorCache)

    @cached_property
    def starts(self) -> list[int]:
        """Column of each member's first token."""
        starts, column = [], 0
        for member in self.members:
            starts.append(column)
            column += member.active.shape[1]
        return starts

    @cached_property
    def active(self) -> Int[Tensor, "rows columns"]:
        """Token positions; `NO_TOKEN` where there is none."""
        return torch.cat([member.active for member in self.members], dim=1)

    @cached_property
    def positions(self) -> Int[Tensor, "rows columns"]:
        """Token positions; 0 where there is no token."""
        return self.active.clamp(min=0)

    @cached_property
    def is_token(self) -> Bool[Tensor, "rows columns"]:
        return self.active != NO_TOKEN

    @cached_property
    def owner(self) -> Int[Tensor, " columns"]:
        """Number of the member that a column belongs to."""
        owners = (i for i, m in enumerate(self.members) for _ in range(m.active.shape[1]))
        return index_tensor(tuple(owners), self.active.device)

    def leader_column(self, member: int) -> int | None:
        """First column of a member's leader, if it has one."""
        leader = self.members[member].leader
        return None if leader is None else self.starts[self.members.index(leader)]

    def width(self, layer: int) -> int:
        """Number of columns that are computed in a layer."""
        return sum(m.active.shape[1] for m in self.members if m.first <= layer)

    def locate(self, member: int, at: Positions | None) -> Location:
        """Columns of a member's tokens at some positions."""
        active = self.members[member].active
        columns, computed = self.cache(
            "locate", (active, at), lambda: search(active, positions(self.tokens, at))
        )
        return Location(columns + self.starts[member], computed)

    @cached_property
    def replaced(self) -> Bool[Tensor, "rows branches tokens"]:
        """Which of the run's tokens a member computes anew."""
        rows, length = self.tokens.ids.shape
        replaced = torch.zeros(
            rows, len(self.members), length + 1, dtype=torch.bool, device=self.active.device
        )
        # where there is no token, an extra column is marked, which is cut off again
        spots = torch.where(self.is_token, self.positions, length)
        replaced[torch.arange(rows, device=spots.device)[:, None], self.owner[None], spots] = True
        return replaced[:, :, :-1]

    @cached_property
    def prefix(self) -> int:
        """How many of the run's keys the columns attend over: up to the last key that some member
        sees unchanged. All of them where few could be left out, since hiding those is cheaper than
        copying the others."""
        distinct = {id(m.active): m.active for m in self.members}
        needed: int = self.cache(
            "prefix", [distinct[key] for key in sorted(distinct)], self.last_unchanged
        )
        length = self.tokens.ids.shape[1]
        return length if length - needed <= length // SPARE_ROOM else needed

    def last_unchanged(self) -> int:
        """Place, counted from 1, of the last of the run's keys that some member sees unchanged."""
        unchanged = ((~self.replaced).any(1) & self.tokens.mask.bool()).any(0)
        places = torch.arange(1, len(unchanged) + 1, device=unchanged.device)
        return int((unchanged * places).max())

    def mask(
        self, visible: Bool[Tensor, "rows tokens tokens"], dtype: torch.dtype
    ) -> Float[Tensor, "rows 1 columns keys"]:
        """What to add to attention scores over the run's first `prefix` keys and all columns.

        A column attends to what its token attended to in the run, to its own branch's columns
        instead of the run's keys where those are active.

        Args:
            visible: queries by keys, in the run.
            dtype: of the scores.
        """
        rows, width = self.positions.shape
        row = torch.arange(rows, device=visible.device)[:, None]
        in_run = visible[row, self.positions]  # [rows, columns, tokens]
        among_columns = in_run.gather(2, self.positions[:, None].expand(rows, width, width))
        own = self.owner[:, None] == self.owner[None]
        among_columns = among_columns & own & self.is_token[:, None]
        unchanged = in_run[:, :, : self.prefix] & ~self.replaced[:, self.owner, : self.prefix]
        sees = torch.cat([unchanged, among_columns], dim=2)
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=sees.device)
        return torch.where(sees, hidden.new_zeros(()), hidden)[:, None]


def search(active: Int[Tensor, "rows active"], at: Positions) -> Location:
    """Where positions are among active tokens."""
    same = active[:, None, :] == at[:, :, None]
    computed = same.any(-1)
    return Location(same.int().argmax(-1), None if bool(computed.all()) else computed)
