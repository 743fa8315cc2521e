"""Which head, MLP or layer of the reference model brings a candidate's answers back, in words.

Each is put into the candidate alone, with its weights and nothing else (`methods.circuits.grafting`): a member that
only reads what broke brings nothing back, and the broken one brings all. Asked whatever a red claim is about, with or
without groups: what is read is the log-probability of the right answers. It says nothing where no answer became less
likely, such as of work that moved from head to head (`runner.locate`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.moved_work import called
from pytest_mechanism.claims.patched_alone import ALL_UP_TO
from pytest_mechanism.claims.scoring import check_paired
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.grafting import BEFORE, MemberGraft
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.member_weights import WeightDonation
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.nodes import MLP, Node, spelled
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Array, Estimate, Sampling
from pytest_mechanism.types import Observations

ROWS, ROWS_OF_LARGE = 210, 64
"""Rows on which answers are looked at, at most; and of a large model."""

LEAST_SHARE, LEAST_GAIN = 0.05, 0.01
"""A member is named if it brings back this share of what answers lost, and this log-probability (nats)."""

LEAST_WITHOUT_LOSS = 0.1
"""Where no answer was lost, the gain (nats) from which a member is named: another way to the answers is no worse for a
little that the old one would add."""

LAYERS_INSIDE = 3
"""Of a large model, the layers in which heads and MLPs are grafted alone: those that bring most back as a whole."""

MOST_OF_LAYER = 0.5
"""Share of what a whole layer brings back from which one of its members is behind it."""

SHOWN = 3
"""Members that are named."""


@dataclass(frozen=True)
class Gain:
    """What the graft of a member does to a candidate's answers.

    Attributes:
        name: ``2.1``, ``2.mlp`` or ``layer 2``.
        gain: in the mean log-probability of a right answer, in nats.
        p: that the gain is not above 0, by Bonferroni's correction for all heads, MLPs and layers.
    """

    name: str
    gain: float
    p: float


@dataclass(frozen=True)
class Grafts:
    """All grafts into a candidate.

    Attributes:
        before: the reference model's log-probability of the right answers, row by row.
        now: the candidate's.
        grafted: name of a member -> the candidate's with this graft.
        members: how many heads, MLPs and layers the models have.
        how: the rows were drawn.
    """

    before: Array
    now: Array
    grafted: Mapping[str, Array]
    members: int
    how: Sampling

    @property
    def loss(self) -> Estimate:
        """How much less likely right answers became, in nats."""
        return self.difference(self.before)

    @property
    def lost(self) -> bool:
        """Whether right answers surely became less likely, by what counts."""
        return self.loss.value >= LEAST_GAIN and self.p(self.before) < 1 - self.how.confidence

    def difference(self, values: Array) -> Estimate:
        """Of some log-probabilities and the candidate's."""
        found = estimates.difference(values, self.now, self.how)
        return estimates.for_few_clusters(found, self.how.confidence)

    def p(self, values: Array) -> float:
        """That some log-probabilities are not above the candidate's: Wilcoxon's signed-rank test over contexts. Their
        mean has a long tail: a few answers that were lost make its standard error as large as itself."""
        rise, counts = estimates.by_cluster([values - self.now], self.how.clusters)
        rises = rise[0] / counts
        if not np.any(rises):
            return 1.0
        return float(scipy.stats.wilcoxon(rises, alternative="greater").pvalue)

    @property
    def gains(self) -> list[Gain]:
        """Of every graft, the largest first."""
        found = [
            Gain(name, float(np.mean(values - self.now)), min(1.0, self.members * self.p(values)))
            for name, values in self.grafted.items()
        ]
        return sorted(found, key=lambda each: (-each.gain, each.name))

    def share(self, name: str) -> str:
        """What a graft brings back of what was lost, with its interval unless too few answers lost most of it."""
        value = (np.mean(self.grafted[name]) - np.mean(self.now)) / self.loss.value
        if self.loss.interval[0] <= 0:
            return f"{value:.0%}"
        columns = [self.grafted[name], self.now, self.before]
        found = estimates.of_means(columns, estimates.share, self.how, counted=False)
        low, high = estimates.for_few_clusters(found, self.how.confidence).interval
        return f"{value:.0%} [{low:.0%}, {high:.0%}]"


# -- what is measured


def answers(context: ClaimContext) -> Measurement[Observations]:
    """The reference model's answers on the rows of the grafts."""
    return context.measurement(Performance(rows=rows_of(context), stream="rows"), REFERENCE)


def rows_of(context: ClaimContext) -> int:
    """How many rows are looked at."""
    return min(context.rows, ROWS_OF_LARGE if large(context.shapes[REFERENCE]) else ROWS)


def grafted(
    context: ClaimContext, to: str, members: Mapping[str, Sequence[Node]]
) -> Measurement[Observations]:
    """The candidate's answers with each of some members of the reference model."""
    request = MemberGraft(
        members={name: tuple(nodes) for name, nodes in members.items()},
        rows=rows_of(context),
        stream="rows",
    )
    return context.measurement(request, to, (context.measurement(WeightDonation(), REFERENCE),))


