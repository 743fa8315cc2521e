"""``diffuse_change``: no single part of a model holds most of its difference from another.

A fine-tune, or the same fine-tune made again, changes a model everywhere. Damage to a head, an MLP or a layer lies in
one place: with that part's weights of the reference model A, the candidate B says what A says again, however small the
damage is. So the size of a change, which ``equivalent`` and ``same_text`` judge, and its concentration are two
questions. Each part of A is put into B alone (model grafting, Panigrahi et al. 2023;
`methods.circuits.graft_divergence`):

    K_i(m)   = KL(A || B with A's weights in part m) on row i
    share(m) = 1 - exp(mean over rows i of log(K_i(m) / K_i))

over the answers of the task, or over the lines of a text (``text``): what part m brings back of the divergence of a
typical row, as a geometric mean. The ratio of the two mean divergences would be what it brings back of a few rows:
after a re-fit, one row of a hundred may hold most of the mean, and any part that tips this row back seems to hold it
all. 1 is a part that brings back all; below 0 lies one that makes B less like A. ``at_most`` bounds the share of every
head, every MLP and every parameter outside the layers (embedding, last norm, unembedding), ``layers_at_most`` that of a
layer's attention and of a whole layer. In a small model a layer is a large part of everything, so the second bound is
higher, or left out.

The claim passes if the whole interval of *every* share is at most its bound: all must pass, so the chance to pass at a
bound needs no correction. It fails if some share is above its bound by Holm's correction for the number of parts. So
the largest of many shares needs no second half of the rows. Where a model has many heads (`claims.patched_alone`),
layers are grafted first, and heads and MLPs of those `LAYERS_INSIDE` layers that bring most back.

Two models that say the same hold no difference that could lie anywhere: where KL(A || B) is surely below ``same_below``
nats a prediction, by default what rounding does to a distribution, the claim passes without a share.

- *control*: some part must surely bring something back. Where none does, the models' activations may have different
  bases, in which no graft fits, and low shares show nothing.
- *chance*: A must do the task better than guessing, or predict the text better than word frequencies do.

Heads in another order do not fit alone: a graft repeats one and loses another. Where a head's graft at least doubles
the divergence, the claim does not pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pytest_mechanism.causes import Cause
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import PairClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.parts import (
    OTHER_COLUMNS,
    beyond,
    in_logs,
    is_head,
    large,
    logs,
    parts_of,
    share,
    spoken,
    whole,
)
from pytest_mechanism.claims.same_text import (
    MOST_LINES,
    Text,
    a_token,
    better_guess,
    named,
    passages_of,
    perplexity,
    too_short,
    unreadable,
)
from pytest_mechanism.claims.scoring import above_chance, guesses, performance, score
from pytest_mechanism.fields.thresholds import Drift, Negligible, ShareOfChange
from pytest_mechanism.measurements.grafting import BEFORE, AnswerDonation, GraftDivergence
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.member_weights import WeightDonation
from pytest_mechanism.measurements.text_divergence import TextDivergence, TextDonation
from pytest_mechanism.nodes import Node
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.statistics.estimates import Array, Estimate, Sampling
from pytest_mechanism.statistics.honesty import beats, not_needed
from pytest_mechanism.statistics.multiple import holm
from pytest_mechanism.statistics.verdicts import in_three_digits, shown
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.text.passages import LEAST, PASSAGES
from pytest_mechanism.types import Observations, Safeguard, Verdict

SAME = 1e-5
"""KL in nats a prediction below which two models say the same, by default: what rounding does to a distribution."""

DOES_NOT_FIT = -1.0
"""The share of a head whose graft doubles the divergence."""

LAYERS_INSIDE = 3
"""Of a large model, the layers whose heads and MLPs are grafted alone."""

ROWS = 210
"""Prompts of the task that are read at most, unless the claim asks for another number."""

METRIC = (
    "1 - geometric mean over rows of KL(A || B with A's weights in one part) / KL(A || B) (model grafting, Panigrahi "
    "et al. 2023; Kullback and Leibler 1951)"
)


@dataclass(frozen=True)
class Part:
    """A part of a model, and the share that it holds.

    Attributes:
        name: ``2.1``, ``2.mlp``, ``attention of layer 2``, ``layer 2``, or that of a parameter.
        share: with its interval.
        p: that the share is no larger than its bound, by Holm's correction.
    """

    name: str
    share: Estimate
    p: float


class DiffuseChange(PairClaim):
    """No part of a model holds most of its difference from another.

    Attributes:
        source: YAML ``from``: role of the reference model A, whose parts are grafted.
        to: role of the candidate B, into which they are put.
        at_most: the largest share of a head, an MLP, or a parameter outside the layers.
        layers_at_most: the largest share of a layer, or of its attention; None for no bound.
        same_below: the divergence below which the two models count as the same, in nats a prediction, so that a change
            may lie anywhere.
        text: a text file in UTF-8 beside the spec, or a list of lines; None for the answers of the task.
        lines: how many lines are read, from the first.
        prompts: how many prompts of the task are read.
        drift: by default as much as can be allowed: where a fine-tune happens to change most differs from one to
            the next, and the bounds say what is too much.
    """

    summary: ClassVar[str] = (
        "no head, MLP or layer alone holds most of the difference of two models"
    )
    if_red: ClassVar[str] = (
        "the change lies in one part of the model, which training does not do by itself: the reason names the part"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("at_most", "layers_at_most", "same_below")
    needs_groups: ClassVar[bool] = False
    matching_sizes: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads")

    kind: Literal["diffuse_change"]
    drift: Drift = 0.5
    at_most: ShareOfChange
    layers_at_most: ShareOfChange | None = None
    same_below: Negligible = SAME
    text: Text | None = None
    lines: Annotated[int, Field(strict=True, ge=LEAST, le=MOST_LINES)] = PASSAGES
    prompts: Annotated[int, Field(strict=True, ge=LEAST)] = ROWS

    @model_validator(mode="after")
    def check_text(self) -> DiffuseChange:
        if self.text is not None and (why := too_short(self.text, self.lines)):
            raise ValueError(why)
        return self

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return () if self.text else (("rows", ""),)

    def unsupported_reason(self, task: Task) -> str | None:
        if task.judges_replies and self.text is None:
            why = f"task {task.family} judges whole replies; name a text"
            return f"{self.kind} compares answers of one token, and {why}"
        return None

    # -- what is measured

    def read(self, context: ClaimContext) -> int:
        """How many prompts or lines are read."""
        if self.text is None:
            return min(self.prompts, context.rows)
        return len(passages_of(self.text, self.lines))

    def said(self, context: ClaimContext) -> Measurement:
        """What the reference model says."""
        if self.text is None:
            answers = AnswerDonation(rows=self.read(context), stream="rows")
            return context.measurement(answers, self.source)
        lines = passages_of(self.text, self.lines)
        return context.measurement(TextDonation(name=named(self.text), lines=lines), self.source)

    def grafted(
        self, context: ClaimContext, members: Mapping[str, Sequence[Node]], *, outside: bool
    ) -> Measurement[Observations]:
        """The divergence with each of some parts."""
        request = GraftDivergence(
            members={name: tuple(nodes) for name, nodes in members.items()},
            outside=outside,
            rows=self.read(context),
        )
        weights = context.measurement(WeightDonation(), self.source)
        return context.measurement(request, self.to, (weights, self.said(context)))

    def first(self, context: ClaimContext) -> Measurement[Observations]:
        """The grafts that are made whatever they show: of a large model, those of whole layers."""
        shape = context.shapes[self.to]
        members = {name: nodes for layer in range(shape.n_layers) for name, nodes in parts_of(shape, layer).items()
                   if name.startswith("layer ") or not large(shape)}  # fmt: skip
        return self.grafted(context, members, outside=True)

    def reference(self, context: ClaimContext) -> Measurement[Observations]:
        """Whether the reference model does the task, or predicts the text."""
        if self.text is None:
            return performance(context, self.source)
        request = TextDivergence(lines=self.read(context))
        return context.measurement(request, self.to, (self.said(context),))

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return self.reference(context), self.first(context)

    # -- what is judged

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        threshold = f"at most {self.at_most:g}"
        solved = self.solved(context, measure(self.reference(context)))
        if isinstance(solved, str):
            return verdicts.reference_fails(solved, threshold)
        found = measure(self.first(context))
        how = context.sampling(found)
        apart = a_token(found, how, BEFORE)
        size = f"KL({self.source} || {self.to}) {in_three_digits(apart)} nats a prediction"
        if apart.interval[1] < self.same_below:
            return replace(self.same(context, apart, size), chance=solved)
        columns = dict(found.values)
        if large(shape := context.shapes[self.to]):
            columns |= measure(self.inside(context, columns, shape)).values
        return replace(self.compared(context, columns, how, size), chance=solved)

    def solved(self, context: ClaimContext, found: Observations) -> Safeguard | str:
        """The comparison of the reference model with chance, or why it does no better."""
        if self.text is None:
            return above_chance(context, found) or guesses(context, self.source, found)
        why = unreadable(found, context.sampling(found), named(self.text), self.source, self.to)
        return why or Safeguard(
            f"guessing (perplexity {perplexity(found, better_guess(found)):.4g})"
        )

    def inside(
        self, context: ClaimContext, columns: Mapping[str, Array], shape: Shape
    ) -> Measurement[Observations]:
        """The grafts inside the layers that bring most back, of a large model."""

        def left(layer: int) -> float:
            return float(np.mean(logs(columns, f"layer {layer}")))

        best = sorted(range(shape.n_layers), key=lambda layer: (left(layer), layer))
        members = {name: nodes for layer in best[:LAYERS_INSIDE] for name, nodes in parts_of(shape, layer).items()
                   if not name.startswith("layer ")}  # fmt: skip
        return self.grafted(context, members, outside=False)

    def same(self, context: ClaimContext, apart: Estimate, size: str) -> Verdict:
        """The verdict on models that say the same, or nearly so."""
        nothing = replace(apart, value=0.0, interval=(0.0, 0.0), standard_error=0.0, method="exact")
        judged = score(context, "largest share of a head or MLP", nothing, METRIC, "lower")
        verdict = verdicts.within(judged, -math.inf, self.at_most)
        reason = f"the models say the same ({size}, below {self.same_below:g}), so where they differ does not matter"
        why = not_needed("models that say the same have no difference that could lie anywhere")
        return replace(verdict, reason=reason, control=why)

    def compared(
        self, context: ClaimContext, columns: Mapping[str, Array], how: Sampling, size: str
    ) -> Verdict:
        """The verdict on the shares of all parts."""
        shape = context.shapes[self.to]
        found = {name: in_logs(columns, name, how) for name in columns if name not in OTHER_COLUMNS}
        bounds = {name: self.layers_at_most if whole(name) else self.at_most for name in found}
        # of a large model, all parts count that might have been chosen
        count = max(len(found), shape.n_layers * (shape.n_heads + 3))
        ps = [beyond(found[name], bounds[name]) for name in found]
        adjusted = holm([*ps, *[1.0] * (count - len(ps))])[: len(ps)]
        parts = [Part(name, share(found[name]), p) for name, p in zip(found, adjusted, strict=True)]
        alone = [part for part in parts if not whole(part.name)]
        judged = [self.bounded(context, alone, self.at_most, "head or MLP", size)]
        if self.layers_at_most is not None:
            layers = [part for part in parts if whole(part.name)]
            what = "layer or its attention"
            judged.append(self.bounded(context, layers, self.layers_at_most, what, size))
        verdict = verdicts.together(judged)
        unfit = [p for p in parts if is_head(p.name) and p.share.interval[1] < DOES_NOT_FIT]
        if unfit and verdict.status == "pass":
            reason = (
                f"{spoken(unfit[0].name)} of {self.source} does not fit into {self.to} (share "
                f"{in_three_digits(unfit[0].share)}): heads in another order cannot be grafted alone"
            )
            cause = Cause.NOT_COMPARABLE
            verdict = replace(verdict, status="inconclusive", reason=reason, cause=cause)
        best = max(parts, key=lambda part: part.share.interval[0])
        return beats(
            verdict,
            f"a part that brings something back ({spoken(best.name)})",
            f"no part of {self.source}, put into {self.to} alone, surely brings anything back (most: "
            f"{spoken(best.name)}, {in_three_digits(best.share)}): their activations may have different bases",
            ahead=best.share.interval[0] > 0,
        )

    def bounded(
        self,
        context: ClaimContext,
        parts: Sequence[Part],
        at_most: float,
        what: str,
        size: str,
    ) -> Verdict:
        """The verdict on the parts of one bound."""
        alpha = 1 - context.confidence
        worst = max(parts, key=lambda part: part.share.interval[1])
        # the part may change from run to run, the judged and accepted quantity does not
        judged = score(context, f"largest share of a {what}", worst.share, METRIC, "lower")
        verdict = verdicts.within(
            judged, -math.inf, at_most, f"largest of {len(parts)} shares ({size}), {spoken(worst.name)}:"
        )  # fmt: skip
        above = sorted(
            (part for part in parts if part.p < alpha), key=lambda part: -part.share.value
        )
        if above:
            first, *others = above
            also = f"; also {', '.join(spoken(part.name) for part in others)}" if others else ""
            reason = (
                f"{spoken(first.name)} of {self.source}, put into {self.to} alone, brings back "
                f"{shown(first.share.value, first.share.interval)} of a typical row's divergence ({size}); claimed: "
                f"at most {at_most:g}{also}"
            )
            return replace(verdict, status="fail", reason=reason, cause=Cause.REFUTED)
        if verdict.status == "fail":
            reason = f"{verdict.reason}, not significant once corrected for all parts"
            return replace(verdict, status="inconclusive", reason=reason, cause=Cause.UNSETTLED)
        return verdict
