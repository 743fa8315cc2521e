"""The reference engine: one full hooked forward for every branch. Slow and obviously right.

It is the truth that the branch engine is checked against, so it shares no arithmetic with it
(`plumbing` says what both use).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pytest_mechanism.engine.finite import NonFiniteRows
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    ActiveMlp,
    Branch,
    Edit,
    Knockout,
    Outcome,
    Positions,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.engine.plumbing import (
    LOST_OR_TWICE,
    at_least_float,
    check_hook_count,
    index_tensor,
    knockouts_take_effect,
    positions,
    readings_by_site,
    with_heads,
)
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.model_families.wrapped import WrappedModel


def select(
    activation: Float[Tensor, "rows tokens heads width"],
    at: Positions | None,
    heads: tuple[int, ...] | None,
) -> Float[Tensor, "rows _ _ width"]:
    """The activation of some heads at some positions."""
    if at is not None:
        rows = torch.arange(activation.shape[0], device=activation.device)[:, None]
        activation = activation[rows, at.to(activation.device)]
    if heads is None:
        return activation
    return activation[:, :, index_tensor(tuple(heads), activation.device)]


def recorded(
    activation: Float[Tensor, "rows tokens *heads width"], reading: Reading
) -> Float[Tensor, "rows _ _ width"]:
    """A copy of what a reading names: a later hook may write into the same storage, and the rest of
    the activation need not stay in memory."""
    whole = with_heads(activation)
    part = select(whole, reading.at, reading.heads)
    return part.clone() if part is whole else part


def edited(
    activation: Float[Tensor, "rows tokens *heads width"], edit: Edit
) -> Float[Tensor, "rows tokens *heads width"]:
    """The activation after an edit, out of place so that gradients pass."""
    old = with_heads(activation)
    chosen = select(old, edit.at, edit.heads)
    value = edit.value.to(old)  # layers may be on several devices
    if edit.keep is not None:
        keep = edit.keep.to(old)
        value = keep * chosen + (1 - keep) * value
    value = value.expand_as(chosen)
    if value.requires_grad and edit.at is not None:
        repeats = is_repeat(edit.at).to(old.device)
        value = torch.where(repeats[:, :, None, None], value.detach(), value)
    if edit.at is None and edit.heads is None:
        new = value.contiguous()  # some families take views of it
    else:
        new = old.clone()
        rows = torch.arange(old.shape[0], device=old.device)[:, None, None]
        at = torch.arange(old.shape[1], device=old.device)[None] if edit.at is None else edit.at
        heads = range(old.shape[2]) if edit.heads is None else edit.heads
        new[rows, at.to(old.device)[:, :, None], index_tensor(tuple(heads), old.device)] = value
    return new if activation.dim() == 4 else new.squeeze(2)


def is_repeat(at: Positions) -> Bool[Tensor, "rows places"]:
    """Where a row has named the position before. Written to the same place with the same value, a
    repeat would count once more in a gradient."""
    return (at[:, :, None] == at[:, None, :]).tril(-1).any(-1)


def cut(
    scores: Float[Tensor, "rows heads tokens tokens"], knockout: Knockout
) -> Float[Tensor, "rows heads tokens tokens"]:
    """Attention scores with the knocked-out entries at the dtype's lowest number."""
    rows = torch.arange(scores.shape[0], device=scores.device)[:, None, None, None]
    heads = range(scores.shape[1]) if knockout.heads is None else knockout.heads
    new = scores.clone()
    new[
        rows,
        index_tensor(tuple(heads), scores.device)[None, :, None, None],
        knockout.queries.to(scores.device)[:, None, :, None],
        knockout.keys.to(scores.device)[:, None, None, :],
    ] = torch.finfo(scores.dtype).min
    return new


def active_mask(
    tokens: Tokens, active_heads: Sequence[ActiveHeads], layer: int, n_heads: int
) -> Float[Tensor, "rows tokens heads 1"]:
    """1 where a branch with frozen attention computes z, else 0."""
    rows, length = tokens.ids.shape
    mask = torch.zeros(rows, length, n_heads, 1, device=tokens.ids.device)
    row = torch.arange(rows, device=tokens.ids.device)[:, None, None]
    for active in active_heads:
        if active.layer == layer:
            heads = range(n_heads) if active.heads is None else active.heads
            at = positions(tokens, active.at)[:, :, None]
            mask[row, at, index_tensor(tuple(heads), mask.device)] = 1
    return mask


def without_active_mlps(
    tokens: Tokens, edits: Sequence[Edit], active: Sequence[ActiveMlp]
) -> list[Edit]:
    """A run's edits, of which those of MLPs' outputs change nothing where the MLP is active."""
    layers = {mlp.layer for mlp in active}
    kept: list[Edit] = []
    for edit in edits:
        if edit.site.part != "mlp_out" or edit.site.layer not in layers:
            kept.append(edit)
            continue
        rows, length = tokens.ids.shape
        everywhere = torch.zeros(rows, length, device=tokens.ids.device)
        row = torch.arange(rows, device=everywhere.device)[:, None]
        for mlp in active:
            if mlp.layer == edit.site.layer:
                everywhere[row, positions(tokens, mlp.at)] = 1
        active_there = everywhere[row, positions(tokens, edit.at)][:, :, None, None]
        share = 0 if edit.keep is None else edit.keep
        kept.append(replace(edit, keep=torch.where(active_there == 1, 1, share)))
    return kept


