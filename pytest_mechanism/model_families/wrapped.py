"""What engines and methods see of a loaded model, whatever its family.

A decoder-only language model with named hook points (transformer-lens' names, the same for every
family) and a list of layers. `bridge.BridgeModel` implements it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Hook = Callable[..., Tensor | None]
"""Gets an activation and ``hook=`` (its hook point); returns the new activation, or None."""

NamedHook = tuple[str, Hook]
"""A hook point's name and what runs there."""


@runtime_checkable
class WrappedLayer(Protocol):
    """One layer (block) of a model."""

    @property
    def module(self) -> nn.Module:
        """The module that the model calls."""
        ...

    @property
    def argument_names(self) -> list[str]:
        """Names of the layer's positional arguments; the first is the residual stream."""
        ...

    @property
    def mlp(self) -> nn.Module | None:
        """The layer's MLP, if it is a separate module."""
        ...

    @property
    def output_projection(self) -> str:
        """Path, below the plain layer, of the matrix that reads z of all heads."""
        ...

    def attention_from_z(self, z: Tensor) -> AbstractContextManager[None]:
        """Context in which attention is not computed: the layer projects ``z``, [R, W, H, d],
        after the hooks on z have run."""
        ...


@runtime_checkable
class WrappedModel(Protocol):
    """A language model under hooks."""

    @property
    def layers(self) -> Sequence[WrappedLayer]: ...

    @property
    def plain(self) -> Any:
        """The Hugging Face model below the hooks."""
        ...

    @property
    def hook_names(self) -> Collection[str]:
        """Names of all hook points."""
        ...

    @property
    def layers_path(self) -> str:
        """Path of the list of layers in the plain model, such as ``model.layers``."""
        ...

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        hooks: Sequence[NamedHook] = (),
        **arguments: Any,
    ) -> Tensor:
        """Logits of every position, [R, S, V]; ``arguments`` go to the plain model."""
        ...

    def hooked(self, hooks: Sequence[NamedHook]) -> AbstractContextManager[None]:
        """Context in which hooks run, also where single layers are called."""
        ...

    def unobserved(self) -> AbstractContextManager[None]:
        """Context in which what only a hook would see is not computed, such as the scale of a norm,
        unless somebody listens to it. Numbers may differ by rounding."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Context in which a module computes something else."""
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
