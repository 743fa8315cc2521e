"""`WrappedModel` by transformer-lens' TransformerBridge, raw (no compatibility mode)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pytest_mechanism.errors import MechanismError, first_line
from pytest_mechanism.model_families.lens_imports import import_lens
from pytest_mechanism.model_families.wrapped import NamedHook, replaced_forward


@dataclass(frozen=True, eq=False)
class BridgeLayer:
    """A layer of a `BridgeModel`.

    Attributes:
        module: transformer-lens' block around the plain layer.
    """

    module: Any

    @property
    def argument_names(self) -> list[str]:
        signature = inspect.signature(self.module.original_component.forward)
        parameters = signature.parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    @property
    def mlp(self) -> nn.Module | None:
        found: nn.Module | None = getattr(self.module, "mlp", None)
        return found

    @property
    def output_projection(self) -> str:
        attention = self.module.attn
        return f"{attention.name}.{attention.o.name}"

    def attention_from_z(self, z: Tensor) -> AbstractContextManager[None]:
        attention = self.module.attn

        return replaced_forward(
            attention, lambda *_, **__: (attention.hook_out(attention.o(z.flatten(2))), None)
        )


@dataclass(frozen=True, eq=False)
class BridgeModel:
    """A language model under transformer-lens' hooks.

    Attributes:
        bridge: the TransformerBridge.
    """

    bridge: Any

    @cached_property
    def layers(self) -> list[BridgeLayer]:
        return [BridgeLayer(block) for block in self.bridge.blocks]

    @property
    def plain(self) -> Any:
        return self.bridge.original_model

    @cached_property
    def hook_points(self) -> dict[str, Any]:
        """Name -> hook point; transformer-lens builds this table anew for each look."""
        return dict(self.bridge.hook_dict)

    @property
    def hook_names(self) -> Collection[str]:
        return self.hook_points.keys()

    @property
    def layers_path(self) -> str:
        return str(self.bridge.adapter.component_mapping["blocks"].name)

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        hooks: Sequence[NamedHook] = (),
        **arguments: Any,
    ) -> Tensor:
        if attention_mask is not None:
            arguments["attention_mask"] = attention_mask
        if hooks:
            arguments["fwd_hooks"] = list(hooks)
        run = self.bridge.run_with_hooks if hooks else self.bridge
        logits: Tensor = run(ids, return_type="logits", **arguments)
        return logits

    @contextmanager
    def hooked(self, hooks: Sequence[NamedHook]) -> Iterator[None]:
        attached = []
        try:
            for name, hook in hooks:
                point = self.hook_points[name]
                attached.append((point, point.add_hook(hook)))
            yield
        finally:
            for point, handle in attached:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)

    @contextmanager
    def unobserved(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, forward in self.plain_forwards.items():
                # another library, such as accelerate, may have set a module's forward
                if "forward" not in module.__dict__ and not observed(module):
                    stack.enter_context(replaced_forward(module, forward))
            yield

    @cached_property
    def plain_forwards(self) -> dict[nn.Module, Callable[..., Tensor]]:
        """Forwards that compute a module's output and nothing besides."""
        from transformer_lens.model_bridge.generalized_components import (
            NormalizationBridge,
            RMSNormalizationBridge,
        )
        from transformers.activations import NewGELUActivation

        forwards: dict[nn.Module, Callable[..., Tensor]] = {}
        for module in self.bridge.modules():
            # no other subclass: it may normalise otherwise than the plain module
            if type(module) in (NormalizationBridge, RMSNormalizationBridge):
                if not isinstance(module.original_component, nn.Identity):
                    forwards[module] = partial(normalised, module)
            elif type(module) is NewGELUActivation:  # the same in eight operations
                forwards[module] = partial(functional.gelu, approximate="tanh")
        return forwards

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.bridge.parameters()


def observed(module: Any) -> bool:
    """Whether somebody listens to what a norm's plain forward leaves out."""
    points = [getattr(module, name, None) for name in ("hook_scale", "hook_normalized")]
    return any(point is not None and point.has_hooks() for point in points)


def normalised(norm: Any, hidden: Tensor, **_: Any) -> Tensor:
    """The output of a norm by the plain model's own module, with the hooks before and behind it."""
    hidden = norm.hook_in(hidden)
    out: Tensor = norm.hook_out(norm.original_component(hidden).to(hidden.dtype))
    return out


def wrap(model: Any, folder: Path) -> BridgeModel:
    """A plain Hugging Face model under hooks; the one place that uses transformer-lens' private
    path.

    Raises:
        MechanismError: transformer-lens does not know the family.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        factory = import_lens("transformer_lens.factories.architecture_adapter_factory")
        builder = import_lens("transformer_lens.model_bridge.sources._bridge_builder")

        from pytest_mechanism.model_families.tracr import TRACR, register_hooks

        if model.config.model_type == TRACR:
            register_hooks()
        # remote code defines another class for a known family
        classes = [base.__name__ for base in type(model).__mro__]
        known = [name for name in classes if name in factory.SUPPORTED_ARCHITECTURES]
        try:
            bridge = builder.build_bridge_from_module(
                model, (known or classes)[0], hf_config=model.config, tokenizer=None
            )
        except Exception as problem:
            raise MechanismError(
                f"{folder}: transformer-lens cannot wrap a {type(model).__name__}: "
                f"{first_line(problem)}"
            ) from None
    return BridgeModel(bridge.eval())
