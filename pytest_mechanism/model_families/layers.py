"""How families call their layers, so that some tokens of a layer can be computed again.

Families pass different arguments to a layer, return a tensor or a tuple, and write their masks as
booleans or as numbers added to scores. What this module does not understand, it does not guess:
`UnsupportedFamily`.

Shapes: R rows, S tokens, K tokens of each row, d_model width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.model_families.wrapped import (
    WrappedLayer,
    WrappedModel,
    replaced_forward,
)

CACHE_ARGUMENTS = ("past_key_values", "past_key_value", "layer_past")
"""What families call a layer's cache of keys and values."""

POSITION_ARGUMENTS = ("position_ids", "position_embeddings")
"""Arguments that hold an entry for each position."""

UNUSED_ARGUMENTS = ("cache_position",)
"""Arguments that a layer with a cache of our own does not need."""


class UnsupportedFamily(Exception):
    """A family whose layers cannot be computed token by token; the message says why."""


@dataclass(frozen=True, eq=False)
class LayerCall:
    """How the model called one of its layers.

    Attributes:
        arguments: by name, without the residual stream and the mask; the cache's is None.
        hidden: name of the residual stream's argument.
        returns_tuple: whether the layer returned a tuple.
        visible: [R, S, S], queries by keys: which keys a query attends to.
    """

    arguments: Mapping[str, Any]
    hidden: str
    returns_tuple: bool
    visible: Tensor

    @property
    def cache_arguments(self) -> list[str]:
        return [name for name in self.arguments if name in CACHE_ARGUMENTS]

    def with_positions(self, at: Callable[[Any], Any]) -> dict[str, Any]:
        """The arguments, those with an entry for each position as ``at`` gives them."""
        return {
            name: at(value) if name in POSITION_ARGUMENTS and value is not None else value
            for name, value in self.arguments.items()
        }


def at_positions(value: Any, rows: Tensor, positions: Tensor) -> Any:
    """Entries [R, K, ...] of a tensor [1 or R, S, ...], or of a tuple of such tensors.

    Args:
        value: one of the arguments in `POSITION_ARGUMENTS`.
        rows: [R, 1], number of each row.
        positions: [R, K].
    """
    if isinstance(value, tuple):
        return tuple(at_positions(part, rows, positions) for part in value)
    return value.expand(positions.shape[0], *value.shape[1:])[rows, positions]


