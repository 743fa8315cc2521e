"""Which tokens a branch can change, and where the tokens of several branches stand side by side.

A branch that edits row r at position p changes nothing before p (attention looks back only), and
nothing below its lowest edited layer. A held branch changes nothing but the tokens it names: z
carries all that flows between tokens. The tokens that a branch may change are *active*; they are
computed anew, all others come from the run. Several branches of one run stand beside each other as
further tokens of the same rows, each seeing the run's tokens and its own.

Shapes as in `interface`; T active tokens of a branch, N branches, W tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Tokens
from pytest_mechanism.engine.reference import index, positions

NOWHERE = -1
"""Stands for no token in rows that have fewer active ones."""

ROOM = 4
"""A prompt has room behind its keys and values for a quarter of its tokens (`replay.SharedCache`)."""


class Where(NamedTuple):
    """Tokens of a layout.

    Attributes:
        columns: [R, K].
        found: [R, K], False where a position is not active; None where all are.
    """

    columns: Tensor
    found: Tensor | None


@dataclass(frozen=True, eq=False)
class Planned:
    """A branch and what of it must be computed.

    Attributes:
        branch: as asked for.
        active: [R, T] token positions, `NOWHERE` at the end of rows with fewer.
        first: lowest layer that is computed for it.
        last: highest layer that is needed.
        leader: another branch with the same active tokens, which is this one below ``first``; None
            where it is the run.
    """

    branch: Branch
    active: Tensor
    first: int
    last: int
    leader: Planned | None = None


@dataclass
class Memo:
    """What has been found out about tensors; a GPU is waited for whenever something is."""

    known: dict[Hashable, tuple[Any, tuple[object, ...]]] = field(default_factory=dict)

    def __call__(self, what: Hashable, about: Sequence[object], find: Callable[[], Any]) -> Any:
        """Found once, for the very tensors that it is ``about``, in this order. They are kept, so
        that no other gets their id."""
        key = (what, tuple(map(id, about)))
        if key not in self.known:
            self.known[key] = (find(), tuple(about))
        return self.known[key][0]


@dataclass
class Planner:
    """Plans branches of one run; branches that share position tensors share their active tokens."""

    tokens: Tokens
    n_layers: int
    memo: Memo = field(default_factory=Memo)

    def plan(self, branch: Branch) -> Planned:
        named: list[Tensor | None] = [
            *(e.at for e in branch.edits),
            *(r.at for r in branch.readings),
            *(a.at for a in branch.alive if branch.held),
            *(k.queries for k in branch.knockouts),
        ]
        different = {id(at): at for at in named}
        active = self.memo(
            ("active", branch.held, branch.answer),
            [different[key] for key in sorted(different)],
            partial(self.active, branch, named),
        )
        layers = [
            *(e.site.layer for e in branch.edits),
            *(r.site.layer for r in branch.readings),
            *(a.layer for a in branch.alive if branch.held),
            *(k.layer for k in branch.knockouts),
        ]
        heard = [r.site.layer for r in branch.readings]
        highest = self.n_layers - 1
        return Planned(
            branch,
            active,
            first=min(layers, default=highest),
            last=highest if branch.answer else max(heard, default=-1),
        )

    def active(self, branch: Branch, named: Iterable[Tensor | None]) -> Tensor:
        """[R, T]."""
        rows, length = self.tokens.ids.shape
        device = self.tokens.ids.device
        everywhere = torch.arange(length, device=device).expand(rows, length)
        touched = torch.zeros(rows, length, dtype=torch.bool, device=device)
        for at in named:
            touched.scatter_(1, positions(self.tokens, at), value=True)
        real = everywhere <= self.tokens.last[:, None]
        touched &= real
        if branch.answer or not touched.any():
            touched.scatter_(1, self.tokens.last[:, None], value=True)
        if not branch.held:
            touched = touched.cummax(dim=1).values & real
        found = torch.where(touched, everywhere, length).sort(dim=1).values
        found = found[:, : int(touched.sum(1).max())]
        return torch.where(found == length, NOWHERE, found)


def packs(planned: Iterable[Planned], room: int) -> Iterator[list[Planned]]:
    """Branches in order, together while their tokens fit into ``room`` tokens a row."""
    pack: list[Planned] = []
    size = 0
    for each in planned:
        width = each.active.shape[1]
        if pack and (size + width > room or each.branch.held != pack[0].branch.held):
            yield pack
            pack, size = [], 0
        pack.append(each)
        size += width
    if pack:
        yield pack


def led(pack: Sequence[Planned]) -> list[Planned]:
    """A pack in which held branches follow the first one up to where they differ: circuits that lack
    one head each (minimality) are the same below the lowest of the two."""
    leader = pack[0]
    if not bare(leader.branch):
        return list(pack)
    found = [leader]
    for each in pack[1:]:
        if each.active is leader.active and bare(each.branch):
            parted = min(parting(each.branch, leader.branch), each.last)
            if parted > leader.first:
                found.append(replace(each, first=parted, leader=leader))
                continue
        found.append(each)
    return found


def bare(branch: Branch) -> bool:
    """Whether what is alive is all that makes a branch."""
    return branch.held and not (branch.edits or branch.readings or branch.knockouts)


def parting(one: Branch, other: Branch) -> int:
    """Lowest layer in which different heads are alive; beyond all layers where none are."""
    both = [{(a.layer, a.heads, id(a.at)) for a in each.alive} for each in (one, other)]
    return min((layer for layer, *_ in both[0] ^ both[1]), default=1 << 30)


@dataclass(frozen=True, eq=False)
class Layout:
    """Tokens of several branches, side by side; branches that start lower stand before others, so
    that the tokens of a layer are the first ones of the layout.

    Attributes:
        tokens: the run's.
        members: the branches, by first layer.
        memo: of this and other layouts of these tokens.
    """

    tokens: Tokens
    members: Sequence[Planned]
    memo: Memo = field(default_factory=Memo)

    @cached_property
    def starts(self) -> list[int]:
        """Column of each member's first token."""
        found, column = [], 0
        for member in self.members:
            found.append(column)
            column += member.active.shape[1]
        return found

    @cached_property
    def raw(self) -> Tensor:
        return torch.cat([member.active for member in self.members], dim=1)

    @cached_property
    def positions(self) -> Tensor:
        """[R, W]; 0 where there is no token."""
        return self.raw.clamp(min=0)

    @cached_property
    def owner(self) -> Tensor:
        """[W], which member."""
        owners = (i for i, m in enumerate(self.members) for _ in range(m.active.shape[1]))
        return index(tuple(owners), self.raw.device)

    def origin(self, member: int) -> int | None:
        """First column of the branch that a member follows below its first layer, if there is one."""
        leader = self.members[member].leader
        return None if leader is None else self.starts[self.members.index(leader)]

    def width(self, layer: int) -> int:
        """Tokens that are computed in a layer."""
        return sum(m.active.shape[1] for m in self.members if m.first <= layer)

    def where(self, member: int, at: Tensor | None) -> Where:
        """Columns of a member's token positions."""
        active = self.members[member].active

        def find() -> Where:
            same = active[:, None, :] == positions(self.tokens, at)[:, :, None]
            found = same.any(-1)
            return Where(same.int().argmax(-1), None if bool(found.all()) else found)

        columns, present = self.memo("where", (active, at), find)
        return Where(columns + self.starts[member], present)

    @cached_property
    def present(self) -> Tensor:
        """[R, W], where there is a token."""
        return self.raw != NOWHERE

    @cached_property
    def replaced(self) -> Tensor:
        """[R, N, S]: which of the run's tokens a member computes anew."""
        rows, length = self.tokens.ids.shape
        found = torch.zeros(
            rows, len(self.members), length + 1, dtype=torch.bool, device=self.raw.device
        )
        # absent tokens replace a column that is cut off again
        spots = torch.where(self.present, self.positions, length)
        found[torch.arange(rows, device=spots.device)[:, None], self.owner[None], spots] = True
        return found[:, :, :-1]

    @cached_property
    def prefix(self) -> int:
        """How many of the run's tokens are looked at: up to the last that some member sees as it
        was. All of them where few are left out, since hiding those is cheaper than copying the rest
        to stand right before the branches' own."""
        length = self.tokens.ids.shape[1]

        def find() -> int:
            seen = ((~self.replaced).any(1) & self.tokens.mask.bool()).any(0)
            return int((seen * torch.arange(1, length + 1, device=seen.device)).max())

        actives = {id(m.active): m.active for m in self.members}
        found: int = self.memo("prefix", [actives[key] for key in sorted(actives)], find)
        return length if length - found <= length // ROOM else found

    def mask(self, visible: Tensor, dtype: torch.dtype) -> Tensor:
        """[R, 1, W, `prefix` + W], added to attention scores: which of the run's tokens and of the
        branches' own each token sees.

        A token sees what it saw in the run, its own branch's tokens instead of the run's where
        those are active.

        Args:
            visible: [R, S, S], queries by keys, in the run.
            dtype: of the scores.
        """
        rows, width = self.positions.shape
        index = torch.arange(rows, device=visible.device)[:, None]
        seen = visible[index, self.positions]  # [R, W, S]
        among = seen.gather(2, self.positions[:, None].expand(rows, width, width))
        own = self.owner[:, None] == self.owner[None]
        among = among & own & self.present[:, None]
        cached = seen[:, :, : self.prefix] & ~self.replaced[:, self.owner, : self.prefix]
        both = torch.cat([cached, among], dim=2)
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=both.device)
        return torch.where(both, hidden.new_zeros(()), hidden)[:, None]
