"""What a run leaves for its branches: the residual stream, keys, values and z of the tokens that they
compute or attend to, and how each layer was called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.engine.activations import edited_run, gather
from pytest_mechanism.engine.interface import Edit, Outcome, Reading, Site, Tokens
from pytest_mechanism.engine.plumbing import (
    at_least_float,
    check_hook_count,
    readings_by_site,
    with_heads,
)
from pytest_mechanism.model_families.layers import (
    LayerCall,
    UnsupportedFamily,
    mlp_at,
    recorded_calls,
)
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.model_families.wrapped import NamedHook, WrappedModel

Keys = Float[Tensor, "rows kv_heads prefix d_head"]
"""Keys or values of a layer."""


class Extent(NamedTuple):
    """Which tokens a record keeps.

    Attributes:
        start: the first position whose residual stream and z are kept.
        prefix: how many positions, from the first on, have their keys and values kept.
    """

    start: int
    prefix: int

    def has(self, other: Extent) -> bool:
        return self.start <= other.start and self.prefix >= other.prefix

    def joined(self, other: Extent | None) -> Extent:
        """Both."""
        if other is None:
            return self
        return Extent(min(self.start, other.start), max(self.prefix, other.prefix))


@dataclass(frozen=True, eq=False)
class Record:
    """A remembered run.

    Attributes:
        outcome: its own.
        extent: which tokens are kept.
        residuals: before each layer, as the layer got it, from ``extent.start`` on.
        keys: of each layer, after rotation, the first ``extent.prefix``.
        values: of each layer, as many.
        z: of each layer, from ``extent.start`` on.
        calls: how each layer was called.
        spare_rooms: (``keys`` or ``values``, layer) -> the tensor that a layer's keys or values are
            a part of, with spare room for branches behind them (`replay.SharedCache`).
    """

    outcome: Outcome
    extent: Extent
    residuals: Sequence[Float[Tensor, "rows kept d_model"]]
    keys: list[Keys]
    values: list[Keys]
    z: Sequence[Float[Tensor, "rows kept heads d_head"]]
    calls: Sequence[LayerCall]
    spare_rooms: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        cached = [  # with their spare room, which lives as long as the record
            self.spare_rooms.get((name, layer), tensor)
            for name, tensors in (("keys", self.keys), ("values", self.values))
            for layer, tensor in enumerate(tensors)
        ]
        kept = (self.outcome.logits, *self.residuals, *cached, *self.z)
        masks = {id(call.visible): call.visible for call in self.calls}.values()
        return sum(tensor.numel() * tensor.element_size() for tensor in (*kept, *masks))


def record(
    model: WrappedModel,
    tokens: Tokens,
    edits: Sequence[Edit],
    readings: Sequence[Reading],
    extent: Extent,
) -> Record:
    """One full forward that keeps what ``extent`` says; logits only where the answer is read.

    Raises:
        SelfCheckError: a hook did not fire exactly once.
        UnsupportedFamily: the family's layers take or leave something that is not understood.
    """
    from transformers.cache_utils import DynamicCache

    layers = model.layers
    cache: Any = DynamicCache()
    (rows, length), (start, prefix) = tokens.ids.shape, extent
    device = tokens.ids.device
    at = torch.arange(start, length, device=device).expand(rows, -1) if start else None
    hooks = RunHooks(edits, [*readings, *(Reading(Site(n, "z"), at) for n in range(len(layers)))])
    used = {*(edit.site for edit in edits), *(reading.site for reading in readings)}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        calls_made = stack.enter_context(recorded_calls(layers, start))
        for number, layer in enumerate(layers) if prefix < length else ():
            cut = partial(cut_cache, cache, number, extent.prefix, length)
            stack.callback(layer.module.register_forward_hook(cut).remove)
        stack.enter_context(model.hooked([last_token_only(tokens), *hooks.named(tokens)]))
        stack.enter_context(last_mlp_at(model, tokens.last[:, None], used))
        stack.enter_context(row_lengths(tokens.lengths))
        stack.enter_context(model.unobserved())
        logits = model.forward(
            tokens.ids, tokens.mask_for(model.plain), past_key_values=cache, use_cache=True
        )
    hooks.check(hooks.sites, "in one forward, so an edit there would be lost or made twice")
    if len(calls_made.inputs) != len(layers) or len(cache.layers) != len(layers):
        raise UnsupportedFamily(
            f"{len(calls_made.inputs)} of {len(layers)} layers ran, {len(cache.layers)} kept a cache"
        )
    calls, residuals = calls_made.calls(tokens.lengths, length)
    if prefix == length:
        for number in range(len(layers)):
            cut_cache(cache, number, prefix, length)
    values = hooks.readings(device)
    # some family may unembed every token all the same
    last = tokens.last if logits.shape[1] == length else torch.zeros_like(tokens.last)
    logits = logits.to(device)[torch.arange(len(last), device=device), last]
    return Record(
        Outcome(at_least_float(logits), values[: len(readings)]),
        extent,
        residuals,
        [cached.keys for cached in cache.layers],
        [cached.values for cached in cache.layers],
        values[len(readings) :],
        calls,
    )


def cut_cache(cache: Any, layer: int, prefix: int, length: int, *_: object) -> None:
    """Keeps the first keys and values of a layer that has run.

    Args:
        cache: of the run.
        layer: its number.
        prefix: of how many positions.
        length: how many there are.

    Raises:
        UnsupportedFamily: the layer has not kept the keys of all of them.
    """
    cached = cache.layers[layer] if layer < len(cache.layers) else None
    if cached is None or cached.keys is None or cached.keys.shape[2] != length:
        raise UnsupportedFamily("a layer does not keep the keys of every token")
    if prefix < length:
        cached.keys = cached.keys[:, :, :prefix].clone()
        cached.values = cached.values[:, :, :prefix].clone()


class AllRead(Exception):
    """Ends a forward after its last reading."""


def read_only_forward(
    model: WrappedModel, tokens: Tokens, edits: Sequence[Edit], readings: Sequence[Reading]
) -> Outcome:
    """A forward for readings alone, which ends at the last of them.

    Raises:
        SelfCheckError: a hook before the last reading did not fire exactly once.
    """
    hooks = RunHooks(edits, readings, stops=True)
    with (
        torch.no_grad(),
        suppress(AllRead),
        model.hooked(hooks.named(tokens)),
        model.unobserved(),
        row_lengths(tokens.lengths),
    ):
        model.forward(tokens.ids, tokens.mask_for(model.plain))
    highest = max((site.layer for site in hooks.wanted), default=len(model.layers))
    hooks.check(
        [site for site in hooks.sites if site in hooks.wanted or site.layer < highest],
        "before the last reading, so an edit or a reading there is lost or made twice",
    )
    no_logits = torch.zeros(tokens.ids.shape[0], 0, device=tokens.ids.device)
    return Outcome(no_logits, hooks.readings(tokens.ids.device))


class RunHooks:
    """Hooks that edit and read a run as a whole.

    Attributes:
        edits: by site.
        wanted: by site, (number of the reading, reading).
        stops: whether the forward ends when everything has been read.
        values: what was read, by number.
        fired: how often each site's hook was called.
    """

    def __init__(
        self, edits: Sequence[Edit], readings: Sequence[Reading], *, stops: bool = False
    ) -> None:
        self.edits: dict[Site, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(edit.site, []).append(edit)
        self.wanted = readings_by_site(readings)
        self.stops = stops
        self.values: dict[int, Tensor] = {}
        self.fired: dict[Site, int] = {}

    @property
    def sites(self) -> list[Site]:
        return sorted({*self.edits, *self.wanted})

    def named(self, tokens: Tokens) -> list[NamedHook]:
        return [(site.hook, self.hook(site, tokens)) for site in self.sites]

    def hook(self, site: Site, tokens: Tokens) -> Callable[..., Tensor | None]:
        return lambda activation, hook=None: self.changed(site, activation, tokens)

    def changed(self, site: Site, activation: Tensor, tokens: Tokens) -> Tensor | None:
        """The activation after the edits at a site, None without any; reads what is wanted there.

        Raises:
            AllRead: this was the last reading of a forward that stops there.
        """
        self.fired[site] = self.fired.get(site, 0) + 1
        new = activation
        for edit in self.edits.get(site, ()):
            new = edited_run(new, edit, tokens)
        for number, reading in self.wanted.get(site, ()):
            self.values[number] = gather(with_heads(new), reading.at, reading.heads)
        if self.stops and site in self.wanted and self.fired.keys() >= self.wanted.keys():
            raise AllRead
        return new if site in self.edits else None

    def check(self, sites: Collection[Site], when: str) -> None:
        """Every hook was called once.

        Raises:
            SelfCheckError: one was not.
        """
        for site in sites:
            check_hook_count(site.hook, self.fired.get(site, 0), 1, when)

    def readings(self, device: torch.device) -> tuple[Tensor, ...]:
        """What was read, in the order asked for."""
        return tuple(self.values[number].to(device) for number in sorted(self.values))


def last_token_only(tokens: Tokens) -> NamedHook:
    """The unembedding sees each row's last token alone."""
    rows = torch.arange(tokens.ids.shape[0], device=tokens.ids.device)
    return "unembed.hook_in", lambda activation, hook=None: activation[rows, tokens.last][:, None]


def last_mlp_at(
    model: WrappedModel, columns: Int[Tensor, "rows places"], used: Collection[Site]
) -> AbstractContextManager[None]:
    """Context in which the last layer's MLP runs only where an answer is read after it.

    Args:
        model: whose.
        columns: tokens whose answer is wanted.
        used: sites that are edited or read; those after the MLP need all of it.
    """
    layer, mlp = len(model.layers) - 1, model.layers[-1].mlp
    if mlp is None or {Site(layer, "mlp_out"), Site(layer, "resid_post")} & {*used}:
        return nullcontext()
    return mlp_at(mlp, columns)