@dataclass
class CallRecorder:
    """Writes down how each layer is called while a model runs (`recorded_calls`).

    Attributes:
        start: the first position whose residual stream is kept.
        inputs: arguments of each layer, by name.
        returned_tuple: whether each layer returned a tuple.
    """

    start: int = 0
    inputs: list[dict[str, Any]] = field(default_factory=list)
    returned_tuple: list[bool] = field(default_factory=list)

    def write_down(
        self, layer: WrappedLayer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """A layer is called with these arguments."""
        arguments = named_arguments(layer, args, kwargs)
        if self.start:
            hidden = next(iter(arguments))
            arguments[hidden] = arguments[hidden][:, self.start :].clone()
        self.inputs.append(arguments)

    def calls(self, lengths: Tensor, length: int) -> tuple[list[LayerCall], list[Tensor]]:
        """How each layer was called, and the residual stream before it, [R, S - start, d_model].

        Args:
            lengths: [R], tokens of each row.
            length: S.

        Raises:
            UnsupportedFamily: a layer takes something that this module does not understand.
        """
        masks: dict[int, Tensor] = {}
        calls, residuals = [], []
        for arguments, is_tuple in zip(self.inputs, self.returned_tuple, strict=True):
            call = layer_call(arguments, lengths, length, is_tuple, masks)
            calls.append(call)
            residuals.append(arguments[call.hidden])
        return calls, residuals


@contextmanager
def recorded_calls(layers: Sequence[WrappedLayer], start: int = 0) -> Iterator[CallRecorder]:
    """Context in which every call of a layer is written down, the residual stream from a position on.

    Raises:
        UnsupportedFamily: a layer takes arguments without names.
    """
    recorder = CallRecorder(start)
    with ExitStack() as stack:
        for layer in layers:
            before = layer.module.register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: recorder.write_down(layer, args, kwargs),
                with_kwargs=True,
            )
            after = layer.module.register_forward_hook(
                lambda _, args, out: recorder.returned_tuple.append(isinstance(out, tuple))
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield recorder


def named_arguments(
    layer: WrappedLayer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """A layer's arguments by name; the first is the residual stream."""
    named = dict(zip(layer.argument_names, args, strict=False))
    if len(named) != len(args):
        raise UnsupportedFamily("a layer takes arguments without names")
    return {**named, **kwargs}


def layer_call(
    arguments: Mapping[str, Any],
    lengths: Tensor,
    length: int,
    returns_tuple: bool,
    masks: dict[int, Tensor],
) -> LayerCall:
    """What to pass again when some tokens of the layer are computed.

    Args:
        arguments: by name.
        lengths: [R], tokens of each row.
        length: S.
        returns_tuple: whether the layer returned a tuple.
        masks: visible keys by identity of the mask, filled here; layers share masks.
    """
    hidden = next(iter(arguments))
    mask = arguments.get("attention_mask")
    if id(mask) not in masks:
        masks[id(mask)] = visible_keys(mask, lengths, length)
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in (hidden, "attention_mask", *UNUSED_ARGUMENTS):
            continue
        if isinstance(value, Tensor) and name not in POSITION_ARGUMENTS:
            raise UnsupportedFamily(f"a layer takes {name}, which is not understood")
        # the run's cache would keep all keys and values in memory; each later call gets its own cache
        kept[name] = None if name in CACHE_ARGUMENTS else value
    if not any(name in kept for name in CACHE_ARGUMENTS):
        raise UnsupportedFamily("the layers take no cache of keys and values")
    return LayerCall(kept, hidden, returns_tuple, masks[id(mask)])


def visible_keys(mask: Tensor | None, lengths: Tensor, length: int) -> Tensor:
    """[R, S, S] from the mask that a model passed to a layer.

    Args:
        mask: causal or sliding-window, [1 or R, 1, S, S]: booleans, or 0 and a very negative
            number. None stands for causal attention.
        lengths: [R], tokens of each row.
        length: S.
    """
    rows = lengths.shape[0]
    if mask is None:
        causal = torch.ones(length, length, dtype=torch.bool, device=lengths.device).tril()
        is_token = torch.arange(length, device=lengths.device) < lengths[:, None]
        return causal & is_token[:, None]
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[-2:] != (length, length):
        raise UnsupportedFamily(f"attention masks of shape {tuple(mask.shape)} are not understood")
    if mask.dtype == torch.bool:
        return mask[:, 0].expand(rows, length, length)
    visible = mask == 0
    if bool((mask[~visible] > -1e4).any()):
        raise UnsupportedFamily("attention masks do more than hide keys")
    return visible[:, 0].expand(rows, length, length)


def mlp_at(mlp: torch.nn.Module, columns: Tensor) -> AbstractContextManager[None]:
    """Context in which an MLP computes only the tokens in these columns, [R, K]; elsewhere its
    output is 0."""
    return replaced_forward(mlp, partial(forward_at, mlp.forward, columns))


def forward_at(
    whole: Callable[..., Any], columns: Tensor, hidden: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """An MLP's output where ``whole`` is its own forward; see `mlp_at`."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    # some families pass the residual stream in a further argument
    selected = [
        value[rows, columns]
        if isinstance(value, Tensor) and value.shape[:2] == hidden.shape[:2]
        else value
        for value in (hidden, *args, *kwargs.values())
    ]
    of_name = dict(zip(kwargs, selected[1 + len(args) :], strict=True))
    out = whole(*selected[: 1 + len(args)], **of_name)
    computed = out[0] if isinstance(out, tuple) else out
    computed = computed.reshape(*columns.shape, -1)  # some mixtures merge rows and tokens
    full = computed.new_zeros(*hidden.shape[:2], computed.shape[-1])
    full[rows, columns] = computed
    return (full, *out[1:]) if isinstance(out, tuple) else full


def logits_after_layers(
    model: WrappedModel, calls: Sequence[LayerCall], residual: Tensor, token: Tensor
) -> Tensor:
    """Logits, [N, V], of the last layer's residual stream, [N, d_model].

    The model runs with its layers bypassed, so that soft-caps and scales of the logits apply.

    Args:
        model: whose final norm and unembedding run.
        calls: of its layers.
        residual: after the last layer.
        token: some token's id, [1, 1].
    """
    # N prompts of one token: some families take the shape of the ids for that of the residual
    # stream, and one token never exceeds the positions that a model knows
    hidden = residual[:, None]
    ids = token.expand(len(residual), 1)
    with ExitStack() as stack:
        for layer, call in zip(model.layers, calls, strict=True):
            out = (hidden,) if call.returns_tuple else hidden
            bypass = partial(lambda out, *_, **__: out, out)
            stack.enter_context(replaced_forward(layer.module, bypass))
        # a mask would be looked at, for which the program would wait for a GPU
        return model.forward(ids)[:, 0]


def layer_with_own_window(layers: Sequence[WrappedLayer]) -> int | None:
    """The first layer that holds a mask, [1, 1, n, n], which hides more than later tokens.

    Such a layer (GPT-Neo's local attention) hides keys by how many columns lie between, and a
    prompt that fits into its window says nothing about longer ones.
    """
    for number, layer in enumerate(layers):
        for buffer in layer.module.buffers():
            if buffer.dim() == 4 and buffer.dtype in (torch.bool, torch.uint8):
                causal = torch.ones_like(buffer).tril()
                if buffer.shape[-1] == buffer.shape[-2] and not torch.equal(buffer, causal):
                    return number
    return None
