"""Edits, cuts and readings of several branches, made on the tokens that stand side by side.

Edits of different branches touch different tokens, so all that are alike in shape are made in one
go; a branch's second edit of a site comes after its first.

Shapes as in `layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Knockout, Reading, Site
from pytest_mechanism.engine.layout import Layout, Where
from pytest_mechanism.engine.reference import again, index, with_heads
from pytest_mechanism.errors import SelfCheckError

ATTENTION = ("q", "k", "v", "scores")
"""Parts that only exist where attention is computed."""


@dataclass(frozen=True, eq=False)
class Placed:
    """An edit of one member of the layout; ``own`` if it is the branch's and not the run's."""

    member: int
    edit: Edit
    own: bool


@dataclass
class Changes:
    """What happens at each site while a layout goes through the layers.

    Attributes:
        layout: the tokens.
        held: whether its branches are held.
        z: [R, S, H, d] of each layer, as it was in the run.
        edits: by site, in rounds; no two of a round belong to one member.
        cuts: by layer, (member, knockout).
        heard: by site, (member, which of its readings, reading).
        found: what was read, by (member, which).
        fired: how often each site's hook was called.
        given: layers whose z was given, so that attention was not computed.
    """

    layout: Layout
    held: bool
    z: Sequence[Tensor]
    edits: dict[Site, list[list[Placed]]] = field(default_factory=dict)
    cuts: dict[int, list[tuple[int, Knockout]]] = field(default_factory=dict)
    heard: dict[Site, list[tuple[int, int, Reading]]] = field(default_factory=dict)
    found: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    fired: dict[Site, int] = field(default_factory=dict)
    given: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, layout: Layout, run_edits: Sequence[Edit], z: Sequence[Tensor]) -> Changes:
        """All that the members ask for, and the run's edits of the tokens that they compute."""
        made = cls(layout, layout.members[0].branch.held, z)
        for i, member in enumerate(layout.members):
            turns: dict[Site, int] = {}
            for placed in made.of_member(i, run_edits):
                rounds = made.edits.setdefault(placed.edit.site, [])
                turn = turns.get(placed.edit.site, 0)
                turns[placed.edit.site] = turn + 1
                if len(rounds) == turn:
                    rounds.append([])
                rounds[turn].append(placed)
            for which, reading in enumerate(member.branch.readings):
                made.heard.setdefault(reading.site, []).append((i, which, reading))
            for knockout in member.branch.knockouts:
                made.cuts.setdefault(knockout.layer, []).append((i, knockout))
        return made

    def of_member(self, i: int, run_edits: Sequence[Edit]) -> Iterator[Placed]:
        member = self.layout.members[i]
        for edit in run_edits:
            # a held z is what it was with the run's edits in it
            if edit.site.layer >= member.first and not (self.held and edit.site.part == "z"):
                yield Placed(i, edit, own=False)
        for edit in member.branch.edits:
            yield Placed(i, edit, own=True)

    def living(self, layer: int) -> bool:
        """Whether a held branch computes some head's z in this layer."""
        return any(a.layer == layer for m in self.layout.members for a in m.branch.alive)

    def gives_z(self, layer: int, before: int) -> bool:
        """Whether every token's z is known, so that attention need not be computed.

        Args:
            layer: which.
            before: tokens that lower layers computed, whose z may have changed.
        """
        if any(Site(layer, part) in self.heard for part in ("q", "k", "v")):
            return False
        if self.held:
            return not self.living(layer)
        changed = any(
            placed.own
            for part in ("resid_pre", "q", "k", "v")
            for turn in self.edits.get(Site(layer, part), ())
            for placed in turn
        )
        return before == 0 and not changed and layer not in self.cuts

    def hooks(self, layers: range) -> dict[Site, Callable[..., Tensor | None]]:
        """A hook for every site of these layers at which something happens."""
        sites = {*self.edits, *self.heard, *(Site(layer, "scores") for layer in self.cuts)}
        if self.held:  # wherever attention is computed, most of its z is put back
            sites |= {Site(layer, "z") for layer in layers if not self.gives_z(layer, 0)}
        return {site: self.hook(site) for site in sorted(sites) if site.layer in layers}

    def hook(self, site: Site) -> Callable[..., Tensor | None]:
        def change(activation: Tensor, hook: object = None) -> Tensor | None:
            self.fired[site] = self.fired.get(site, 0) + 1
            if site.part == "scores":
                return self.cut(activation, self.cuts[site.layer])
            given = site.layer in self.given
            new = with_heads(activation)
            if site.part == "z" and self.held and not given:
                new = self.hold(new, site.layer)
            for turn in self.edits.get(site, ()):
                # a z that is given has the run's edits in it
                placed = [p for p in turn if p.own or not (given and site.part == "z")]
                if placed:
                    new = self.edited(new, placed)
            for member, which, reading in self.heard.get(site, ()):
                self.found[member, which] = self.read(new, member, reading)
            return new if activation.dim() == 4 else new.squeeze(2)

        return change

    def check(self, sites: Iterator[Site] | Sequence[Site]) -> None:
        """Every hook was called once.

        Raises:
            SelfCheckError: one was not.
        """
        for site in sites:
            expected = 0 if site.part in ATTENTION and site.layer in self.given else 1
            if self.fired.get(site, 0) != expected:
                raise SelfCheckError(
                    f"hook {site.hook} fired {self.fired.get(site, 0)} times in one layer, "
                    "so an edit there would be lost or made twice"
                )

    def readings(self, member: int) -> tuple[Tensor, ...]:
        asked = self.layout.members[member].branch.readings
        return tuple(self.found[member, which] for which in range(len(asked)))

    def edited(self, old: Tensor, turn: Sequence[Placed]) -> Tensor:
        """[R, W, heads, d] with edits of different members made, out of place so that gradients
        pass."""
        alike: dict[tuple[int, bool, bool], list[tuple[Where, Edit]]] = {}
        for placed in turn:
            edit = placed.edit
            where = self.layout.where(placed.member, edit.at)
            heads = old.shape[2] if edit.heads is None else len(edit.heads)
            kind = (heads, edit.keep is None, where.found is None)
            alike.setdefault(kind, []).append((where, edit))
        new = old.clone()
        for edits in alike.values():
            put(new, old, edits)
        return new

    def hold(self, computed: Tensor, layer: int) -> Tensor:
        """[R, W, H, d]: z as it was, computed where heads are alive."""
        rows, width, n_heads, _ = computed.shape
        row = torch.arange(rows, device=computed.device)[:, None]
        alive = torch.zeros(rows, width, n_heads, dtype=torch.bool, device=computed.device)
        for i, member in enumerate(self.layout.members):
            for place in member.branch.alive:
                if place.layer == layer >= member.first:
                    where = self.layout.where(i, place.at)
                    chosen = range(n_heads) if place.heads is None else place.heads
                    heads = index(tuple(chosen), computed.device)
                    spots = scattered(where, width)
                    alive[:, :, heads] |= spots[:, :, None]
        before = self.z[layer][row, self.layout.positions[:, :width]]
        return torch.where(alive[..., None], computed, before)

    def cut(self, scores: Tensor, cuts: Sequence[tuple[int, Knockout]]) -> Tensor:
        """[R, H, W, prefix + W] with the knocked out entries at the dtype's least number."""
        rows, n_heads, width, total = scores.shape
        prefix = total - width
        length = self.layout.tokens.ids.shape[1]
        new = scores.clone()
        for member, knockout in cuts:
            queries = scattered(self.layout.where(member, knockout.queries), width)
            columns, present = self.layout.where(member, knockout.keys)
            # a key that the branch computes anew stands among its tokens, others in the run
            keys = torch.zeros(rows, length + width, dtype=torch.bool, device=scores.device)
            active = torch.ones_like(columns, dtype=torch.bool) if present is None else present
            keys.scatter_(1, torch.where(active, columns + length, knockout.keys), value=True)
            keys = torch.cat([keys[:, :prefix], keys[:, length:]], dim=1)
            heads = range(n_heads) if knockout.heads is None else knockout.heads
            chosen = index(tuple(heads), scores.device)
            gone = (queries[:, :, None] & keys[:, None])[:, None]
            new[:, chosen] = new[:, chosen].masked_fill(gone, torch.finfo(scores.dtype).min)
        return new

    def read(self, activation: Tensor, member: int, reading: Reading) -> Tensor:
        """[R, K, heads, d]; 0 after a row's last token."""
        columns, present = self.layout.where(member, reading.at)
        rows = torch.arange(activation.shape[0], device=activation.device)[:, None]
        found = activation[rows, columns]
        if present is not None:
            found = found * present[:, :, None, None]
        if reading.heads is None:
            return found
        return found[:, :, index(tuple(reading.heads), found.device)]


