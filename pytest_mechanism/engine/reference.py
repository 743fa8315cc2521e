"""The reference engine: one full hooked forward for every branch. Slow and obviously right."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.rotary import seen
from pytest_mechanism.engine.finite import Finite
from pytest_mechanism.engine.interface import (
    Alive,
    Branch,
    Edit,
    Knockout,
    Outcome,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.errors import SelfCheckError


def with_heads(activation: Tensor) -> Tensor:
    """[R, S, H, d]; sites without heads count as one."""
    return activation if activation.dim() == 4 else activation.unsqueeze(2)


def by_place(readings: Sequence[Reading]) -> dict[Site, list[tuple[int, Reading]]]:
    """Site -> (which reading, reading)."""
    found: dict[Site, list[tuple[int, Reading]]] = {}
    for which, reading in enumerate(readings):
        found.setdefault(reading.site, []).append((which, reading))
    return found


@lru_cache(maxsize=1 << 12)
def index(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """[N]. Kept, since a GPU is waited for whenever numbers are carried to it."""
    return torch.tensor(numbers, dtype=torch.long, device=device)


def select(activation: Tensor, at: Tensor | None, heads: tuple[int, ...] | None) -> Tensor:
    """[R, K, heads, d] out of [R, S, H, d]."""
    if at is not None:
        rows = torch.arange(activation.shape[0], device=activation.device)[:, None]
        activation = activation[rows, at.to(activation.device)]
    return activation if heads is None else activation[:, :, index(tuple(heads), activation.device)]


def taken(activation: Tensor, reading: Reading) -> Tensor:
    """What a reading asks for, as a copy: a later hook may write into the same storage, and the
    rest of it need not be kept."""
    whole = with_heads(activation)
    part = select(whole, reading.at, reading.heads)
    return part.clone() if part is whole else part


def edited(activation: Tensor, edit: Edit) -> Tensor:
    """The activation with an edit made, out of place so that gradients pass."""
    old = with_heads(activation)
    chosen = select(old, edit.at, edit.heads)
    value = edit.value.to(old)  # layers may be on several devices
    if edit.keep is not None:
        keep = edit.keep.to(old)
        value = keep * chosen + (1 - keep) * value
    value = value.expand_as(chosen)
    if value.requires_grad and edit.at is not None:
        repeated = again(edit.at).to(old.device)
        value = torch.where(repeated[:, :, None, None], value.detach(), value)
    if edit.at is None and edit.heads is None:
        new = value.contiguous()  # some families take views of it
    else:
        new = old.clone()
        rows = torch.arange(old.shape[0], device=old.device)[:, None, None]
        at = torch.arange(old.shape[1], device=old.device)[None] if edit.at is None else edit.at
        heads = range(old.shape[2]) if edit.heads is None else edit.heads
        new[rows, at.to(old.device)[:, :, None], index(tuple(heads), old.device)] = value
    return new if activation.dim() == 4 else new.squeeze(2)


def again(at: Tensor) -> Tensor:
    """[R, K], True where a row has named the position before: written to the same place with the
    same value, it would count in a gradient once more."""
    return (at[:, :, None] == at[:, None, :]).tril(-1).any(-1)


def at_least_float(logits: Tensor) -> Tensor:
    """Half precision is widened before anything is added up."""
    return logits if logits.dtype is torch.float64 else logits.float()


def positions(tokens: Tokens, at: Tensor | None) -> Tensor:
    """[R, K]; every position where none is named."""
    if at is not None:
        return at
    rows, length = tokens.ids.shape
    return torch.arange(length, device=tokens.ids.device).expand(rows, length)


def cut(scores: Tensor, knockout: Knockout) -> Tensor:
    """[R, H, S, S] with the knocked out entries at the dtype's least number."""
    rows = torch.arange(scores.shape[0], device=scores.device)[:, None, None, None]
    heads = range(scores.shape[1]) if knockout.heads is None else knockout.heads
    new = scores.clone()
    new[
        rows,
        index(tuple(heads), scores.device)[None, :, None, None],
        knockout.queries.to(scores.device)[:, None, :, None],
        knockout.keys.to(scores.device)[:, None, None, :],
    ] = torch.finfo(scores.dtype).min
    return new


