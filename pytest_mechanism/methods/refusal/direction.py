"""The refusal direction: finds it, ablates it, and compares it between models.

Arditi et al. 2024 (arXiv 2406.11717), sections 2.3 and 2.4, appendix C:

    r(l, p) = mean over harmful of h(l, p) - mean over harmless of h(l, p)        [d_model]

h(l, p) is the residual stream after layer l at p, one of the template's tokens after the instruction.
Among all (l, p) in the first 80 % of the layers, the search chooses the direction whose ablation
(`methods.circuits.projection`) gives the lowest refusal score on harmful instructions, with a KL
divergence of at most 0.1 on the next token of harmless ones. Averages, choice and evaluation use
disjoint instructions.

Other than published:

- The paper's third filter is left out: that r, added to the stream at its layer, induces refusals of
  harmless instructions (``induce_score`` above 0 in the published code). The claim's controls are
  random directions instead.
- The published code drops harmful instructions that the model does not refuse, and harmless ones that
  it refuses, before it averages and chooses. Here all instructions count; the claim is inconclusive on
  a model that does not refuse.
- The published h(l, p) is the input of layer l; here it is the output, so the first candidates come
  after layer 0 and not after the embedding. They are candidates even if 80 % of the layers are less
  than one.
- The instructions are the spec's, with the same number of each kind. A place with the same residual
  stream in all prompts is not a candidate, since its difference is rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.direction import (
    LAYER_SHARE,
    Direction,
    DirectionAblation,
    DirectionComparison,
    DirectionResult,
    RefusalDirection,
)
from pytest_mechanism.methods.circuits.projection import DirectionHooks
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.refusal_score import RefusalScorer
from pytest_mechanism.methods.token_batches import chunks
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import canonical

ROUNDING = 1e-4
"""Relative norm below which a difference is rounding, as at template tokens that attend to nothing
else."""


@dataclass(frozen=True)
class Candidate:
    """A direction's place, and the effect of its ablation.

    Attributes:
        layer: the residual stream is read after this layer.
        place: token position from the prompt's end: -1 is the last.
        score: mean refusal score on harmful validation instructions after ablation.
        divergence: mean KL(before || after ablation) on harmless ones, in nats.
    """

    layer: int
    place: int
    score: float
    divergence: float


@dataclass(frozen=True, eq=False)
class Search:
    """The result of a search for the direction.

    Attributes:
        candidates: all candidates.
        best: the chosen candidate, or None if none is within the bound of the KL divergence.
        differences: of the stream at its place, harmful minus harmless, instruction by instruction;
            their mean is r. No rows without a choice.
        rows: ids of these rows.
    """

    candidates: tuple[Candidate, ...]
    best: Candidate | None
    differences: Float[Tensor, "rows d_model"]
    rows: tuple[str, ...]

    @property
    def vector(self) -> Float[Tensor, " d_model"]:
        """r, in float64 on the CPU."""
        return self.differences.double().mean(0)

    def result(self, columns: Columns, rows: Sequence[Row]) -> DirectionResult:
        """The columns with a summary of the search."""
        direction = self.best and Direction(self.best.layer, self.best.place)
        return columns.result(
            DirectionResult,
            rows,
            direction=direction,
            least_divergence=min((c.divergence for c in self.candidates), default=float("inf")),
        )


def find(context: MeasurementContext, request: RefusalDirection, inputs: Sequence[Any]) -> Search:
    """The model's refusal direction, kept for later requests on the same model."""
    settings = (request.learn, request.validate_on, request.kl_at_most)
    key = ("direction", canonical(context.task.settings.model_dump(mode="json")), settings)
    return context.remember(key, lambda: _find(context, *settings))


