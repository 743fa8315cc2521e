"""In which columns the tokens of several branches go.

Several branches of one run go through the model side by side, as further tokens (*columns*) of the same
rows: those that the branches may change (`engine.planning`). Each column attends to the run's tokens and
to its own branch's.

Shapes: ``active`` tokens of a branch, ``branches``, ``columns`` of all branches together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate, groupby
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pytest_mechanism.engine.interface import Positions, Tokens
from pytest_mechanism.engine.planning import NO_TOKEN, PlannedBranch, TensorCache, apart
from pytest_mechanism.engine.plumbing import index_tensor, positions

T = TypeVar("T")

MOST_COLUMNS = 48
"""Columns up to which branches share rows, however wide they are. A CPU computes no more of them side
by side: more are no faster, and their attention scores over a long prompt outgrow what the allocator
keeps at hand."""

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
    def made(self) -> dict[Hashable, Any]:
        """Tensors that follow from the columns: made once for packs of equal columns that follow
        each other."""
        return self.cache.of_last([member.active for member in self.members])

    def once(self, name: Hashable, compute: Callable[[], T], source: object = None) -> T:
        """What ``compute`` gave for these columns first. A ``source`` whose identity is part of the name is
        kept alive, so that nothing else gets it."""
        if name not in self.made:
            self.made[name] = (compute(), source)
        result: T = self.made[name][0]
        return result

    @property
    def length(self) -> int:
        """Tokens of a row of the run."""
        return self.tokens.ids.shape[1]

    @cached_property
    def starts(self) -> list[int]:
        """Column of each member's first token."""
        return list(accumulate((m.active.shape[1] for m in self.members[:-1]), initial=0))

    @cached_property
    def apart(self) -> int:
        """Width of every member, where members go through the layers in separate rows (`planning.apart`); 0
        where they share the run's rows."""
        width, members = self.members[0].active.shape[1], len(self.members)
        alone = members > 1 and width * members > MOST_COLUMNS and apart(self.members)
        return width if alone else 0

    @property
    def active(self) -> Int[Tensor, "rows columns"]:
        """Token positions; `NO_TOKEN` where there is none."""
        return self.once("active", lambda: torch.cat([m.active for m in self.members], dim=1))

    @property
    def positions(self) -> Int[Tensor, "rows columns"]:
        """Token positions; 0 where there is no token."""
        return self.once("positions", lambda: self.active.clamp(min=0))

    def positions_from(self, start: int) -> Int[Tensor, "rows columns"]:
        """Token positions, counted from ``start``; 0 where there is no token."""
        if not start:
            return self.positions
        return self.once(("from", start), lambda: (self.active - start).clamp(min=0))

    @cached_property
    def lowest(self) -> int:
        """The first position that some member computes; the run's last where there is none."""

        def first(active: Tensor) -> int:
            return int(torch.where(active == NO_TOKEN, self.length - 1, active).min())

        distinct = {id(m.active): m.active for m in self.members}.values()
        lowest: int = min(self.cache("first", [at], partial(first, at)) for at in distinct)
        return lowest

    @property
    def is_token(self) -> Bool[Tensor, "rows columns"]:
        return self.once("is_token", lambda: self.active != NO_TOKEN)

    @property
    def owner(self) -> Int[Tensor, " columns"]:
        """Number of the member that a column belongs to."""

        def owners() -> Tensor:
            owner = (i for i, m in enumerate(self.members) for _ in range(m.active.shape[1]))
            return index_tensor(tuple(owner), self.active.device)

        return self.once("owner", owners)

    @property
    def rows(self) -> Int[Tensor, "rows 1"]:
        """Number of each row."""
        device = self.tokens.ids.device
        return self.once("rows", lambda: torch.arange(len(self.tokens.ids), device=device)[:, None])

    def leader_column(self, member: int) -> int | None:
        """First column of a member's leader, if it has one."""
        leader = self.members[member].leader
        return None if leader is None else self.starts[self.members.index(leader)]

    def width(self, layer: int) -> int:
        """Number of columns that are computed in a layer."""
        return sum(m.active.shape[1] for m in self.members if m.first <= layer)

    def into_rows(self, values: Shaped[Tensor, "rows columns *_"]) -> Shaped[Tensor, "_ _ *_"]:
        """Columns as the layers get them. Where members are `apart`, each row is split into one row for
        each member, in order."""
        return values.unflatten(1, (-1, self.apart)).flatten(0, 1) if self.apart else values

    def into_columns(self, values: Shaped[Tensor, "_ _ *_"]) -> Shaped[Tensor, "rows columns *_"]:
        """`into_rows`, undone."""
        rows = self.tokens.ids.shape[0]
        return values.unflatten(0, (rows, -1)).flatten(1, 2) if self.apart else values

    def locate(self, member: int, at: Positions | None) -> Location:
        """Columns of a member's tokens at some positions."""
        return self.locate_all([(member, at)])

    def among_own(self, member: int, at: Positions | None) -> Location:
        """Where positions are among a member's own columns."""
        active = self.members[member].active
        found: Location = self.cache(
            "locate", (active, at), lambda: search(active, positions(self.tokens, at))
        )
        return found

    def locate_all(self, wanted: Sequence[tuple[int, Int[Tensor, "rows _"] | None]]) -> Location:
        """Columns of (members' tokens, at some positions), one after the other."""
        name = ("located", *((self.starts[member], id(at)) for member, at in wanted))
        # what is found is remembered with its positions, so no other tensor gets their identity
        return self.once(name, lambda: self.find(wanted))

    def find(self, wanted: Sequence[tuple[int, Int[Tensor, "rows _"] | None]]) -> Location:
        """See `locate_all`."""

        def tensors(of: tuple[int, Tensor | None]) -> tuple[int, int]:
            return id(self.members[of[0]].active), id(of[1])

        found: list[Location] = []
        for _, equal in groupby(wanted, tensors):
            alike = list(equal)
            columns, computed = self.among_own(*alike[0])
            starts = index_tensor(tuple(self.starts[i] for i, _ in alike), columns.device)
            columns = (columns[:, None] + starts[:, None]).flatten(1)
            if computed is not None and len(alike) > 1:
                computed = computed.repeat(1, len(alike))
            found.append(Location(columns, computed))
        if len(found) == 1:
            return found[0]
        known = [f.computed for f in found if f.computed is not None]
        return Location(
            torch.cat([f.columns for f in found], 1),
            torch.cat([is_computed(f) for f in found], 1) if known else None,
        )

    @property
    def replaced(self) -> Bool[Tensor, "rows branches tokens"]:
        """Which of the run's tokens a member computes anew."""
        return self.once("replaced", self.find_replaced)

    def find_replaced(self) -> Bool[Tensor, "rows branches tokens"]:
        """See `replaced`."""
        rows, length = self.tokens.ids.shape
        replaced = torch.zeros(
            rows, len(self.members), length + 1, dtype=torch.bool, device=self.active.device
        )
        # where there is no token, an extra column is marked, which is cut off again
        spots = torch.where(self.is_token, self.positions, length)
        replaced[self.rows, self.owner[None], spots] = True
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
        if self.apart:  # the keys are copied for every member anyway
            return needed
        return length if length - needed <= length // SPARE_ROOM else needed

    def last_unchanged(self) -> int:
        """Place, counted from 1, of the last of the run's keys that some member sees unchanged."""
        unchanged = ((~self.replaced).any(1) & self.tokens.mask.bool()).any(0)
        places = torch.arange(1, len(unchanged) + 1, device=unchanged.device)
        return int((unchanged * places).max())

    def mask_in(
        self, layer: int, visible: Bool[Tensor, "rows tokens tokens"], dtype: torch.dtype
    ) -> Float[Tensor, "_ 1 _ keys"]:
        """`mask` of the columns that are computed in a layer, as the layer gets them.

        Args:
            layer: which.
            visible: queries by keys, in the run.
            dtype: of the scores.
        """
        name = ("mask", id(visible), dtype, self.apart)
        mask = self.once(name, lambda: self.mask(visible, dtype), visible)
        width = self.width(layer)
        if not self.apart:
            return mask[:, :, :width, : self.prefix + width]
        rows, members = len(visible), width // self.apart
        of_members: Tensor = mask.unflatten(0, (rows, -1))
        return self.once((*name, width), lambda: of_members[:, :members].flatten(0, 1))

    def mask(
        self, visible: Bool[Tensor, "rows tokens tokens"], dtype: torch.dtype
    ) -> Float[Tensor, "_ 1 _ keys"]:
        """What to add to attention scores over the run's first `prefix` keys and the columns in a row.

        A column attends to what its token attended to in the run, to its own branch's columns
        instead of the run's keys where those are active.

        Args:
            visible: queries by keys, in the run.
            dtype: of the scores.
        """
        at, is_token = self.into_rows(self.positions), self.into_rows(self.is_token)
        width = at.shape[1]
        row = self.into_rows(self.rows.expand_as(self.positions))
        in_run = visible[row, at]  # [rows, columns, tokens]
        among_columns = in_run.gather(2, at[:, None].expand(-1, width, -1)) & is_token[:, None]
        if self.apart:
            replaced = self.replaced.flatten(0, 1)[:, None]
        else:
            among_columns = among_columns & (self.owner[:, None] == self.owner[None])
            replaced = self.replaced[:, self.owner]
        unchanged = in_run[:, :, : self.prefix] & ~replaced[:, :, : self.prefix]
        sees = torch.cat([unchanged, among_columns], dim=2)
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=sees.device)
        return torch.where(sees, hidden.new_zeros(()), hidden)[:, None]


def is_computed(location: Location) -> Bool[Tensor, "rows places"]:
    """Which tokens of a location are active."""
    columns, computed = location
    return torch.ones_like(columns, dtype=torch.bool) if computed is None else computed


def search(active: Int[Tensor, "rows active"], at: Positions) -> Location:
    """Where positions are among active tokens."""
    same = active[:, None, :] == at[:, :, None]
    computed = same.any(-1)
    return Location(same.int().argmax(-1), None if bool(computed.all()) else computed)
