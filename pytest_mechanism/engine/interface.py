"""A run and its branches: the terms in which every method is written.

A *run* is one batch of prompts through one model with some edits. A *branch* is that run with
further edits. Path patching, activation patching, DCM, CMAP, knockout, minimality and completeness
are all "this run, those branches". How much of the run a branch reuses is the engine's business; the
numbers are the same.

Shapes: ``heads`` are query heads for ``q`` and ``z``, key-value heads for ``k`` and ``v``, and one
for sites without heads; ``width`` is that of a head or of the residual stream; ``places`` are token
positions that an edit or a reading names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.model_families.attention import attention_mask

if TYPE_CHECKING:
    from pytest_mechanism.engine.finite import NonFiniteRows

Part = Literal["q", "k", "v", "scores", "z", "attn_out", "mlp_out", "resid_pre", "resid_post"]

Positions = Int[Tensor, "rows places"]
"""Token positions of each row."""

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
``scores``, [rows, heads, queries, keys], can be cut by a `Knockout` but neither edited nor read.
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
    """A batch of prompts, padded on the right.

    Attributes:
        ids: token ids.
        lengths: tokens of each row without padding; the answer is read at the last one.
        batches: how many batches of this size have all rows of the measurement; 0 where that is not known. An
            engine keeps more of each run where there is room for all of them.
    """

    ids: Int[Tensor, "rows tokens"]
    lengths: Int[Tensor, " rows"]
    batches: int = 0

    @property
    def mask(self) -> Int[Tensor, "rows tokens"]:
        """1 where a token is, 0 where padding is."""
        return (
            torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]
        ).long()

    def mask_for(self, model: Any) -> Int[Tensor, "rows tokens"]:
        """The attention mask that a plain Hugging Face model gets with this batch."""
        return attention_mask(model, self.ids, self.lengths)

    @property
    def last(self) -> Int[Tensor, " rows"]:
        """Position of each row's last token, where the answer is read."""
        return self.lengths - 1


@dataclass(frozen=True, eq=False)
class Edit:
    """A new activation at a site: ``keep * old + (1 - keep) * value``.

    Attributes:
        site: where.
        value: broadcastable to [rows, places, heads, width].
        at: token positions, or None for all. Where a row names a position twice, give the same
            value twice: which of the two counts is undefined.
        heads: which heads, or None for all.
        keep: share of the old activation, broadcastable like ``value``; may carry gradients. None
            is 0.
    """

    site: Site
    value: Float[Tensor, ...]
    at: Positions | None = None
    heads: tuple[int, ...] | None = None
    keep: Float[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """An activation to record after all edits, as [rows, places, heads, width].

    Attributes:
        site: where.
        at: token positions, or None for all.
        heads: which heads, or None for all.
    """

    site: Site
    at: Positions | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class ActiveHeads:
    """Heads whose attention is computed in a branch with frozen attention.

    Attributes:
        layer: counted from 0.
        at: token positions, or None for all.
        heads: which heads, or None for all.
    """

    layer: int
    at: Positions | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class ActiveMlp:
    """An MLP whose output is the computed one in a branch, without the run's own edits of it.

    Attributes:
        layer: counted from 0.
        at: token positions, or None for all.
    """

    layer: int
    at: Positions | None = None


@dataclass(frozen=True, eq=False)
class Knockout:
    """Attention that is cut: these queries do not attend to these keys (Geva et al. 2023).

    Before the softmax, the scores become the lowest number of the model's dtype. Each query must
    keep a key that it can attend to, or its attention means nothing.

    Attributes:
        layer: counted from 0.
        queries: token positions.
        keys: token positions.
        heads: which heads, or None for all.
    """

    layer: int
    queries: Int[Tensor, "rows queries"]
    keys: Int[Tensor, "rows keys"]
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Branch:
    """Further edits on a run, and what to record there.

    Attributes:
        edits: applied after the run's own, in this order.
        readings: what to record.
        freeze_attention: z of every head at every token keeps the run's value; MLPs and norms
            recompute. Path patching's first pass freezes a clean run, a circuit freezes an ablated
            one.
        active_heads: where a branch with frozen attention computes z all the same, without the
            run's own edits of z.
        active_mlps: where a branch leaves out the run's own edits of MLPs' outputs.
        knockouts: attention that is cut.
        answer: whether logits are wanted; without, an engine may stop at the last reading.
    """

    edits: Sequence[Edit] = ()
    readings: Sequence[Reading] = ()
    freeze_attention: bool = False
    active_heads: Sequence[ActiveHeads] = ()
    active_mlps: Sequence[ActiveMlp] = ()
    knockouts: Sequence[Knockout] = ()
    answer: bool = True


@dataclass(frozen=True, eq=False)
class Outcome:
    """Logits and readings of a run or a branch.

    Attributes:
        logits: at each row's last token, in float32 (float64 of a float64 model); without columns
            where no answer was wanted.
        readings: in the order asked for; undefined at positions after a row's last token.
        together: logits of the branches that were computed together with this one, in their order, if
            there are such: ``logits`` is a part of them (`methods.readout.log_probabilities`).
    """

    logits: Float[Tensor, "rows words"]
    readings: tuple[Float[Tensor, "rows _ _ _"], ...]
    together: Float[Tensor, "branches rows words"] | None = None


@runtime_checkable
class Run(Protocol):
    """One batch through one model."""

    @property
    def outcome(self) -> Outcome: ...

    def branches(self, branches: Iterable[Branch], gradients: bool = False) -> Iterator[Outcome]:
        """The branches' outcomes, in order. With ``gradients``, outcomes are differentiable in the
        branches' own edits."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs a loaded model.

    Attributes:
        name: part of every measurement's key.
        tick: called with the number of rows of each forward.
        non_finite: remembers rows on which the model gave NaN or infinity.
    """

    name: str
    tick: Callable[[int], None] | None
    non_finite: NonFiniteRows

    def run(
        self,
        tokens: Tokens,
        edits: Sequence[Edit] = (),
        readings: Sequence[Reading] = (),
        *,
        answer: bool = True,
    ) -> Run:
        """One batch with some edits.

        Args:
            tokens: the batch.
            edits: applied in the run and in its branches.
            readings: what to record.
            answer: whether logits are wanted; without, an engine may stop at the last reading.

        Raises:
            SelfCheckError: a hook that an edit or reading needs did not fire exactly once.
        """
        ...
