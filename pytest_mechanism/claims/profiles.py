"""The profile of a circuit on two models: the effect of every head and MLP, stage by stage.

A *stage* (`claims.profile_stages`) is what the readers of a group read: a position and q, k, v or the logits. The
*members* of a stage are all heads and MLPs of the model that can reach its readers; most of them are in no group.
Each is path patched alone (`methods.circuits.profile`), in both models on the same rows:

    share of member m = mean effect of m on the answer's centred logit / mean effect of the whole source prompt
    change of m       = share in the candidate - share in the reference model

A share of .69 means that .69 of what the source prompt does to the answer is done by what this member tells
these readers. Shares of one stage need not add up to 1: readers add their own, and members can replace each other.

Where many heads can reach the readers (`claims.patched_alone`), gradients choose which are patched alone: in each
model the heads with the largest estimates, and those that the spec names. The others are patched together
in bands of layers, and each band is a member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.patched_alone import ALL_UP_TO, SCREEN_ROWS, bands_of, number_alone
from pytest_mechanism.claims.profile_stages import Stage
from pytest_mechanism.claims.scoring import check_paired
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.profile import EffectProfile
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.nodes import MLP, Node, in_order, spelled
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.statistics.multiple import holm
from pytest_mechanism.types import Head, MemberChange, Observations

Renamed = Mapping[Head, Head]
"""Head of the reference model -> the candidate's head that does its work, where heads changed places."""


# -- what is measured


Senders = Mapping[str, tuple[Node, ...]]
"""Name of a member -> heads and MLPs that are patched together."""


def effects(
    context: ClaimContext, on: str, stage: Stage, senders: Senders, renamed: Renamed
) -> Measurement:
    """The effect of every member of a stage on a model; members keep the reference model's names."""
    request = EffectProfile(
        senders={name: [there(node, renamed) for node in nodes] for name, nodes in senders.items()},
        at=stage.at,
        receivers=sorted((there(node, renamed) for node in stage.receivers), key=in_order),
        via=stage.via,
        rows=context.sweep_rows or context.rows,
        stream="pairs",
    )
    return context.measurement(request, on)


def there(node: Node, renamed: Renamed) -> Node:
    """The node that does the work of a node of the reference model."""
    return node if node[1] == MLP else renamed.get(node, node)  # type: ignore[arg-type]


def screened(stage: Stage) -> bool:
    """Whether gradients choose which heads are patched alone."""
    return len(stage.heads) > ALL_UP_TO


def gradients(context: ClaimContext, on: str, stage: Stage, renamed: Renamed) -> Measurement:
    """The estimated effect of every head of a stage on a model."""
    request = AttributionPatching(
        heads=sorted(there(head, renamed) for head in stage.heads),
        at=stage.at,
        receivers=sorted((there(node, renamed) for node in stage.receivers), key=in_order),
        via=stage.via,
        rows=min(context.sweep_rows or context.rows, SCREEN_ROWS),
        stream="pairs",
    )
    return context.measurement(request, on)


def strongest(estimated: Observations, heads: Iterable[Head], renamed: Renamed) -> set[Head]:
    """The heads with the largest estimates. A head counts by the larger of its two, as in discovery's screen."""

    def size(head: Head) -> float:
        name = spelled(there(head, renamed))
        return max(abs(float(np.mean(estimated.values[k]))) for k in (name, f"slope {name}"))

    heads = list(heads)
    return {*sorted(heads, key=lambda head: (-size(head), head))[: number_alone(len(heads))]}


def members(stage: Stage, alone: Iterable[Head]) -> dict[str, tuple[Node, ...]]:
    """The senders of a stage: heads patched alone, MLPs, and bands of layers with the other heads."""
    alone = {*alone}
    senders: dict[str, tuple[Node, ...]] = {
        spelled(node): (node,) for node in (*sorted(alone), *stage.mlps)
    }
    for part in bands_of(sorted({layer for layer, _ in stage.heads})):
        rest = tuple(head for head in stage.heads if head[0] in part and head not in alone)
        if rest:
            senders[f"other heads of layers {part[0]} to {part[-1]}"] = rest
    return senders


def known_measurements(
    context: ClaimContext, on: str, of: Sequence[Stage]
) -> tuple[Measurement, ...]:
    """What is measured on a model whose heads did not change places, as far as it is known in advance."""
    return tuple(
        gradients(context, on, stage, {})
        if screened(stage)
        else effects(context, on, stage, members(stage, stage.heads), {})
        for stage in of
    )


# -- what is compared


