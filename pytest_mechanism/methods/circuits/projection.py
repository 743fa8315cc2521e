"""Taking a direction out of the residual stream: h <- h - r r^T h.

Arditi et al. 2024 (arXiv 2406.11717), section 2.4: at every token and layer, wherever something is
written to the stream. Those are the embedding and the outputs of attention and MLP; the stream is
projected once more where a layer reads it and where the last one ends, and it is looked that
nothing was left to take out there: a family that writes to the stream by another way would
otherwise keep its direction, and the ablation pass for one without effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Part, Site
from pytest_mechanism.engine.tolerance import TOLERANCE
from pytest_mechanism.errors import SelfCheckError

Hook = Callable[..., Tensor | None]

WRITES: tuple[Part, ...] = ("attn_out", "mlp_out")
READS: tuple[Part, ...] = ("resid_pre", "resid_post")


@dataclass(eq=False)
class Without:
    """Hooks that take a direction out; use `checked` when they have been used.

    Attributes:
        direction: [d], of any length but zero.
        layers: of the model.
        fired: hook point -> how often it fired.
        left: largest share of a token's length that was left along the direction where a layer
            reads the stream.
    """

    direction: Tensor
    layers: int
    fired: dict[str, int] = field(default_factory=dict)
    left: float = 0.0

    def __post_init__(self) -> None:
        wide = self.direction.double()
        self.unit = (wide / wide.norm()).float()

    @property
    def hooks(self) -> list[tuple[str, Hook]]:
        """For `run_with_hooks`."""
        sites = [Site(layer, part) for layer in range(self.layers) for part in (*WRITES, *READS)]
        # what a layer leaves is what the next one reads
        kept = [s for s in sites if s.part != "resid_post" or s.layer == self.layers - 1]
        return [(site.hook, self.at(site)) for site in kept]

    def at(self, site: Site) -> Hook:
        clean = site.part == "resid_post" or (site.part == "resid_pre" and site.layer > 0)

        def hook(activation: Tensor, hook: Any = None) -> Tensor:
            self.fired[site.hook] = self.fired.get(site.hook, 0) + 1
            wide = activation.float()
            unit = self.unit.to(wide.device)
            along = wide @ unit
            if clean:
                share = along.abs() / wide.norm(dim=-1).clamp_min(1e-12)
                self.left = max(self.left, float(share.max()))
            left: Tensor = (wide - along[..., None] * unit).to(activation.dtype)
            return left

        return hook

    def checked(self, forwards: int, dtype: torch.dtype) -> None:
        """Every hook fired once a forward, and what layers read was clean.

        Raises:
            SelfCheckError: it was not so.
        """
        for name, _ in self.hooks:
            if self.fired.get(name, 0) != forwards:
                raise SelfCheckError(
                    f"hook {name} fired {self.fired.get(name, 0)} times in {forwards} forwards, "
                    "so a direction taken out there would come back"
                )
        if self.left > TOLERANCE[dtype]:
            raise SelfCheckError(
                f"a direction that was taken out of the residual stream came back: {self.left:.2g} "
                "of a token's length; this family writes to the stream where no hook reaches"
            )
