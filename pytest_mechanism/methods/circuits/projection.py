"""Directional ablation of the residual stream.

    h <- h - r r^T h,  with a unit vector r

Arditi et al. 2024 (arXiv 2406.11717), section 2.4: at every token and layer, wherever the model
writes to the stream. It writes the embedding and the outputs of attention and MLP. The hooks project
the stream once more where a layer reads it and after the last layer, and check that nothing was left
along r there. A family that writes to the stream in another way would otherwise keep the direction,
and the ablation would wrongly seem to have no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Part, Site
from pytest_mechanism.engine.plumbing import check_hook_count
from pytest_mechanism.engine.tolerance import TOLERANCE
from pytest_mechanism.errors import SelfCheckError

Hook = Callable[..., Tensor | None]

WRITES: tuple[Part, ...] = ("attn_out", "mlp_out")
READS: tuple[Part, ...] = ("resid_pre", "resid_post")


@dataclass(eq=False)
class DirectionHooks:
    """Hooks that ablate a direction; call `check` after the forwards.

    Attributes:
        direction: of any length but zero.
        layers: of the model.
        fired: hook point -> how often it fired.
        left: largest share of a token's length that was left along the direction where a layer
            reads the stream.
    """

    direction: Float[Tensor, " d_model"]
    layers: int
    fired: dict[str, int] = field(default_factory=dict)
    left: float = 0.0

    def __post_init__(self) -> None:
        wide = self.direction.double()
        self.unit = (wide / wide.norm()).float()

    @property
    def hooks(self) -> list[tuple[str, Hook]]:
        """For `WrappedModel.forward`."""
        sites = [Site(layer, part) for layer in range(self.layers) for part in (*WRITES, *READS)]
        # the output of a layer is the input of the next one
        kept = [s for s in sites if s.part != "resid_post" or s.layer == self.layers - 1]
        return [(site.hook, self.hook(site)) for site in kept]

    def hook(self, site: Site) -> Hook:
        return lambda activation, hook=None: self.ablated(site, activation)

    def ablated(
        self, site: Site, activation: Float[Tensor, "rows tokens d_model"]
    ) -> Float[Tensor, "rows tokens d_model"]:
        """h - r r^T h."""
        self.fired[site.hook] = self.fired.get(site.hook, 0) + 1
        h = activation.float()
        r = self.unit.to(h.device)
        along = h @ r
        if site.part == "resid_post" or (site.part == "resid_pre" and site.layer > 0):
            share = along.abs() / h.norm(dim=-1).clamp_min(1e-12)
            self.left = max(self.left, float(share.max()))
        ablated: Tensor = (h - along[..., None] * r).to(activation.dtype)
        return ablated

    def check(self, forwards: int, dtype: torch.dtype) -> None:
        """Every hook fired once a forward, and nothing was left where layers read the stream.

        Raises:
            SelfCheckError: a hook did not, or something was.
        """
        for name, _ in self.hooks:
            when = f"in {forwards} forwards, so a direction that is ablated there would come back"
            check_hook_count(name, self.fired.get(name, 0), forwards, when)
        if self.left > TOLERANCE[dtype]:
            raise SelfCheckError(
                f"a direction that was ablated in the residual stream came back: {self.left:.2g} "
                "of a token's length; this family writes to the stream where no hook reaches"
            )
