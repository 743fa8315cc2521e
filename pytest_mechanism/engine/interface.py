"""A run and its branches: the terms in which every method is written.

A *run* is one prompt batch through one model with given edits, remembered. A *branch* is that run
with a few more edits from some position on. Path patching, activation patching, DCM, CMAP,
knockout, minimality and completeness are all "this run, those branches". What a branch may share
with its run is the engine's business; what comes out is not.

Shapes: R rows, S tokens, H heads (query heads for ``q`` and ``z``; key-value heads for ``k`` and
``v``), d width of a head or of the residual stream, K positions a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pytest_mechanism.engine.finite import Finite

Part = Literal["q", "k", "v", "scores", "z", "attn_out", "mlp_out", "resid_pre", "resid_post"]

HOOKS: dict[str, str] = {
    "q": "blocks.{layer}.attn.hook_q",
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "scores": "blocks.{layer}.attn.hook_attn_scores",
    "z": "blocks.{layer}.attn.hook_z",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_post": "blocks.{layer}.hook_resid_post",
}
"""transformer-lens' names, the same for every family.

``hook_resid_mid`` is missing on purpose: an edit there reaches the MLP but not the skip path.
``scores``, [R, H, S, S], can be cut by a `Knockout` but neither edited nor read.
"""


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model.

    Attributes:
        layer: counted from 0.
        part: which activation of that layer.
    """

    layer: int
    part: Part

    @property
    def hook(self) -> str:
        return HOOKS[self.part].format(layer=self.layer)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A prompt batch, padded on the right.

    Attributes:
        ids: [R, S].
        lengths: [R], tokens of each row without padding; the answer is read at the last one.
    """

    ids: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """[R, S], 1 where a token is."""
        return (
            torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]
        ).long()

    @property
    def unmasked(self) -> Tensor:
        """[R, S] of ones, which models get as their mask: no token looks at the padding behind it,
        and where padding must not look at itself, a sliding window may leave it nothing to look at,
        of which some models make NaN in whole rows."""
        return torch.ones_like(self.ids)

    @property
    def last(self) -> Tensor:
        """[R], where the answer is read."""
        return self.lengths - 1


@dataclass(frozen=True, eq=False)
class Edit:
    """New values at a site: ``keep * what was there + (1 - keep) * value``.

    Attributes:
        site: where.
        value: broadcastable to [R, K, heads, d] (to [R, S, H, d] without ``at`` and ``heads``);
            sites without heads have one.
        at: [R, K] token positions, or None for every position. A position that stands there twice
            gets one of its two values, nobody knows which: give it the same twice.
        heads: which heads, or None for all.
        keep: share of the old value, broadcastable like ``value``; may carry gradients. None is 0.
    """

    site: Site
    value: Tensor
    at: Tensor | None = None
    heads: tuple[int, ...] | None = None
    keep: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """An activation to be recorded, as [R, K, heads, d] after all edits.

    Attributes:
        site: where.
        at: [R, K] token positions, or None for every position.
        heads: which heads, or None for all.
    """

    site: Site
    at: Tensor | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Alive:
    """Heads whose attention is computed in a held branch.

    Attributes:
        layer: counted from 0.
        at: [R, K] token positions, or None for every position.
        heads: which heads, or None for all.
    """

    layer: int
    at: Tensor | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Knockout:
    """Attention that is cut: these queries do not see these keys (Geva et al. 2023).

    The scores are set to the least number of the model's dtype before the softmax. Each query must
    keep a key that it sees, or its attention means nothing.

    Attributes:
        layer: counted from 0.
        queries: [R, K] token positions.
        keys: [R, J] token positions.
        heads: which heads, or None for all.
    """

    layer: int
    queries: Tensor
    keys: Tensor
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Branch:
    """More edits on a run, and what to record there.

    Attributes:
        edits: made after the run's own, in this order.
        readings: what to record.
        held: z of every head at every token stays what it was in the run; MLPs and norms
            recompute. Path patching's first pass holds a clean run, a circuit holds an ablated one.
        alive: where a held branch computes z all the same, the run's own edits of z lifted.
        knockouts: attention that is cut.
        answer: whether logits are wanted; without, an engine may stop at the last reading.
    """

    edits: Sequence[Edit] = ()
    readings: Sequence[Reading] = ()
    held: bool = False
    alive: Sequence[Alive] = ()
    knockouts: Sequence[Knockout] = ()
    answer: bool = True


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out.

    Attributes:
        logits: [R, V] in float32 (float64 of a float64 model) at each row's last token; [R, 0] where no answer was wanted.
        readings: in the order asked for; nothing is said about positions after a row's last token.
    """

    logits: Tensor
    readings: tuple[Tensor, ...]


class Run(Protocol):
    """A run that is remembered."""

    @property
    def outcome(self) -> Outcome: ...

    def branches(self, branches: Iterable[Branch], gradients: bool = False) -> Iterator[Outcome]:
        """The outcomes in order. With ``gradients``, they are differentiable in the branches' own
        edits."""
        ...


class Engine(Protocol):
    """Runs a loaded model.

    Attributes:
        name: part of every measurement's key.
        tick: called with the number of rows of each forward.
        finite: looks at all that comes out.
    """

    name: str
    tick: Callable[[int], None] | None
    finite: Finite

    def run(
        self,
        tokens: Tokens,
        edits: Sequence[Edit] = (),
        readings: Sequence[Reading] = (),
        *,
        answer: bool = True,
    ) -> Run:
        """One batch with given edits.

        Args:
            tokens: the batch.
            edits: made in the run and in its branches.
            readings: what to record.
            answer: whether logits are wanted; without, an engine may stop at the last reading.

        Raises:
            SelfCheckError: a hook that an edit or reading needs did not fire exactly once.
        """
        ...