@dataclass(frozen=True)
class StageProfile:
    """The effects of a stage's members on both models, row by row.

    Attributes:
        stage: the stage.
        senders: its members.
        before: effects in the reference model.
        now: effects in the candidate.
    """

    stage: Stage
    senders: Senders
    before: Observations
    now: Observations

    def change(self, name: str, how: Sampling, of: str | None = None) -> Estimate:
        """The share of member ``name`` in the candidate minus that of ``of``, the same by default, in the
        reference model.

        Raises:
            UndefinedScoreError: the source prompts change nothing in a model.
        """
        columns = [
            self.now.values[name],
            self.now.values["total"],
            self.before.values[of or name],
            self.before.values["total"],
        ]
        change = estimates.of_means(columns, estimates.change_of_ratio, how, counted=False)
        return estimates.for_few_clusters(change, how.confidence)

    def share(self, name: str, how: Sampling) -> Estimate:
        """The share of a member in the candidate.

        Raises:
            UndefinedScoreError: the source prompts change nothing.
        """
        columns = [self.now.values[name], self.now.values["total"]]
        share = estimates.of_means(columns, estimates.ratio, how, counted=False)
        return estimates.for_few_clusters(share, how.confidence)

    def shares(self, name: str) -> tuple[float, float]:
        """The share of a member in the reference model and in the candidate."""
        before, now = (
            float(np.mean(one.values[name]) / np.mean(one.values["total"]))
            for one in (self.before, self.now)
        )
        return before, now

    @property
    def own(self) -> dict[str, str]:
        """Name of each member that some group names at this position -> the group."""
        return {
            name: self.stage.own[nodes[0]]
            for name, nodes in self.senders.items()
            if len(nodes) == 1 and nodes[0] in self.stage.own
        }


def measured(
    context: ClaimContext,
    source: str,
    to: str,
    measure: Measure,
    of: Sequence[Stage],
    renamed: Renamed | None = None,
) -> list[StageProfile]:
    """The profile of every stage on both models.

    Args:
        context: of the claim.
        source: role of the reference model, whose heads the stages name.
        to: role of the candidate.
        measure: gives results.
        of: the stages.
        renamed: heads of the candidate that do the work of other heads of the reference model.
    """
    names: dict[str, Renamed] = {source: {}, to: renamed or {}}
    alone: list[set[Head]] = [{*stage.heads} for stage in of]
    for i, stage in enumerate(of):
        if screened(stage):
            alone[i] = {node for node in stage.own if isinstance(node[1], int) and node in alone[i]}
            for on, by in names.items():
                found = measure(gradients(context, on, stage, by))
                alone[i] |= strongest(found, stage.heads, by)
    senders = [members(stage, heads) for stage, heads in zip(of, alone, strict=True)]
    results: dict[str, list[Observations]] = {}
    for on, by in names.items():  # all of one model before the other, which has to be loaded
        results[on] = [
            measure(effects(context, on, stage, each, by))
            for stage, each in zip(of, senders, strict=True)
        ]
    profiles = []
    for i, stage in enumerate(of):
        check_paired(results[source][i], results[to][i])
        profiles.append(StageProfile(stage, senders[i], results[source][i], results[to][i]))
    return profiles


def changes(
    context: ClaimContext, profiles: Sequence[StageProfile], margin: float
) -> list[MemberChange]:
    """The change of every member, with Holm's adjusted p-value for the hypothesis that it is no larger than a
    margin.

    Raises:
        UndefinedScoreError: the source prompts change nothing in a model.
    """
    found = [
        member_change(profile, name, context.sampling(profile.now), margin)
        for profile in profiles
        for name in profile.senders
    ]
    adjusted = holm([member.p for member in found])
    return [replace(member, p=p) for member, p in zip(found, adjusted, strict=True)]


def member_change(profile: StageProfile, name: str, how: Sampling, margin: float) -> MemberChange:
    """The work of a member towards the readers of a stage, in both models; ``p`` is of this test alone.

    Raises:
        UndefinedScoreError: the source prompts change nothing in a model.
    """
    change = profile.change(name, how)
    before, now = profile.shares(name)
    nodes = profile.senders[name]
    return MemberChange(
        member=name,
        at=profile.stage.at,
        readers=profile.stage.readers,
        group=profile.own.get(name),
        before=before,
        now=now,
        change=change.value,
        interval=change.interval,
        standard_error=change.standard_error,
        p=beyond(change, margin),
        elsewhere=profile.stage.others.get(nodes[0]) if len(nodes) == 1 else None,
    )


def beyond(change: Estimate, margin: float) -> float:
    """The one-sided p-value of the hypothesis that a change is no larger than a margin in size."""
    return estimates.p_above_zero(
        abs(change.value) - margin, change.standard_error, change.clusters
    )


def permuted(
    context: ClaimContext, profiles: Sequence[StageProfile], n_heads: int
) -> Estimate | None:
    """The largest change if the heads of each layer were compared in another order, for the order that has the
    least; None where no layer has two heads that are patched alone.

    It is the control of a claim that no member changed: a profile in which the order of heads makes no difference
    cannot show that they are the same.
    """
    least: tuple[float, StageProfile, str, str] | None = None
    for step in range(1, n_heads):
        worst: tuple[float, StageProfile, str, str] | None = None
        for profile in profiles:
            for name, nodes in profile.senders.items():
                if len(nodes) > 1 or nodes[0][1] == MLP:
                    continue
                layer, head = nodes[0]
                other = f"{layer}.{(int(head) + step) % n_heads}"
                if other not in profile.senders:
                    continue
                size = abs(profile.shares(name)[1] - profile.shares(other)[0])
                if worst is None or size > worst[0]:
                    worst = (size, profile, name, other)
        if worst is not None and (least is None or worst[0] < least[0]):
            least = worst
    if least is None:
        return None
    _, profile, name, other = least
    return profile.change(name, context.sampling(profile.now), other)
