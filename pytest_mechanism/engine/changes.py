"""Edits, knockouts and readings, as the branch engine makes them on columns of tokens.

Edits of different branches touch different columns, so those of equal shape are made in one go; a
branch's second edit of a site comes after its first.

Shapes as in `layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pytest_mechanism.engine.activations import gather, marked, put
from pytest_mechanism.engine.finite import not_finite
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    Branch,
    Edit,
    Knockout,
    Positions,
    Reading,
    Site,
)
from pytest_mechanism.engine.layout import Layout
from pytest_mechanism.engine.plumbing import (
    LOST_OR_TWICE,
    check_hook_count,
    index_tensor,
    positions,
    with_heads,
)
from pytest_mechanism.engine.record import Record

ATTENTION = ("q", "k", "v", "scores")
"""Parts that exist only where attention is computed."""


@dataclass(frozen=True, eq=False)
class MemberEdit:
    """An edit of one member of the layout.

    Attributes:
        member: its number.
        edit: what to do.
        own: whether it is the branch's edit and not the run's.
    """

    member: int
    edit: Edit
    own: bool


@dataclass
class Changes:
    """What happens at each site while a layout goes through the layers.

    Attributes:
        layout: the columns.
        frozen: whether the branches' attention is frozen.
        record: of the run.
        edits: by site, in rounds; no two of a round belong to one member.
        cuts: by layer, (member, knockout).
        wanted: by site, (member, number of its reading, reading).
        values: what was read, by (member, number).
        fired: how often each site's hook was called.
        skipped: layers whose z is known, so that attention was not computed.
        bad_rows: rows whose readings are not finite, an entry for each reading that was made together.
    """

    layout: Layout
    frozen: bool
    record: Record
    edits: dict[Site, list[list[MemberEdit]]] = field(default_factory=dict)
    cuts: dict[int, list[tuple[int, Knockout]]] = field(default_factory=dict)
    wanted: dict[Site, list[tuple[int, int, Reading]]] = field(default_factory=dict)
    values: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    fired: dict[Site, int] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    bad_rows: list[Bool[Tensor, " rows"]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        layout: Layout,
        run_edits: Sequence[Edit],
        record: Record,
    ) -> Changes:
        """All that the members ask for, and the run's edits of the tokens that they compute."""
        changes = cls(layout, layout.members[0].branch.freeze_attention, record)
        for i, member in enumerate(layout.members):
            next_round: dict[Site, int] = {}
            for member_edit in changes.of_member(i, run_edits):
                site = member_edit.edit.site
                rounds = changes.edits.setdefault(site, [])
                number = next_round.get(site, 0)
                next_round[site] = number + 1
                if len(rounds) == number:
                    rounds.append([])
                rounds[number].append(member_edit)
            for number, reading in enumerate(member.branch.readings):
                changes.wanted.setdefault(reading.site, []).append((i, number, reading))
            for knockout in member.branch.knockouts:
                changes.cuts.setdefault(knockout.layer, []).append((i, knockout))
        return changes

    def of_member(self, i: int, run_edits: Sequence[Edit]) -> Iterator[MemberEdit]:
        member = self.layout.members[i]
        for edit in run_edits:
            # frozen z has the run's edits in it
            if edit.site.layer >= member.first and not (self.frozen and edit.site.part == "z"):
                yield MemberEdit(i, self.where_inactive(member.branch, edit), own=False)
        for edit in member.branch.edits:
            yield MemberEdit(i, edit, own=True)

    def where_inactive(self, branch: Branch, edit: Edit) -> Edit:
        """A run's edit, which keeps an MLP's output where the branch has the MLP active."""
        named = [mlp.at for mlp in branch.active_mlps if edit.site == Site(mlp.layer, "mlp_out")]
        if not named:
            return edit
        tokens = self.layout.tokens
        active = torch.zeros(tokens.ids.shape, dtype=torch.bool, device=tokens.ids.device)
        for at in named:
            active.scatter_(1, positions(tokens, at), value=True)
        there = active.gather(1, positions(tokens, edit.at))[:, :, None, None]
        keep = torch.zeros((), device=there.device) if edit.keep is None else edit.keep
        return replace(edit, keep=torch.where(there, torch.ones_like(keep), keep))

    def has_active_heads(self, layer: int) -> bool:
        """Whether a branch with frozen attention computes some head's z in this layer."""
        return layer in self.active_heads

    @cached_property
    def active_heads(self) -> dict[int, list[tuple[int, ActiveHeads]]]:
        """By layer, (member, heads whose z it computes there)."""
        by_layer: dict[int, list[tuple[int, ActiveHeads]]] = {}
        for i, member in enumerate(self.layout.members):
            for named in member.branch.active_heads:
                members = by_layer.setdefault(named.layer, [])
                if named.layer >= member.first:
                    members.append((i, named))
        return by_layer

    def knows_z(self, layer: int, before: int) -> bool:
        """Whether every column's z is known, so that attention need not be computed.

        Args:
            layer: which.
            before: columns that lower layers computed, whose z may have changed.
        """
        if any(Site(layer, part) in self.wanted for part in ("q", "k", "v")):
            return False
        if self.frozen:
            return not self.has_active_heads(layer)
        changed = any(
            member_edit.own
            for part in ("resid_pre", "q", "k", "v")
            for one_round in self.edits.get(Site(layer, part), ())
            for member_edit in one_round
        )
        return before == 0 and not changed and layer not in self.cuts

    def hooks(self, layers: range) -> dict[Site, Callable[..., Tensor | None]]:
        """A hook for every site of these layers at which something happens."""
        sites = {*self.edits, *self.wanted, *(Site(layer, "scores") for layer in self.cuts)}
        if self.frozen:  # wherever attention is computed, most of its z is put back
            sites |= {Site(layer, "z") for layer in layers if not self.knows_z(layer, 0)}
        return {site: self.hook(site) for site in sorted(sites) if site.layer in layers}

    def hook(self, site: Site) -> Callable[..., Tensor | None]:
        return lambda activation, hook=None: self.changed(site, activation)

    def changed(self, site: Site, activation: Tensor) -> Tensor:
        """The activation at a site, after everything that happens there."""
        self.fired[site] = self.fired.get(site, 0) + 1
        if site.part == "scores":
            return self.cut(activation, self.cuts[site.layer])
        skipped = site.layer in self.skipped
        columns = self.layout.into_columns(activation)
        new = with_heads(columns)
        if site.part == "z" and self.frozen and not skipped:
            new = self.freeze(new, site.layer)
        for one_round in self.edits.get(site, ()):
            # a z that is known has the run's edits in it
            made = [e for e in one_round if e.own or not (skipped and site.part == "z")]
            if made:
                new = self.edited(new, made)
        if wanted := self.wanted.get(site):
            self.read(new, wanted)
        return self.layout.into_rows(new if columns.dim() == 4 else new.squeeze(2))

    def check(self, sites: Iterable[Site]) -> None:
        """Every hook was called once.

        Raises:
            SelfCheckError: one was not.
        """
        for site in sites:
            expected = 0 if site.part in ATTENTION and site.layer in self.skipped else 1
            when = f"in one layer, {LOST_OR_TWICE}"
            check_hook_count(site.hook, self.fired.get(site, 0), expected, when)

    def readings(self, member: int) -> tuple[Tensor, ...]:
        wanted = self.layout.members[member].branch.readings
        return tuple(self.values[member, number] for number in range(len(wanted)))

    def edited(
        self, old: Float[Tensor, "rows columns heads width"], edits: Sequence[MemberEdit]
    ) -> Float[Tensor, "rows columns heads width"]:
        """The activation after edits of different members, out of place so that gradients pass."""
        of_shape: dict[tuple[int, int, bool, bool], list[MemberEdit]] = {}
        for member_edit in edits:
            edit = member_edit.edit
            location = self.layout.among_own(member_edit.member, edit.at)
            heads = old.shape[2] if edit.heads is None else len(edit.heads)
            count = location.columns.shape[1]
            shape = (heads, count, edit.keep is None, location.computed is None)
            of_shape.setdefault(shape, []).append(member_edit)
        new = old.clone()
        for alike in of_shape.values():
            location = self.layout.locate_all([(each.member, each.edit.at) for each in alike])
            put(new, old, location, [each.edit for each in alike])
        return new

    def freeze(
        self, computed: Float[Tensor, "rows columns heads d_head"], layer: int
    ) -> Float[Tensor, "rows columns heads d_head"]:
        """The run's z, but the computed one where heads are active."""
        rows, width, n_heads, _ = computed.shape
        active = torch.zeros(rows, width, n_heads, dtype=torch.bool, device=computed.device)
        of_heads: dict[tuple[int, ...], list[tuple[int, Positions | None]]] = {}
        for i, named in self.active_heads.get(layer, ()):
            chosen = tuple(range(n_heads) if named.heads is None else named.heads)
            of_heads.setdefault(chosen, []).append((i, named.at))
        for chosen, places in of_heads.items():
            heads = index_tensor(chosen, computed.device)
            active[:, :, heads] |= marked(self.layout.locate_all(places), width)[:, :, None]
        columns = self.layout.positions_from(self.record.extent.start)[:, :width]
        in_run = self.record.z[layer][self.layout.rows, columns]
        return torch.where(active[..., None], computed, in_run)

    def cut(
        self, scores: Float[Tensor, "rows heads columns keys"], cuts: Sequence[tuple[int, Knockout]]
    ) -> Float[Tensor, "rows heads columns keys"]:
        """Attention scores over the run's first keys and all columns, with the knocked-out entries
        at the dtype's lowest number."""
        rows, n_heads, width, total = scores.shape
        prefix = total - width
        length = self.layout.tokens.ids.shape[1]
        new = scores.clone()
        for member, knockout in cuts:
            queries = marked(self.layout.locate(member, knockout.queries), width)
            columns, computed = self.layout.locate(member, knockout.keys)
            # a key that the branch computes anew is among its columns, other keys are the run's
            keys = torch.zeros(rows, length + width, dtype=torch.bool, device=scores.device)
            anew = torch.ones_like(columns, dtype=torch.bool) if computed is None else computed
            keys.scatter_(1, torch.where(anew, columns + length, knockout.keys), value=True)
            keys = torch.cat([keys[:, :prefix], keys[:, length:]], dim=1)
            chosen = range(n_heads) if knockout.heads is None else knockout.heads
            heads = index_tensor(tuple(chosen), scores.device)
            gone = (queries[:, :, None] & keys[:, None])[:, None]
            new[:, heads] = new[:, heads].masked_fill(gone, torch.finfo(scores.dtype).min)
        return new

    def read(
        self,
        activation: Float[Tensor, "rows columns heads width"],
        wanted: Sequence[tuple[int, int, Reading]],
    ) -> None:
        """What members' readings name, into `values`; 0 after a row's last token."""
        of_shape: dict[tuple[tuple[int, ...] | None, int], list[tuple[int, int, Reading]]] = {}
        for member, number, reading in wanted:
            count = self.layout.among_own(member, reading.at).columns.shape[1]
            of_shape.setdefault((reading.heads, count), []).append((member, number, reading))
        for (heads, count), alike in of_shape.items():
            columns, computed = self.layout.locate_all([(m, reading.at) for m, _, reading in alike])
            values = gather(activation, columns, heads)
            if computed is not None:
                values = values.masked_fill(~computed.to(values.device)[:, :, None, None], 0)
            bad_rows = not_finite(values.detach().flatten(2)).any(1)
            self.bad_rows.append(bad_rows.to(self.layout.tokens.ids.device))
            for (member, number, _), value in zip(alike, values.split(count, 1), strict=True):
                self.values[member, number] = value
