"""The refusal direction: found, taken out, and compared between models.

Arditi et al. 2024 (arXiv 2406.11717), sections 2.3 and 2.4, appendix C:

    r(l, p) = mean over harmful of h(l, p) - mean over harmless of h(l, p)

h(l, p): the residual stream after layer l at p, one of the tokens that the template puts after the
instruction. Of all (l, p) in the first 80 % of the layers, that one is chosen whose ablation
(`methods.projection`) leaves the lowest refusal score on harmful instructions, while the next-token
distribution on harmless ones stays within a KL divergence of 0.1. Found, chosen and judged are on
instructions of their own.

Other than published:

- The paper's third filter is left out: that r, added to the stream at its layer, makes harmless
  instructions refused (``induce_score`` above 0 in the published code). A direction that suppresses
  refusal when it is taken out and does not induce it is chosen here all the same; the claim's
  controls are random directions, not that filter.
- The published code drops harmful instructions that the model does not refuse, and harmless ones
  that it refuses, before it averages and chooses. Here all are kept; a model that does not refuse is
  inconclusive.
- The published h(l, p) is what layer l reads; here it is what layer l leaves, so the first candidates
  come after layer 0 and not after the embedding. A model of a few layers always has that one, whatever
  80 % of its layers are.
- Instructions are the spec's; so many of each kind as the smaller set has. Places that all prompts
  have in common before any layer are no candidates: their difference is rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.direction import (
    Direction,
    DirectionAblation,
    DirectionComparison,
    DirectionResult,
    RefusalDirection,
)
from pytest_mechanism.methods.circuits.projection import DirectionHooks
from pytest_mechanism.methods.context import Columns, MeasurementContext, chunks
from pytest_mechanism.methods.refusal.refusal import Examination, asked
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import canonical

SHARE = 0.8
"""Of the layers: later directions are about the tokens to be said, not about refusing."""

SAME = 1e-4
"""Of the stream's length. Shorter differences are rounding: before the first layer, all prompts
have the same template."""


@dataclass(frozen=True)
class Candidate:
    """A place at which a direction was read, and what taking it out does.

    Attributes:
        layer: it is read after this layer.
        place: token, counted from the prompt's end: -1 is the last.
        score: mean refusal score on harmful validation instructions without it.
        divergence: mean KL(with || without) on harmless ones, in nats.
    """

    layer: int
    place: int
    score: float
    divergence: float


@dataclass(frozen=True, eq=False)
class Search:
    """What was found.

    Attributes:
        tried: every candidate.
        best: the chosen one, or None where none could be taken out within the bound.
        differences: [N, d] at its place, harmful minus harmless, instruction by instruction;
            their mean is r. No rows where there is none.
        rows: names of these N.
    """

    tried: tuple[Candidate, ...]
    best: Candidate | None
    differences: Tensor
    rows: tuple[str, ...]

    @property
    def vector(self) -> Tensor:
        """[d], float64 on the CPU."""
        return self.differences.double().mean(0)

    def result(self, columns: Columns, rows: Sequence[Row]) -> DirectionResult:
        """Columns with the direction that they are about."""
        best = self.best
        direction = best and Direction(
            best.layer, best.place, float(self.vector.norm()), best.divergence
        )
        return columns.result(
            DirectionResult,
            rows,
            direction=direction,
            least_divergence=min((each.divergence for each in self.tried), default=float("inf")),
            candidates=len(self.tried),
        )


def find(context: MeasurementContext, request: RefusalDirection, inputs: Sequence[Any]) -> Search:
    """The model's refusal direction.

    Arguments: ``learn`` (instructions of each kind that are averaged), ``validate`` (of each kind
    among which is chosen), ``kl_at_most``.
    """
    wanted = (request.learn, request.validate_on, request.kl_at_most)
    key = ("direction", canonical(context.task.settings.model_dump(mode="json")), wanted)
    return context.remember(key, lambda: _find(context, *wanted))


def _find(context: MeasurementContext, learn: int, validate: int, kl_at_most: float) -> Search:
    harmful, harmless = kinds(context, learn, "direction")
    places = range(-after_instruction(context, [*harmful, *harmless]), 0)
    layers = [
        layer
        for layer in range(context.model.shape.n_layers)
        if layer == 0 or layer + 1 < SHARE * context.model.shape.n_layers
    ]
    where = [(layer, place) for layer in layers for place in places]
    bad, good = streams(context, harmful, where), streams(context, harmless, where)
    differences = {}
    for site, theirs, ours in zip(where, bad, good, strict=True):
        gap, length = theirs - ours, float(ours.double().norm(dim=-1).mean())
        if float(gap.double().mean(0).norm()) > SAME * length:
            differences[site] = gap
    tried = tuple(validated(context, differences, validate))
    within = [each for each in tried if each.divergence <= kl_at_most]
    if not within:
        return Search(tried, None, torch.zeros(0, context.model.shape.d_model), ())
    best = min(within, key=lambda each: each.score)
    names = tuple(row.id for row in harmful)
    return Search(tried, best, differences[best.layer, best.place], names)


def kinds(context: MeasurementContext, count: int, stream: str) -> tuple[list[Row], list[Row]]:
    """As many harmful as harmless rows of a stream, no instruction twice.

    Raises:
        MeasurementError: too few.
    """
    found: list[list[Row]] = []
    for rows in (
        context.task.forbidden(context.vocabulary, count, stream),
        context.task.allowed(context.vocabulary, count, stream),
    ):
        found.append(list({row.cluster: row for row in rows}.values()))
    n = min(map(len, found))
    if n < 2:
        raise MeasurementError(f"{n} instructions are too few to find a direction")
    return found[0][:n], found[1][:n]


def after_instruction(context: MeasurementContext, rows: Sequence[Row]) -> int:
    """How many tokens stand after the instruction in every prompt; 1 where a task does not say."""
    encoded = [context.model.encoder.encode(row.base) for row in rows]
    if any("instruction" not in each.positions for each in encoded):
        return 1
    return max(1, min(len(e.ids) - 1 - e.positions["instruction"][-1] for e in encoded))


def streams(
    context: MeasurementContext, rows: Sequence[Row], where: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """[N, d] on the CPU for each (layer, place)."""
    parts: list[list[Tensor]] = [[] for _ in where]
    for some in chunks(rows, context.batch_size):
        tokens = context.side([row.base for row in some]).tokens
        readings = [
            Reading(Site(layer, "resid_post"), at=(tokens.lengths + place)[:, None])
            for layer, place in where
        ]
        found = context.engine.run(tokens, readings=readings, answer=False).outcome.readings
        for part, reading in zip(parts, found, strict=True):
            part.append(reading[:, 0, 0].float().cpu())
    return [torch.cat(part) for part in parts]


def validated(
    context: MeasurementContext, differences: Mapping[tuple[int, int], Tensor], count: int
) -> Iterator[Candidate]:
    """Refusal score and KL divergence when each (layer, place)'s direction is taken out."""
    harmful, harmless = kinds(context, count, "validation")
    examine = Examination.on(context, harmful)
    bad = [asked(context, [r.base for r in part]) for part in chunks(harmful, context.batch_size)]
    good = [asked(context, [r.base for r in part]) for part in chunks(harmless, context.batch_size)]
    clean = [examine.first(tokens).log_softmax(-1).cpu() for tokens in good]
    for (layer, place), difference in differences.items():
        without = DirectionHooks(difference.double().mean(0), context.model.shape.n_layers)
        scores = [examine.score(examine.first(tokens, without.hooks)) for tokens in bad]
        gaps = []
        for tokens, before in zip(good, clean, strict=True):
            after = examine.first(tokens, without.hooks).log_softmax(-1).cpu()
            gaps.append((before.exp() * (before - after)).sum(-1))
        without.check(len(bad) + len(good), context.model.dtype)
        yield Candidate(
            layer, place, float(torch.cat(scores).mean()), float(torch.cat(gaps).mean())
        )


