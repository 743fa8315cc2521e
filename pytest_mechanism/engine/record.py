"""What a run leaves for its branches: the residual, keys, values and z of every token, and how
each layer was called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.rotary import seen
from pytest_mechanism.engine.interface import Edit, Outcome, Reading, Site, Tokens
from pytest_mechanism.engine.reference import by_place, edited, hooked_forward, taken
from pytest_mechanism.errors import SelfCheckError

CACHES = ("past_key_values", "past_key_value", "layer_past")
INDEXED = ("position_ids", "position_embeddings")
DROPPED = ("cache_position",)
"""Arguments of a layer, by family: its cache, what is indexed by position, what a cache of our own
has no use for."""


class Unsupported(Exception):
    """A family whose layers cannot be computed token by token from a record."""


@dataclass(frozen=True, eq=False)
class Call:
    """How the model called one of its layers.

    Attributes:
        arguments: by name, without the residual.
        hidden: name of the residual's argument.
        tupled: whether it returned a tuple.
        visible: [R, S, S], queries by keys.
    """

    arguments: Mapping[str, Any]
    hidden: str
    tupled: bool
    visible: Tensor


@dataclass(frozen=True, eq=False)
class Record:
    """A run, remembered.

    Attributes:
        outcome: its own.
        residuals: [R, S, d] before each layer, as the layer got it.
        keys: [R, KV, S, d] of each layer, after rotation.
        values: [R, KV, S, d] of each layer.
        z: [R, S, H, d] of each layer.
        calls: how each layer was called.
        rooms: (``keys`` or ``values``, layer) -> [R, KV, S and more, d] that a layer's are a part
            of, with room behind them for branches (`replay.SharedCache`).
    """

    outcome: Outcome
    residuals: Sequence[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    z: Sequence[Tensor]
    calls: Sequence[Call]
    rooms: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        cached = [  # with the room behind them, which stays as long as the record
            self.rooms.get((what, layer), own)
            for what, each in (("keys", self.keys), ("values", self.values))
            for layer, own in enumerate(each)
        ]
        kept = (self.outcome.logits, *self.residuals, *cached, *self.z)
        masks = {id(c.visible): c.visible for c in self.calls}.values()
        return sum(t.numel() * t.element_size() for t in (*kept, *masks))


def record(
    bridge: Any, tokens: Tokens, edits: Sequence[Edit], readings: Sequence[Reading]
) -> Record:
    """One full forward, with everything kept; logits only where the answer is read.

    Raises:
        SelfCheckError: a hook did not fire exactly once.
        Unsupported: the family's layers take or leave something that is not understood.
    """
    from transformers.cache_utils import DynamicCache

    layers = len(bridge.blocks)
    seen: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    tupled: list[bool] = []
    cache = DynamicCache()
    z = [Reading(Site(layer, "z")) for layer in range(layers)]
    with ExitStack() as hooks, torch.no_grad():
        for block in bridge.blocks:
            before = block.register_forward_pre_hook(
                lambda module, args, kwargs: seen.append((module, args, kwargs)), with_kwargs=True
            )
            after = block.register_forward_hook(
                lambda _, args, out: tupled.append(isinstance(out, tuple))
            )
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        hooks.enter_context(answer_only(bridge, tokens))
        used = {*(edit.site for edit in edits), *(reading.site for reading in readings)}
        hooks.enter_context(last_mlp_at(bridge, tokens.last[:, None], used))
        outcome = hooked_forward(
            bridge, tokens, edits, [*readings, *z], past_key_values=cache, use_cache=True
        )
    if len(seen) != layers or len(cache.layers) != layers:
        raise Unsupported(f"{len(seen)} of {layers} layers ran, {len(cache.layers)} kept a cache")
    arguments = [named(*each) for each in seen]
    masks: dict[int, Tensor] = {}
    calls = [
        call(given, tokens, is_tuple, masks)
        for given, is_tuple in zip(arguments, tupled, strict=True)
    ]
    residuals = [each[c.hidden] for each, c in zip(arguments, calls, strict=True)]
    length = tokens.ids.shape[1]
    for kept in cache.layers:
        if kept.keys is None or kept.keys.shape[2] != length:
            raise Unsupported("a layer does not keep the keys of every token")
    n = len(readings)
    asked, whole = outcome.readings[:n], outcome.readings[n:]
    return Record(
        Outcome(outcome.logits, asked),
        residuals,
        [kept.keys for kept in cache.layers],
        [kept.values for kept in cache.layers],
        whole,
        calls,
    )


class _Enough(Exception):
    """All that was to be read has been read."""


def glance(
    bridge: Any, tokens: Tokens, edits: Sequence[Edit], readings: Sequence[Reading]
) -> Outcome:
    """Readings alone: the forward ends where the last of them was made.

    Raises:
        SelfCheckError: a hook before the last reading did not fire exactly once.
    """
    wanted = by_place(readings)
    waiting = set(wanted)
    found: dict[int, Tensor] = {}
    fired: dict[Site, int] = {}

    def hook_for(site: Site) -> Callable[..., Tensor | None]:
        changes = [edit for edit in edits if edit.site == site]

        def hook(activation: Tensor, hook: Any = None) -> Tensor | None:
            fired[site] = fired.get(site, 0) + 1
            new = activation
            for edit in changes:
                new = edited(new, edit)
            if site in waiting:
                found.update((which, taken(new, each)) for which, each in wanted[site])
                waiting.remove(site)
                if not waiting:
                    raise _Enough
            return new if changes else None

        return hook

    sites = sorted({*(edit.site for edit in edits), *waiting})
    hooks = [(bridge.hook_dict[site.hook], hook_for(site)) for site in sites]
    with torch.no_grad(), attached(hooks), suppress(_Enough), seen(tokens.lengths):
        bridge(tokens.ids, attention_mask=tokens.unmasked, return_type="logits")
    highest = max((site.layer for site in wanted), default=len(bridge.blocks))
    for site in sites:
        if fired.get(site, 0) != 1 and (site in wanted or site.layer < highest):
            raise SelfCheckError(
                f"hook {site.hook} fired {fired.get(site, 0)} times before the last reading, "
                "so what was to be edited or read there is lost or made twice"
            )
    nothing = torch.zeros(tokens.ids.shape[0], 0, device=tokens.ids.device)
    return Outcome(nothing, tuple(found[which] for which in range(len(readings))))


def answer_only(bridge: Any, tokens: Tokens) -> Any:
    """Context in which the unembedding sees each row's last token alone."""
    point = bridge.unembed.hook_in
    rows = torch.arange(tokens.ids.shape[0], device=tokens.ids.device)

    def last(activation: Tensor, hook: Any = None) -> Tensor:
        return activation[rows, tokens.last][:, None]

    return attached([(point, last)])