def scattered(where: Where, width: int) -> Tensor:
    """[R, W], True at the columns that were found."""
    columns, present = where
    spots = torch.zeros(columns.shape[0], width + 1, dtype=torch.bool, device=columns.device)
    if present is not None:  # what is absent goes to a column that is cut off again
        columns = torch.where(present, columns, width)
    return spots.scatter_(1, columns, value=True)[:, :width]


def put(new: Tensor, old: Tensor, edits: Sequence[tuple[Where, Edit]]) -> None:
    """Edits of equal numbers of heads, written into ``new`` [R, W, H, d]."""
    rows, _, n_heads, d = old.shape
    columns, heads, values, keeps, present, repeated = [], [], [], [], [], []
    for where, edit in edits:
        chosen = tuple(range(n_heads)) if edit.heads is None else tuple(edit.heads)
        count = where.columns.shape[1]
        shape = (rows, count, len(chosen), d)
        columns.append(where.columns)
        heads.append(index(chosen, old.device).expand(count, -1))
        values.append(edit.value.to(old).expand(shape))
        if edit.keep is not None:
            keeps.append(edit.keep.to(old).expand(shape))
        if where.found is not None:
            present.append(where.found)
        repeated.append(torch.zeros_like(where.columns) if edit.at is None else again(edit.at))
    at, of = torch.cat(columns, 1)[:, :, None], torch.cat(heads)[None]
    row = torch.arange(rows, device=old.device)[:, None, None]
    value = torch.cat(values, 1)
    if keeps:
        keep = torch.cat(keeps, 1)
        value = keep * old[row, at, of] + (1 - keep) * value
    if value.requires_grad:
        value = torch.where(torch.cat(repeated, 1).bool()[:, :, None, None], value.detach(), value)
    if present:
        r, column = torch.cat(present, 1).nonzero(as_tuple=True)
        new[r[:, None], at[r, column], of[0, column]] = value[r, column]
    else:
        new[row, at, of] = value