class SiteHook:
    """What happens at a site in one forward.

    Attributes:
        changes: edits and knockouts, in order.
        wanted: (number of the reading, reading).
        values: what was read, by number.
        fired: how often the hook was called.
    """

    def __init__(
        self,
        changes: Sequence[Callable[[Tensor], Tensor]],
        wanted: Sequence[tuple[int, Reading]],
    ) -> None:
        self.changes, self.wanted = changes, wanted
        self.values: dict[int, Tensor] = {}
        self.fired = 0

    def __call__(self, activation: Tensor, hook: object = None) -> Tensor | None:
        self.fired += 1
        new = activation
        for change in self.changes:
            new = change(new)
        for number, reading in self.wanted:
            self.values[number] = recorded(new, reading)
        return new if self.changes else None


def hooked_forward(
    model: WrappedModel,
    tokens: Tokens,
    edits: Sequence[Edit],
    readings: Sequence[Reading],
    knockouts: Sequence[Knockout] = (),
) -> Outcome:
    """One full forward with hooks.

    Raises:
        SelfCheckError: a hook did not fire exactly once, or fired when its activation had been used.
    """
    changes: dict[Site, list[Callable[[Tensor], Tensor]]] = {}
    for edit in edits:
        changes.setdefault(edit.site, []).append(partial(edited, edit=edit))
    for knockout in knockouts:
        site = Site(knockout.layer, "scores")
        changes.setdefault(site, []).append(partial(cut, knockout=knockout))
    by_site = readings_by_site(readings)
    hooks = {
        site: SiteHook(changes.get(site, ()), by_site.get(site, ()))
        for site in sorted({*changes, *by_site})
    }
    with knockouts_take_effect() if knockouts else nullcontext(), row_lengths(tokens.lengths):
        logits = model.forward(
            tokens.ids,
            tokens.mask_for(model.plain),
            [(site.hook, hook) for site, hook in hooks.items()],
        )
    values: dict[int, Tensor] = {}
    for site, hook in hooks.items():
        check_hook_count(site.hook, hook.fired, 1, f"in one forward, {LOST_OR_TWICE}")
        values |= hook.values
    device = tokens.ids.device
    rows = torch.arange(tokens.ids.shape[0], device=device)
    return Outcome(
        at_least_float(logits.to(device)[rows, tokens.last]),
        tuple(values[number].to(device) for number in range(len(readings))),
    )


@dataclass
class ReferenceEngine:
    """See the module.

    Attributes:
        model: the model under hooks.
        tick: called with the number of rows of each forward.
        name: part of every measurement's key.
        non_finite: remembers rows on which the model gave NaN or infinity.
    """

    model: WrappedModel
    tick: Callable[[int], None] | None = None
    name: str = "reference"
    non_finite: NonFiniteRows = field(default_factory=NonFiniteRows)

    def run(
        self,
        tokens: Tokens,
        edits: Sequence[Edit] = (),
        readings: Sequence[Reading] = (),
        *,
        answer: bool = True,
    ) -> ReferenceRun:
        return ReferenceRun(self, tokens, tuple(edits), tuple(readings), answer)

    def forward(
        self,
        tokens: Tokens,
        edits: Sequence[Edit],
        readings: Sequence[Reading],
        knockouts: Sequence[Knockout] = (),
    ) -> Outcome:
        outcome = hooked_forward(self.model, tokens, edits, readings, knockouts)
        if self.tick is not None:
            self.tick(tokens.ids.shape[0])
        return outcome


@dataclass
class ReferenceRun:
    """A run of the reference engine; its branches reuse nothing of it but frozen z."""

    engine: ReferenceEngine
    tokens: Tokens
    edits: tuple[Edit, ...]
    readings: tuple[Reading, ...]
    answer: bool = True

    @cached_property
    def outcome(self) -> Outcome:
        """Computed on first use: a run of which only branches matter costs nothing."""
        with torch.no_grad():
            outcome = self.engine.forward(self.tokens, self.edits, self.readings)
        return self.checked(outcome, self.readings, self.answer)

    @cached_property
    def z(self) -> tuple[Float[Tensor, "rows tokens heads d_head"], ...]:
        """z of every layer, which branches with frozen attention keep."""
        layers = range(len(self.engine.model.layers))
        with torch.no_grad():
            return self.engine.forward(
                self.tokens, self.edits, [Reading(Site(layer, "z")) for layer in layers]
            ).readings

    def branches(self, branches: Iterable[Branch], gradients: bool = False) -> Iterator[Outcome]:
        for branch in branches:
            edits = self.frozen_edits(branch) if branch.freeze_attention else self.edits
            edits = without_active_mlps(self.tokens, edits, branch.active_mlps)
            with torch.set_grad_enabled(gradients):
                outcome = self.engine.forward(
                    self.tokens, (*edits, *branch.edits), branch.readings, branch.knockouts
                )
            yield self.checked(outcome, branch.readings, branch.answer)

    def frozen_edits(self, branch: Branch) -> list[Edit]:
        """The run's edits, with those of z replaced by the z that the run had."""
        others = [edit for edit in self.edits if edit.site.part != "z"]
        return others + [
            Edit(
                Site(layer, "z"),
                z,
                keep=active_mask(self.tokens, branch.active_heads, layer, z.shape[2]),
            )
            for layer, z in enumerate(self.z)
        ]

    def checked(self, outcome: Outcome, readings: Sequence[Reading], answer: bool) -> Outcome:
        """The outcome, without logits that nobody wants, after a look for NaN and infinity."""
        if not answer:
            outcome = Outcome(outcome.logits[:, :0], outcome.readings)
        return self.engine.non_finite.check(self.tokens, outcome, readings)
