"""Every head, MLP and layer of two models compared: its work, what its activation does in the other model, its weights.

Three quantities of each member, on the same rows (A is the reference model, B the candidate):

    share      what it tells the readers of each group, as a share of what exchanging the whole prompt does to the
               answer's centred logit (path patching; `claims.profiles`), in A and in B
    exchange   the change of B's centred logit if the member's activation at every token is A's, and of A's if it is
               B's (`methods.circuits.exchange`), as a share of the same
    weights    |W_B - W_A| / |W_A|; a description, and no test

A member changed if a share differs by more than ``margin``, or an exchange changes the answer by more than ``margin``.
Each of its k tests has a one-sided p-value for "no more than the margin"; the member's is the smallest times k
(Bonferroni), and members are corrected by Benjamini and Hochberg (1995): of the members that are reported as changed,
at most 5 % are expected not to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import scipy

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.other_places import OtherPlaces, matching, other_places
from pytest_mechanism.claims.patched_alone import ALL_UP_TO
from pytest_mechanism.claims.profile_stages import Stage, stages
from pytest_mechanism.claims.profiles import (
    StageProfile,
    beyond,
    known_measurements,
    measured,
    member_change,
    there,
)
from pytest_mechanism.measurements.exchange import MemberExchange, WholeDonation
from pytest_mechanism.measurements.matching import MatchResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.member_weights import (
    MemberWeightResult,
    MemberWeights,
    WeightDonation,
)
from pytest_mechanism.nodes import MLP, Node, spelled
from pytest_mechanism.statistics import estimates
from pytest_mechanism.types import Head, MemberChange, Observations

BASE, FT = "base", "ft"

MARGIN = 0.05
"""The largest change that counts as none, as a share of what exchanging the whole prompt does to the answer's logit."""

ROWS = 210
"""Pairs of prompts on which members are compared."""


@dataclass(frozen=True)
class Exchange:
    """What a member's activation does in the other model.

    Attributes:
        into: role of the recipient.
        value: change of the recipient's centred logit of the answer, as a share of what exchanging the whole prompt
            takes away: negative where the answer becomes less likely.
        interval: two-sided.
        p: that the change is no larger than the margin.
    """

    into: str
    value: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True)
class ComparedMember:
    """A head, an MLP, a layer, or a set of heads of a large model that were patched together.

    Attributes:
        name: ``2.1``, ``2.mlp``, ``layer 2``, or a set's name; as in the reference model.
        shares: its work towards each group's readers, before and now.
        exchanges: what its activation does in the other model.
        weights: relative change of its weights; None where that was not compared.
        q: false-discovery rate at which it counts as changed.
    """

    name: str
    shares: tuple[MemberChange, ...]
    exchanges: tuple[Exchange, ...]
    weights: float | None
    q: float = 1.0

    @property
    def p(self) -> float:
        """That no quantity of it changed by more than the margin, by Bonferroni's correction."""
        values = [share.p for share in self.shares] + [each.p for each in self.exchanges]
        return min(1.0, len(values) * min(values)) if values else 1.0

    @property
    def size(self) -> float:
        """The largest change of any of its quantities."""
        sizes = [abs(change.change) for change in self.shares]
        sizes += [abs(exchange.value) for exchange in self.exchanges]
        return max(sizes, default=0.0)

    @property
    def is_layer(self) -> bool:
        """Whether it is a whole layer."""
        return self.name.startswith("layer ")

    def exchange(self, into: str) -> Exchange | None:
        """What it does in one of the models."""
        return next((each for each in self.exchanges if each.into == into), None)


@dataclass(frozen=True)
class Comparison:
    """Two models, member by member.

    Attributes:
        members: those that changed most first.
        places: heads that are in another place or basis.
        margin: the largest change that counts as none.
        alpha: false-discovery rate.
        weights: relative change of every other part.
        weights_note: why some parts have none.
        rows: pairs of prompts behind the numbers.
    """

    members: tuple[ComparedMember, ...]
    places: OtherPlaces
    margin: float
    alpha: float
    weights: Mapping[str, float]
    weights_note: str
    rows: int

    @property
    def changed(self) -> list[ComparedMember]:
        """Heads, MLPs and layers that changed."""
        return [member for member in self.members if member.q < self.alpha]

    @property
    def shares(self) -> list[MemberChange]:
        """The work of every member towards every group's readers."""
        return [change for member in self.members for change in member.shares]

    @property
    def changed_shares(self) -> list[MemberChange]:
        """The work of members that changed, where it is that work which did."""
        return [
            change
            for member in self.changed
            for change in member.shares
            if change.p * max(1, len(member.shares) + len(member.exchanges)) < self.alpha
        ]


# -- what is measured


def heads_in_order(
    context: ClaimContext, of: Sequence[Stage], heads: Sequence[Head]
) -> Measurement[MatchResult]:
    """Which heads of both models do the same, in every layer."""
    layers = sorted({layer for layer, _ in heads})
    return matching(context, BASE, FT, layers, [stage.at for stage in of])


def donation(context: ClaimContext, donor: str, rows: int) -> Measurement:
    """The activations of a model at every token."""
    return context.measurement(WholeDonation(rows=rows, stream="pairs"), donor)