@contextmanager
def instead(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward for a module."""
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]


def last_mlp_at(
    bridge: Any, columns: Tensor, used: Collection[Site]
) -> AbstractContextManager[None]:
    """The last layer's MLP runs at [R, K] tokens alone: only an answer comes after it.

    Args:
        bridge: the model.
        columns: tokens whose answer is wanted.
        used: sites that are edited or read; after the MLP, they need it whole.
    """
    block, layer = bridge.blocks[-1], len(bridge.blocks) - 1
    if not hasattr(block, "mlp") or {Site(layer, "mlp_out"), Site(layer, "resid_post")} & {*used}:
        return nullcontext()
    whole = block.mlp.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]

        def picked(given: Any) -> Any:  # the residual, in families whose MLP adds it
            alike = isinstance(given, Tensor) and given.shape[:2] == hidden.shape[:2]
            return given[rows, columns] if alike else given

        more = {name: picked(value) for name, value in kwargs.items()}
        out = whole(picked(hidden), *map(picked, args), **more)
        part = out[0] if isinstance(out, tuple) else out
        part = part.reshape(*columns.shape, -1)  # some mixtures give rows and tokens as one
        full = part.new_zeros(*hidden.shape[:2], part.shape[-1])
        full[rows, columns] = part
        return (full, *out[1:]) if isinstance(out, tuple) else full

    return instead(block.mlp, forward)


class attached:  # noqa: N801 - reads as a context
    """Context in which functions hang on transformer-lens' hook points."""

    def __init__(self, hooks: Sequence[tuple[Any, Callable[..., Tensor | None]]]) -> None:
        self.hooks = hooks
        self.handles: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        for point, function in self.hooks:
            self.handles.append((point, point.add_hook(function)))

    def __exit__(self, *problem: object) -> None:
        for point, handle in self.handles:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


def named(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A layer's arguments by name; the first is the residual."""
    parameters = list(inspect.signature(block.original_component.forward).parameters.values())
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    found = dict(zip(names, args, strict=False))
    if len(found) != len(args):
        raise Unsupported("a layer takes arguments without names")
    return {**found, **kwargs}


def call(
    arguments: Mapping[str, Any], tokens: Tokens, is_tuple: bool, masks: dict[int, Tensor]
) -> Call:
    """What must be passed again when some tokens of the layer are computed.

    Args:
        arguments: by name.
        tokens: of the run.
        is_tuple: whether it returned a tuple.
        masks: visible tokens by identity of the mask; layers share masks.
    """
    hidden = next(iter(arguments))
    mask = arguments.get("attention_mask")
    if id(mask) not in masks:
        masks[id(mask)] = visible_tokens(mask, tokens)
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in (hidden, "attention_mask", *DROPPED):
            continue
        if isinstance(value, Tensor) and name not in INDEXED:
            raise Unsupported(f"a layer takes {name}, which is not understood")
        kept[name] = value
    if not any(name in kept for name in CACHES):
        raise Unsupported("the layers take no cache of keys and values")
    return Call(kept, hidden, is_tuple, masks[id(mask)])


def visible_tokens(mask: Tensor | None, tokens: Tokens) -> Tensor:
    """[R, S, S] from what the model passed to a layer: a causal or sliding-window mask, as 0 and a
    very negative number or as booleans."""
    rows, length = tokens.ids.shape
    if mask is None:
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.ids.device).tril()
        return causal & tokens.mask.bool()[:, None]
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[-2:] != (length, length):
        raise Unsupported(f"attention masks of shape {tuple(mask.shape)} are not understood")
    if mask.dtype == torch.bool:
        return mask[:, 0].expand(rows, length, length)
    visible = mask == 0
    if bool((mask[~visible] > -1e4).any()):
        raise Unsupported("attention masks carry more than what is seen")
    return visible[:, 0].expand(rows, length, length)
