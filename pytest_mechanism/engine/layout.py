"""Which tokens a branch can change, and in which columns the tokens of several branches go.

A branch that edits row r at position p changes nothing before p (attention looks back only; in a
model whose attention looks ahead, the branch changes the whole row) and nothing below its lowest
edited layer. A branch with frozen attention changes only the tokens that it names, since z carries
all that flows between tokens. The tokens that a branch may change are *active*: the engine computes
them anew, and takes all others from the run. Several branches of one run go through the model side by
side, as further tokens (*columns*) of the same rows; each column attends to the run's tokens and to
its own branch's.

Shapes: ``active`` tokens of a branch, ``branches``, ``columns`` of all branches together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Positions, Tokens
from pytest_mechanism.engine.plumbing import index_tensor, positions

NO_TOKEN = -1
"""Fills up rows that have fewer active tokens than another."""

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
class PlannedBranch:
    """A branch and what must be computed for it.

    Attributes:
        branch: as asked for.
        active: token positions, `NO_TOKEN` at the end of rows with fewer.
        first: lowest layer that is computed for it.
        last: highest layer that is needed.
        leader: another branch with the same active tokens, whose numbers below ``first`` are this
            branch's, too; None where those are the run's.
    """

    branch: Branch
    active: Int[Tensor, "rows active"]
    first: int
    last: int
    leader: PlannedBranch | None = None


@dataclass
class TensorCache:
    """Remembers what was computed from tensors, by their identity. A lookup of their values would
    make the program wait for a GPU."""

    known: dict[Hashable, tuple[Any, tuple[object, ...]]] = field(default_factory=dict)

    def __call__(
        self, name: Hashable, tensors: Sequence[object], compute: Callable[[], Any]
    ) -> Any:
        """What ``compute`` returns for these tensors, in this order. The cache keeps the tensors
        alive, so that no other tensor gets their identity."""
        key = (name, tuple(map(id, tensors)))
        if key not in self.known:
            self.known[key] = (compute(), tuple(tensors))
        return self.known[key][0]


@dataclass
class Planner:
    """Plans the branches of one run. Branches that name the same position tensors share the tensor
    of their active tokens.

    Attributes:
        tokens: the run's.
        n_layers: of the model.
        cache: of the active tokens.
        attends_ahead: whether tokens attend to later ones, so that an edit changes earlier ones, too.
    """

    tokens: Tokens
    n_layers: int
    cache: TensorCache = field(default_factory=TensorCache)
    attends_ahead: bool = False

    def plan(self, branch: Branch) -> PlannedBranch:
        active_heads = branch.active_heads if branch.freeze_attention else ()
        named: list[Tensor | None] = [
            *(edit.at for edit in branch.edits),
            *(reading.at for reading in branch.readings),
            *(heads.at for heads in active_heads),
            *(mlp.at for mlp in branch.active_mlps),
            *(knockout.queries for knockout in branch.knockouts),
        ]
        distinct = {id(at): at for at in named}
        active = self.cache(
            ("active", branch.freeze_attention, branch.answer),
            [distinct[key] for key in sorted(distinct)],
            partial(self.active, branch, named),
        )
        read_layers = [reading.site.layer for reading in branch.readings]
        layers = [
            *read_layers,
            *(edit.site.layer for edit in branch.edits),
            *(heads.layer for heads in active_heads),
            *(mlp.layer for mlp in branch.active_mlps),
            *(knockout.layer for knockout in branch.knockouts),
        ]
        highest = self.n_layers - 1
        return PlannedBranch(
            branch,
            active,
            first=min(layers, default=highest),
            last=highest if branch.answer else max(read_layers, default=-1),
        )

    def active(
        self, branch: Branch, named: Iterable[Int[Tensor, "rows _"] | None]
    ) -> Int[Tensor, "rows active"]:
        """The active tokens of a branch that names these positions."""
        rows, length = self.tokens.ids.shape
        device = self.tokens.ids.device
        everywhere = torch.arange(length, device=device).expand(rows, length)
        touched = torch.zeros(rows, length, dtype=torch.bool, device=device)
        for at in named:
            touched.scatter_(1, positions(self.tokens, at), value=True)
        is_token = everywhere <= self.tokens.last[:, None]
        touched &= is_token
        if branch.answer or not touched.any():
            touched.scatter_(1, self.tokens.last[:, None], value=True)
        if not branch.freeze_attention:
            changed = torch.ones_like(touched) if self.attends_ahead else touched.cummax(1).values
            touched = changed & is_token
        active = torch.where(touched, everywhere, length).sort(dim=1).values
        active = active[:, : int(touched.sum(1).max())]
        return torch.where(active == length, NO_TOKEN, active)


def pack_branches(planned: Iterable[PlannedBranch], room: int) -> Iterator[list[PlannedBranch]]:
    """Branches in order, in packs of at most ``room`` columns; branches with frozen attention and
    without go in different packs."""
    pack: list[PlannedBranch] = []
    size = 0
    for branch in planned:
        width = branch.active.shape[1]
        frozen = branch.branch.freeze_attention
        if pack and (size + width > room or frozen != pack[0].branch.freeze_attention):
            yield pack
            pack, size = [], 0
        pack.append(branch)
        size += width
    if pack:
        yield pack


def share_prefix(pack: Sequence[PlannedBranch]) -> list[PlannedBranch]:
    """A pack whose branches reuse the first branch's lower layers up to where they differ.

    Circuits that lack one head each (minimality) are equal below the lower of the two heads.
    """
    leader = pack[0]
    if not only_active_heads(leader.branch):
        return list(pack)
    shared = [leader]
    for planned in pack[1:]:
        if planned.active is leader.active and only_active_heads(planned.branch):
            first = min(first_difference(planned.branch, leader.branch), planned.last)
            if first > leader.first:
                shared.append(replace(planned, first=first, leader=leader))
                continue
        shared.append(planned)
    return shared


def only_active_heads(branch: Branch) -> bool:
    """Whether active heads and MLPs are all that a branch consists of."""
    return branch.freeze_attention and not (branch.edits or branch.readings or branch.knockouts)


def first_difference(branch: Branch, other: Branch) -> int:
    """Lowest layer whose active heads or MLPs differ; above all layers where none do."""
    first, second = (
        {(heads.layer, heads.heads, id(heads.at)) for heads in each.active_heads}
        | {(mlp.layer, "mlp", id(mlp.at)) for mlp in each.active_mlps}
        for each in (branch, other)
    )
    return min((layer for layer, *_ in first ^ second), default=1 << 30)


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