def exchanged(
    context: ClaimContext, into: str, members: Mapping[str, Sequence[Node]], places: OtherPlaces
) -> Measurement:
    """Each member of the other model in the model of role ``into``; members have the reference model's names."""
    donor = BASE if into == FT else FT
    moved = {
        name: tuple(there(node, places.moved) for node in nodes) for name, nodes in members.items()
    }
    here = moved if into == FT else dict(members)
    given = dict(members) if into == FT else moved
    rows = context.sweep_rows or context.rows
    request = MemberExchange(
        members={name: tuple(nodes) for name, nodes in here.items()},
        givers={name: tuple(nodes) for name, nodes in given.items() if nodes != here[name]},
        rows=rows,
        stream="pairs",
    )
    return context.measurement(request, into, (donation(context, donor, rows),))


def weight_changes(context: ClaimContext, places: OtherPlaces) -> Measurement[MemberWeightResult]:
    """How far the weights of each member moved."""
    renamed = [(layer, head, other) for (layer, head), (_, other) in sorted(places.moved.items())]
    given = context.measurement(WeightDonation(), BASE)
    return context.measurement(MemberWeights(renamed=renamed), FT, (given,))


def to_exchange(
    shape: Shape, profiles: Sequence[StageProfile], places: OtherPlaces
) -> dict[str, tuple[Node, ...]]:
    """The members that are exchanged: of a large model, the heads that were patched alone. z of a head that is
    written in another basis means nothing in the other model, so such a head, and its layer, is left out."""
    heads: list[Node] = [*shape.heads()]
    if len(heads) > ALL_UP_TO:
        heads = sorted(
            {
                nodes[0]
                for profile in profiles
                for nodes in profile.senders.values()
                if len(nodes) == 1 and nodes[0][1] != MLP
            }
        )
    turned = {*places.turned}
    members: dict[str, tuple[Node, ...]] = {
        spelled(head): (head,) for head in heads if head not in turned
    }
    for layer in range(shape.n_layers):
        members[spelled((layer, MLP))] = ((layer, MLP),)
        whole = tuple((layer, head) for head in range(shape.n_heads))
        if not turned & {*whole}:
            members[f"layer {layer}"] = (*whole, (layer, MLP))
    return members


def planned(context: ClaimContext) -> list[Measurement]:
    """What the comparison of two models whose heads did not change places measures, as far as it is known in
    advance: announced, it takes three loads of a checkpoint."""
    of = stages(context, BASE)
    shape, places = context.shapes[BASE], OtherPlaces({})
    measurements = [heads_in_order(context, of, shape.heads()), weight_changes(context, places)]
    measurements += [m for role in (BASE, FT) for m in known_measurements(context, role, of)]
    if len(shape.heads()) <= ALL_UP_TO:
        members = to_exchange(shape, (), places)
        measurements += [exchanged(context, into, members, places) for into in (FT, BASE)]
    return measurements


def compare_members(context: ClaimContext, measure: Measure, margin: float) -> Comparison:
    """Compare every member of the models of roles base and ft.

    Args:
        context: of the comparison, whose groups have members.
        measure: gives results.
        margin: the largest change that counts as none.

    Raises:
        UndefinedScoreError: the source prompts change nothing in a model.
    """
    of = stages(context, BASE)
    shape = context.shapes[BASE]
    places = other_places(measure(heads_in_order(context, of, shape.heads())))
    profiles = measured(context, BASE, FT, measure, of, places.moved)
    members = to_exchange(shape, profiles, places)
    weights = measure(weight_changes(context, places))  # while ft is loaded
    into_ft = measure(exchanged(context, FT, members, places))
    into_base = measure(exchanged(context, BASE, members, places))
    results = {FT: into_ft, BASE: into_base}
    return put_together(context, profiles, results, weights, places, margin)


# -- what is compared


def put_together(
    context: ClaimContext,
    profiles: Sequence[StageProfile],
    exchanges: Mapping[str, Observations],
    weights: MemberWeightResult,
    places: OtherPlaces,
    margin: float,
) -> Comparison:
    """The comparison from its measurements; arguments as in `compare_members`."""
    shares: dict[str, list[MemberChange]] = {}
    for profile in profiles:
        how = context.sampling(profile.now)
        for name in profile.senders:
            shares.setdefault(name, []).append(member_change(profile, name, how, margin))
    done: dict[str, list[Exchange]] = {}
    for into, result in exchanges.items():
        for name in result.values:
            if name != "total":
                done.setdefault(name, []).append(exchange_of(context, into, result, name, margin))
    changed = dict(weights.changes)
    names = [*dict.fromkeys([*done, *shares])]
    members = [
        ComparedMember(
            name, tuple(shares.get(name, ())), tuple(done.get(name, ())), changed.pop(name, None)
        )
        for name in names
    ]
    rates = scipy.stats.false_discovery_control([member.p for member in members])
    members = [replace(member, q=float(rate)) for member, rate in zip(members, rates, strict=True)]
    alpha = 1 - context.confidence
    members.sort(key=lambda member: (member.q >= alpha, -member.size, member.name))
    rows = len(profiles[0].now.example_ids)
    return Comparison(tuple(members), places, margin, alpha, changed, weights.reason, rows)


def exchange_of(
    context: ClaimContext, into: str, result: Observations, name: str, margin: float
) -> Exchange:
    """The change of a recipient's answer by one member of the other model."""
    how = context.sampling(result)
    columns = [result.values[name], result.values["total"]]
    share = estimates.of_means(columns, lambda a, b: -a / b, how, counted=False)
    share = estimates.for_few_clusters(share, how.confidence)
    return Exchange(into, share.value + 0.0, share.interval, beyond(share, margin))