def measure(
    context: MeasurementContext, request: DirectionAblation, inputs: Sequence[Any]
) -> DirectionResult:
    """Refusal with and without the direction, and without random ones.

    Columns ``refused`` and ``refusal_score``, the same with ``without_`` where a direction was
    found, and with ``random_0_``, ``random_1_``, ... before them.

    Arguments: those of `find`, ``rows``, ``stream``, ``random`` (how many random directions),
    ``seed``. Inputs: another model's `Search`, whose direction is taken out instead of the own.
    """
    search: Search = inputs[0] if inputs else find(context, request.search, ())
    layers, width = context.model.shape.n_layers, context.model.shape.d_model
    directions: dict[str, Tensor] = {}
    if search.best is not None:
        directions["without_"] = fitting(context, search.vector)
    for i in range(request.random):
        rng = np.random.default_rng([request.seed, i])
        directions[f"random_{i}_"] = torch.from_numpy(rng.standard_normal(width))
    rows = context.task.forbidden(context.vocabulary, request.rows, request.stream)
    examine = Examination.on(context, rows)
    columns = Columns()
    taken = {name: DirectionHooks(direction, layers) for name, direction in directions.items()}
    for part in chunks(rows, context.batch_size):
        tokens = asked(context, [row.base for row in part])
        for name, without in {"": None, **taken}.items():
            refused, score = examine(tokens, without.hooks if without else ())
            columns.add(f"{name}refused", refused)
            columns.add(f"{name}refusal_score", score)
    forwards = len(list(chunks(rows, context.batch_size))) * context.task.reply_tokens
    for without in taken.values():
        without.check(forwards, context.model.dtype)
    return search.result(columns, rows)


def compare(
    context: MeasurementContext, request: DirectionComparison, inputs: Sequence[Any]
) -> DirectionResult:
    """The direction of another model and this one's at the same place, as products of rows.

    Rows are the N instructions of `find`. With D the differences there and D' those of the other
    model, columns ``own_j``, ``other_j`` and ``both_j`` hold column j of D D^T, D' D'^T and D D'^T:
    all that a cosine of means needs, on whichever rows it is taken again (`statistics.cosine`).
    """
    search: Search = inputs[0]
    harmful, harmless = kinds(context, request.learn, "direction")
    columns = Columns()
    if search.best is not None:
        best = search.best
        if tuple(row.id for row in harmful) != search.rows:
            raise MeasurementError("the two models were asked different rows")
        if best.layer >= context.model.shape.n_layers:
            raise MeasurementError(
                f"the direction was found after layer {best.layer}; the model of role "
                f"{context.model.role} has layers 0 to {context.model.shape.n_layers - 1}"
            )
        fitting(context, search.vector)
        where = [(best.layer, best.place)]
        (bad,), (good,) = streams(context, harmful, where), streams(context, harmless, where)
        own, other = (bad - good).double(), search.differences.double()
        for name, product in (
            ("own", own @ own.T),
            ("other", other @ other.T),
            ("both", own @ other.T),
        ):
            for j, column in enumerate(product.T):
                columns.add(f"{name}_{j}", column)
    return search.result(columns, harmful)


def fitting(context: MeasurementContext, vector: Tensor) -> Tensor:
    """A direction that this model's residual stream can have.

    Raises:
        MeasurementError: it has another width.
    """
    if len(vector) != context.model.shape.d_model:
        raise MeasurementError(
            f"the direction has width {len(vector)}, the residual stream of role "
            f"{context.model.role} {context.model.shape.d_model}: it cannot be taken out there"
        )
    return vector