def _find(context: MeasurementContext, learn: int, validate: int, kl_at_most: float) -> Search:
    harmful, harmless = balanced_instructions(context, learn, "direction")
    places = range(-after_instruction(context, [*harmful, *harmless]), 0)
    layers = [
        layer
        for layer in range(context.model.shape.n_layers)
        if layer == 0 or layer + 1 < LAYER_SHARE * context.model.shape.n_layers
    ]
    sites = [(layer, place) for layer in layers for place in places]
    differences = {}
    for site, bad, good in zip(
        sites,
        residual_streams(context, harmful, sites),
        residual_streams(context, harmless, sites),
        strict=True,
    ):
        difference, norm = bad - good, float(good.double().norm(dim=-1).mean())
        if float(difference.double().mean(0).norm()) > ROUNDING * norm:
            differences[site] = difference
    candidates = tuple(validate_candidates(context, differences, validate))
    within = [candidate for candidate in candidates if candidate.divergence <= kl_at_most]
    if not within:
        return Search(candidates, None, torch.zeros(0, context.model.shape.d_model), ())
    best = min(within, key=lambda candidate: candidate.score)
    rows = tuple(row.id for row in harmful)
    return Search(candidates, best, differences[best.layer, best.place], rows)


def balanced_instructions(
    context: MeasurementContext, count: int, stream: str
) -> tuple[list[Row], list[Row]]:
    """The same number of harmful and harmless rows of a stream, without repeated instructions.

    Raises:
        MeasurementError: there are fewer than two.
    """
    harmful, harmless = (
        list({row.cluster: row for row in rows}.values())
        for rows in (
            context.task.forbidden(context.vocabulary, count, stream),
            context.task.allowed(context.vocabulary, count, stream),
        )
    )
    n = min(len(harmful), len(harmless))
    if n < 2:
        raise MeasurementError(f"{n} instructions are too few to find a refusal direction")
    return harmful[:n], harmless[:n]


def after_instruction(context: MeasurementContext, rows: Sequence[Row]) -> int:
    """The number of tokens after the instruction in all prompts; 1 for tasks without instructions."""
    encoded = [context.model.encoder.encode(row.base) for row in rows]
    if any("instruction" not in prompt.positions for prompt in encoded):
        return 1
    ends = (len(prompt.ids) - 1 - prompt.positions["instruction"][-1] for prompt in encoded)
    return max(1, min(ends))


def residual_streams(
    context: MeasurementContext, rows: Sequence[Row], sites: Sequence[tuple[int, int]]
) -> list[Float[Tensor, "rows d_model"]]:
    """The stream at each (layer, place), on the CPU."""
    parts: list[list[Tensor]] = [[] for _ in sites]
    for batch in chunks(rows, context.batch_size):
        tokens = context.side([row.base for row in batch]).tokens
        readings = [
            Reading(Site(layer, "resid_post"), at=(tokens.lengths + place)[:, None])
            for layer, place in sites
        ]
        outcome = context.engine.run(tokens, readings=readings, answer=False).outcome
        for part, reading in zip(parts, outcome.readings, strict=True):
            part.append(reading[:, 0, 0].float().cpu())
    return [torch.cat(part) for part in parts]


def validate_candidates(
    context: MeasurementContext,
    differences: Mapping[tuple[int, int], Float[Tensor, "rows d_model"]],
    count: int,
) -> Iterator[Candidate]:
    """Refusal score and KL divergence after ablation of the direction of each (layer, place)."""
    harmful, harmless = balanced_instructions(context, count, "validation")
    scorer = RefusalScorer.for_rows(context, harmful)
    bad, good = (
        [
            context.side([row.base for row in batch]).tokens
            for batch in chunks(rows, context.batch_size)
        ]
        for rows in (harmful, harmless)
    )
    clean = [scorer.first(tokens).log_softmax(-1).cpu() for tokens in good]
    for (layer, place), difference in differences.items():
        without = DirectionHooks(difference.double().mean(0), context.model.shape.n_layers)
        scores = [scorer.score(scorer.first(tokens, without.hooks)) for tokens in bad]
        divergences = []
        for tokens, before in zip(good, clean, strict=True):
            after = scorer.first(tokens, without.hooks).log_softmax(-1).cpu()
            divergences.append((before.exp() * (before - after)).sum(-1))
        without.check(len(bad) + len(good), context.model.dtype)
        yield Candidate(
            layer, place, float(torch.cat(scores).mean()), float(torch.cat(divergences).mean())
        )


