"""The reference engine: one full hooked forward for every branch. Slow and obviously right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Reading, Site, Tokens
from pytest_mechanism.errors import SelfCheckError


def with_heads(activation: Tensor) -> Tensor:
    """[R, S, H, d]; sites without heads count as one."""
    return activation if activation.dim() == 4 else activation.unsqueeze(2)


def select(activation: Tensor, at: Tensor | None, heads: tuple[int, ...] | None) -> Tensor:
    """[R, K, heads, d] out of [R, S, H, d]."""
    if at is not None:
        rows = torch.arange(activation.shape[0], device=activation.device)[:, None]
        activation = activation[rows, at]
    return activation if heads is None else activation[:, :, list(heads)]


def edited(activation: Tensor, edit: Edit) -> Tensor:
    """The activation with an edit made, out of place so that gradients pass."""
    old = with_heads(activation)
    chosen = select(old, edit.at, edit.heads)
    value = edit.value.to(old.dtype)
    if edit.keep is not None:
        keep = edit.keep.to(old.dtype)
        value = keep * chosen + (1 - keep) * value
    value = value.expand_as(chosen)
    if edit.at is None and edit.heads is None:
        new = value
    else:
        new = old.clone()
        rows = torch.arange(old.shape[0], device=old.device)[:, None, None]
        at = torch.arange(old.shape[1], device=old.device)[None] if edit.at is None else edit.at
        heads = range(old.shape[2]) if edit.heads is None else edit.heads
        new[rows, at[:, :, None], torch.tensor(list(heads), device=old.device)] = value
    return new if activation.dim() == 4 else new.squeeze(2)


@dataclass
class ReferenceEngine:
    """See the module.

    Attributes:
        bridge: transformer-lens' TransformerBridge, raw (no compatibility mode).
        forwards: how many rows went through the model.
        tick: called with the number of rows of each forward.
    """

    bridge: Any
    tick: Callable[[int], None] | None = None
    name: str = "reference"
    forwards: int = 0

    def run(
        self, tokens: Tokens, edits: Sequence[Edit] = (), readings: Sequence[Reading] = ()
    ) -> ReferenceRun:
        return ReferenceRun(self, tokens, tuple(edits), tuple(readings))

    def forward(
        self, tokens: Tokens, edits: Sequence[Edit], readings: Sequence[Reading]
    ) -> Outcome:
        """One full forward with hooks."""
        by_site: dict[Site, list[Edit]] = {}
        for edit in edits:
            by_site.setdefault(edit.site, []).append(edit)
        recorded: dict[Site, Tensor] = {}
        fired: dict[Site, int] = {}
        wanted = {reading.site for reading in readings}

        def hook_for(site: Site) -> Callable[..., Tensor | None]:
            def hook(activation: Tensor, hook: Any = None) -> Tensor | None:
                fired[site] = fired.get(site, 0) + 1
                new = activation
                for edit in by_site.get(site, ()):
                    new = edited(new, edit)
                if site in wanted:
                    # a copy: a later hook may write into the same storage
                    recorded[site] = with_heads(new).clone()
                return new if site in by_site else None

            return hook

        sites = sorted({*by_site, *wanted})
        logits = self.bridge.run_with_hooks(
            tokens.ids,
            attention_mask=tokens.mask,
            return_type="logits",
            fwd_hooks=[(site.hook, hook_for(site)) for site in sites],
        )
        for site in sites:
            if fired.get(site, 0) != 1:
                raise SelfCheckError(
                    f"hook {site.hook} fired {fired.get(site, 0)} times in one forward, "
                    "so an edit there would be lost or made twice"
                )
        rows = torch.arange(tokens.ids.shape[0], device=tokens.ids.device)
        self.forwards += tokens.ids.shape[0]
        if self.tick is not None:
            self.tick(tokens.ids.shape[0])
        return Outcome(
            logits[rows, tokens.last].float(),
            tuple(select(recorded[r.site], r.at, r.heads) for r in readings),
        )


@dataclass
class ReferenceRun:
    """A run of the reference engine; nothing of it is shared with its branches."""

    engine: ReferenceEngine
    tokens: Tokens
    edits: tuple[Edit, ...]
    readings: tuple[Reading, ...]

    @cached_property
    def outcome(self) -> Outcome:
        """Run when it is first looked at: a run of which only branches matter costs nothing."""
        with torch.no_grad():
            return self.engine.forward(self.tokens, self.edits, self.readings)

    def branches(self, branches: Iterable[Branch], gradients: bool = False) -> Iterator[Outcome]:
        for branch in branches:
            with torch.set_grad_enabled(gradients):
                outcome = self.engine.forward(
                    self.tokens, (*self.edits, *branch.edits), branch.readings
                )
            yield outcome