@contextmanager
def scores_matter() -> Iterator[None]:
    """Context in which scores are cut: some families have used them when their hook fires.

    Raises:
        SelfCheckError: this one has.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "A hook on .* returned a modified tensor", UserWarning)
        try:
            yield
        except UserWarning:
            raise SelfCheckError(
                "attention of this family cannot be cut: it computes its pattern where no hook "
                "reaches, so a knockout would be lost"
            ) from None


def living(tokens: Tokens, alive: Sequence[Alive], layer: int, n_heads: int) -> Tensor:
    """[R, S, H, 1]: 1 where a held branch computes z."""
    rows, length = tokens.ids.shape
    share = torch.zeros(rows, length, n_heads, 1, device=tokens.ids.device)
    row = torch.arange(rows, device=tokens.ids.device)[:, None, None]
    for place in alive:
        if place.layer == layer:
            heads = range(n_heads) if place.heads is None else place.heads
            at = positions(tokens, place.at)[:, :, None]
            share[row, at, index(tuple(heads), share.device)] = 1
    return share


def hooked_forward(
    bridge: Any,
    tokens: Tokens,
    edits: Sequence[Edit],
    readings: Sequence[Reading],
    knockouts: Sequence[Knockout] = (),
    **arguments: Any,
) -> Outcome:
    """One full forward with hooks; ``arguments`` go to the model.

    Raises:
        SelfCheckError: a hook did not fire exactly once, or what it changed had been used before.
    """
    by_site: dict[Site, list[Callable[[Tensor], Tensor]]] = {}
    for edit in edits:
        by_site.setdefault(edit.site, []).append(partial(edited, edit=edit))
    for knockout in knockouts:
        site = Site(knockout.layer, "scores")
        by_site.setdefault(site, []).append(partial(cut, knockout=knockout))
    recorded: dict[int, Tensor] = {}
    fired: dict[Site, int] = {}
    wanted = by_place(readings)

    def hook_for(site: Site) -> Callable[..., Tensor | None]:
        def hook(activation: Tensor, hook: Any = None) -> Tensor | None:
            fired[site] = fired.get(site, 0) + 1
            new = activation
            for change in by_site.get(site, ()):
                new = change(new)
            for which, reading in wanted.get(site, ()):
                recorded[which] = taken(new, reading)
            return new if site in by_site else None

        return hook

    sites = sorted({*by_site, *wanted})
    with scores_matter() if knockouts else nullcontext(), seen(tokens.lengths):
        logits = bridge.run_with_hooks(
            tokens.ids,
            attention_mask=tokens.unmasked,
            return_type="logits",
            fwd_hooks=[(site.hook, hook_for(site)) for site in sites],
            **arguments,
        )
    for site in sites:
        if fired.get(site, 0) != 1:
            raise SelfCheckError(
                f"hook {site.hook} fired {fired.get(site, 0)} times in one forward, "
                "so an edit there would be lost or made twice"
            )
    home = tokens.ids.device
    logits = logits.to(home)
    rows = torch.arange(tokens.ids.shape[0], device=home)
    at = tokens.last if logits.shape[1] == tokens.ids.shape[1] else torch.zeros_like(tokens.last)
    return Outcome(
        at_least_float(logits[rows, at]),
        tuple(recorded[which].to(home) for which in range(len(readings))),
    )


@dataclass
class ReferenceEngine:
    """See the module.

    Attributes:
        bridge: transformer-lens' TransformerBridge, raw (no compatibility mode).
        forwards: how many rows went through the model.
        tick: called with the number of rows of each forward.
        finite: looks at all that comes out.
    """

    bridge: Any
    tick: Callable[[int], None] | None = None
    name: str = "reference"
    forwards: int = 0
    finite: Finite = field(default_factory=Finite)

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
        outcome = hooked_forward(self.bridge, tokens, edits, readings, knockouts)
        self.forwards += tokens.ids.shape[0]
        if self.tick is not None:
            self.tick(tokens.ids.shape[0])
        return outcome


@dataclass
class ReferenceRun:
    """A run of the reference engine; nothing of it is shared with its branches."""

    engine: ReferenceEngine
    tokens: Tokens
    edits: tuple[Edit, ...]
    readings: tuple[Reading, ...]
    answer: bool = True

    @cached_property
    def outcome(self) -> Outcome:
        """Run when it is first looked at: a run of which only branches matter costs nothing."""
        with torch.no_grad():
            found = self.engine.forward(self.tokens, self.edits, self.readings)
        if not self.answer:
            found = Outcome(found.logits[:, :0], found.readings)
        return self.engine.finite.look(self.tokens, found, self.readings)

    @cached_property
    def z(self) -> tuple[Tensor, ...]:
        """[R, S, H, d] of every layer: what held branches keep."""
        layers = range(len(self.engine.bridge.blocks))
        with torch.no_grad():
            return self.engine.forward(
                self.tokens, self.edits, [Reading(Site(layer, "z")) for layer in layers]
            ).readings

    def branches(self, branches: Iterable[Branch], gradients: bool = False) -> Iterator[Outcome]:
        for branch in branches:
            edits = self.held(branch) if branch.held else self.edits
            with torch.set_grad_enabled(gradients):
                outcome = self.engine.forward(
                    self.tokens, (*edits, *branch.edits), branch.readings, branch.knockouts
                )
            if not branch.answer:
                outcome = Outcome(outcome.logits[:, :0], outcome.readings)
            yield self.engine.finite.look(self.tokens, outcome, branch.readings)

    def held(self, branch: Branch) -> list[Edit]:
        """The run's edits, those of z replaced by z as it was."""
        others = [edit for edit in self.edits if edit.site.part != "z"]
        return others + [
            Edit(Site(layer, "z"), z, keep=living(self.tokens, branch.alive, layer, z.shape[2]))
            for layer, z in enumerate(self.z)
        ]