def measure(
    context: MeasurementContext, request: DirectionAblation, inputs: Sequence[Any]
) -> DirectionResult:
    """Refusals before and after ablation of the direction, and of random directions.

    Columns ``refused`` and ``refusal_score``; the same with the prefix ``without_`` after ablation, if
    the search chose a direction; and with ``random_0_``, ``random_1_``, ... for random directions.

    Args:
        context: of the model.
        request: see `DirectionAblation`.
        inputs: another model's `Search`, to ablate its direction instead of the model's own.
    """
    search: Search = inputs[0] if request.search is None else find(context, request.search, ())
    layers, width = context.model.shape.n_layers, context.model.shape.d_model
    directions: dict[str, Tensor] = {}
    if search.best is not None:
        directions["without_"] = check_width(context, search.vector)
    for i in range(request.random):
        rng = np.random.default_rng([request.seed, i])
        directions[f"random_{i}_"] = torch.from_numpy(rng.standard_normal(width))
    rows = context.task.forbidden(context.vocabulary, request.rows, request.stream)
    scorer = RefusalScorer.for_rows(context, rows)
    columns = Columns()
    ablations = {name: DirectionHooks(direction, layers) for name, direction in directions.items()}
    taken: Counter[str] = Counter()
    for batch in chunks(rows, context.batch_size):
        tokens = context.side([row.base for row in batch]).tokens
        for name, ablation in {"": None, **ablations}.items():
            refused, score, forwards = scorer(tokens, ablation.hooks if ablation else ())
            taken[name] += forwards
            columns.add(f"{name}refused", refused)
            columns.add(f"{name}refusal_score", score)
    for name, ablation in ablations.items():
        ablation.check(taken[name], context.model.dtype)
    return search.result(columns, rows)


def compare(
    context: MeasurementContext, request: DirectionComparison, inputs: Sequence[Any]
) -> DirectionResult:
    """The directions of this model and of another one at the same place, as products of rows.

    Rows are the N instructions of `find`. With D [N, d] the differences of this model and D' those of
    the other one, the columns ``own_j``, ``other_j`` and ``both_j`` are column j of D D^T, D' D'^T and
    D D'^T, from which `statistics.cosine` computes the cosine of the means on any resampled rows.
    """
    search: Search = inputs[0]
    harmful, harmless = balanced_instructions(context, request.learn, "direction")
    columns = Columns()
    if search.best is not None:
        best = search.best
        if tuple(row.id for row in harmful) != search.rows:
            raise MeasurementError("the two models have different rows, so their directions differ")
        if best.layer >= context.model.shape.n_layers:
            raise MeasurementError(
                f"the direction comes from layer {best.layer}, but the model of role "
                f"{context.model.role} has layers 0 to {context.model.shape.n_layers - 1}"
            )
        check_width(context, search.vector)
        site = [(best.layer, best.place)]
        (bad,) = residual_streams(context, harmful, site)
        (good,) = residual_streams(context, harmless, site)
        own, other = (bad - good).double(), search.differences.double()
        for name, product in (
            ("own", own @ own.T),
            ("other", other @ other.T),
            ("both", own @ other.T),
        ):
            for j, column in enumerate(product.T):
                columns.add(f"{name}_{j}", column)
    return search.result(columns, harmful)


def check_width(
    context: MeasurementContext, vector: Float[Tensor, " d_model"]
) -> Float[Tensor, " d_model"]:
    """The direction, after a check that it has the width of the model's residual stream.

    Raises:
        MeasurementError: it has another width.
    """
    if len(vector) != context.model.shape.d_model:
        raise MeasurementError(
            f"the direction has width {len(vector)}, but the residual stream of role "
            f"{context.model.role} has {context.model.shape.d_model}, so it cannot be ablated there"
        )
    return vector