def layers_of(shape: Shape) -> dict[str, tuple[Node, ...]]:
    """Every layer with its heads and its MLP."""
    return {
        f"layer {layer}": (*((layer, head) for head in range(shape.n_heads)), (layer, MLP))
        for layer in range(shape.n_layers)
    }


def large(shape: Shape) -> bool:
    """Whether there are too many heads and MLPs to graft each."""
    return shape.n_layers * (shape.n_heads + 1) > ALL_UP_TO


def first_grafts(context: ClaimContext, to: str) -> Measurement[Observations]:
    """The grafts that are made whatever they show: of a large model, those of whole layers."""
    layers = layers_of(context.shapes[to])
    members: dict[str, tuple[Node, ...]] = {**layers}
    if not large(context.shapes[to]):
        members |= {spelled(node): (node,) for nodes in layers.values() for node in nodes}
    return grafted(context, to, members)


def grafts(context: ClaimContext, to: str, measure: Measure) -> Grafts:
    """Every head, MLP and layer of the reference model in the candidate of role ``to``; of a large model, heads and
    MLPs of the layers alone that bring most back.

    Raises:
        MechanismError: it cannot be measured.
    """
    own = measure(answers(context))
    layers = layers_of(context.shapes[to])
    try:
        found = measure(first_grafts(context, to))
    except MeasurementError:  # a family whose heads cannot be grafted alone
        found = measure(grafted(context, to, layers))
    check_paired(own, found)
    values = {name: np.asarray(column, float) for name, column in found.values.items()}
    if large(context.shapes[to]):
        best = sorted(layers, key=lambda name: (-values[name].mean(), name))[:LAYERS_INSIDE]
        inside = {spelled(node): (node,) for name in best for node in layers[name]}
        with contextlib.suppress(MeasurementError):
            values |= measure(grafted(context, to, inside)).values
    now = values.pop(BEFORE)
    before = np.asarray(own.values["log_probability"], float)
    members = sum(1 + len(nodes) for nodes in layers.values())
    return Grafts(before, now, values, members, context.sampling(found))


# -- the sentences


def behind(found: Grafts) -> list[Gain]:
    """The members that surely bring answers back, the largest gain first: a layer only where no member of it brings
    back most of what it does."""
    alpha = 1 - found.how.confidence
    least = LEAST_WITHOUT_LOSS
    if found.lost:
        least = max(LEAST_GAIN, LEAST_SHARE * found.loss.value)
    sure = [each for each in found.gains if each.p < alpha and each.gain >= least]

    def explained(layer: Gain) -> bool:
        number = layer.name.removeprefix("layer ")
        return any(
            each.name.startswith(f"{number}.") and each.gain >= MOST_OF_LAYER * layer.gain
            for each in sure
        )

    named = [each for each in sure if not (each.name.startswith("layer ") and explained(each))]
    whole = {each.name.removeprefix("layer ") for each in named if each.name.startswith("layer ")}
    return [each for each in named if each.name.partition(".")[0] not in whole]


@dataclass(frozen=True)
class Grafted:
    """What grafts say.

    Attributes:
        lines: for a reader.
        names: the members that they name, the best first.
        seconds: that it took.
    """

    lines: tuple[str, ...]
    names: tuple[str, ...]
    seconds: float = 0.0


NO_GRAFTS = Grafted((), ())


def about_grafts(found: Grafts, to: str) -> Grafted:
    """What the grafts say, in words; nothing where answers are as likely as in the reference model and no member
    makes them likelier."""
    named, loss = behind(found), found.loss
    now, before = found.now.mean(), found.before.mean()
    if not named:
        if not found.lost:
            return NO_GRAFTS
        best = next(each for each in found.gains if not each.name.startswith("layer "))
        share = best.gain / loss.value
        most = f"; most: {called(best.name)}, {share:.0%}" if share >= LEAST_SHARE else ""
        spread = (
            f"no head, MLP or layer of {REFERENCE}, alone in {to}, surely brings back {LEAST_SHARE:.0%} of the "
            f"log-probability that its answers lost ({REFERENCE} {before:.2f}, {to} {now:.2f}){most}"
        )
        return Grafted((spread,), ())
    first, *others = named[:SHOWN]
    figures = f"{now:.2f} -> {now + first.gain:.2f}; {REFERENCE} {before:.2f}"
    if found.lost:
        gained = (
            f"regains {found.share(first.name)} of the log-probability that its answers lost "
            f"({figures})"
        )
        also = [f"{called(each.name)} {each.gain / loss.value:.0%}" for each in others]
    else:
        gained = f"finds the right answers likelier (log-probability {figures})"
        also = [f"{called(each.name)} {each.gain:+.2f}" for each in others]
    more = f"; alone, {', '.join(also)}" if also else ""
    line = f"with {called(first.name)} of {REFERENCE} in its place, {to} {gained}{more}"
    return Grafted((line,), tuple(each.name for each in named))
