"""Which tokens and layers a branch must compute, and which branches go side by side.

A branch that edits row r at position p changes nothing before p (attention looks back only; in a
model whose attention looks ahead, the branch changes the whole row) and nothing below its lowest
edited layer. A branch with frozen attention changes only the tokens that it names, since z carries
all that flows between tokens. The tokens that a branch may change are *active*: the engine computes
them anew, and takes all others from the run.

Shapes: ``active`` tokens of a branch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Tokens
from pytest_mechanism.engine.plumbing import positions

NO_TOKEN = -1
"""Fills up rows that have fewer active tokens than another."""


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
    last: tuple[tuple[int, ...], dict[Hashable, Any], Sequence[object]] | None = None

    def of_last(self, tensors: Sequence[object]) -> dict[Hashable, Any]:
        """What is remembered of these tensors, in this order, as long as no others are asked for."""
        identities = tuple(map(id, tensors))
        if self.last is None or self.last[0] != identities:
            self.last = (identities, {}, tensors)
        return self.last[1]

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


def pack_branches(
    planned: Iterable[PlannedBranch], room: int, room_apart: int = 0
) -> Iterator[list[PlannedBranch]]:
    """Branches in order, in packs; branches with frozen attention and without go in different packs.

    Args:
        planned: the branches.
        room: columns of a pack.
        room_apart: of a pack whose branches can be `apart`, if it is more.
    """
    pack: list[PlannedBranch] = []
    size, alike = 0, False
    for branch in planned:
        width = branch.active.shape[1]
        frozen = branch.branch.freeze_attention
        joins = apart([*pack[:1], branch]) and (alike or not pack)
        full = size + width > (max(room, room_apart) if joins else room)
        if pack and (full or frozen != pack[0].branch.freeze_attention):
            yield pack
            pack, size, joins = [], 0, apart([branch])
        pack.append(branch)
        size += width
        alike = joins
    if pack:
        yield pack


WIDE = 16
"""Least number of active tokens of a branch that gets separate rows."""


def apart(branches: Sequence[PlannedBranch]) -> bool:
    """Whether branches can go through the layers in separate rows. In the same rows, most of what wide
    branches compute would be attention scores of each other's keys, which the mask hides."""
    width = branches[0].active.shape[1]
    return width >= WIDE and all(
        planned.active.shape[1] == width
        and planned.branch.answer == branches[0].branch.answer
        and not planned.branch.knockouts
        for planned in branches
    )


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
