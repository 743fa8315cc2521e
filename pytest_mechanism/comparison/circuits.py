"""Who does the work of each group in a model: the members with a share of it, from the answer back to the input.

The readers of a group are the members that *this* model has in the reading group. So where work moved to another
head, the next group is looked for at the inputs of that head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import Part, parts_of
from pytest_mechanism.claims.profile_stages import Stage, stages
from pytest_mechanism.claims.profiles import (
    effects,
    gradients,
    members,
    screened,
    strongest,
)
from pytest_mechanism.discovery.discover import named_group
from pytest_mechanism.discovery.selection import chain, unshared
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.nodes import Node, kind_of, readers
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate

LEAST_SHARE = 0.1
"""The share of a group's work that makes a head or MLP a member of it."""

MOST = 8
"""Members of a group, at most: those with the largest shares."""


def own_circuit(
    context: ClaimContext, on: str, groups: Mapping[str, AnyGroup], measure: Measure
) -> dict[str, Group]:
    """The members of every group in a model; a group that nobody does, or that nobody reads, is left out.

    Args:
        context: of the comparison.
        on: role of the model.
        groups: whose members are looked for; those that they name are ignored.
        measure: gives results.
    """
    found = chosen_members(context, on, groups, measure, {})
    alone = unshared({name: parts_of(group) for name, group in found.items()}, only(groups, found))
    if any(len(alone[name]) < len(parts_of(found[name])) for name in found):
        # a head belongs to the group that is further from the answer, and reads for no other
        found = chosen_members(context, on, groups, measure, alone)
    return {name: found[name] for name in groups if name in found}


def only(groups: Mapping[str, AnyGroup], names: Mapping[str, object]) -> dict[str, AnyGroup]:
    """The groups of these names, without members."""
    return {name: groups[name].without_heads() for name in groups if name in names}


def chosen_members(
    context: ClaimContext,
    on: str,
    groups: Mapping[str, AnyGroup],
    measure: Measure,
    allowed: Mapping[str, Sequence[Part]],
) -> dict[str, Group]:
    """The members of every group; arguments as in `own_circuit`, and of a group in ``allowed`` these members alone."""
    found: dict[str, Group] = {}
    for name in chain(groups):
        group = groups[name]
        stage = stage_of(context, on, group, name, found)
        if stage is None:
            continue
        shares = shares_of(context, on, stage, measure)
        kinds = kinds_of(group)
        fit = {part[:2] for part in allowed[name]} if name in allowed else {*shares}
        chosen = [
            node
            for node, share in sorted(shares.items(), key=lambda item: -item[1].value)
            if node in fit
            and kind_of(node[1]) in kinds
            and share.value >= LEAST_SHARE
            and share.interval[0] > 0
        ][:MOST]
        if chosen:
            found[name] = named_group(group.without_heads(), chosen)
    return found


def kinds_of(group: AnyGroup) -> set[str]:
    """What may be a member of a group: what it names, or may find."""
    kinds = {*(group.kinds if isinstance(group, Group) else group.searched)}
    return kinds | ({"heads"} if "attention_outputs" in kinds else set())


def stage_of(
    context: ClaimContext, on: str, group: AnyGroup, name: str, found: Mapping[str, Group]
) -> Stage | None:
    """What the readers of a group read; None if the model has no such readers, or nobody can reach them."""
    known: dict[str, AnyGroup] = {}
    if group.into is not None:
        if group.into.group not in found:
            return None
        reader = found[group.into.group]
        placed = [(layer, part) for layer, part, _ in reader.placed()]
        if not readers(placed, group.into.via):
            return None
        known[group.into.group] = reader.model_copy(update={"into": None})
    known[name] = named_group(group.without_heads(), [(0, 0)])
    of = stages(replace(context, groups=known), on)
    heard = "the logits" if group.into is None else f"{group.into.via} of {group.into.group}"
    return next((s for s in of if s.at == group.at and s.readers == heard), None)


def shares_of(
    context: ClaimContext, on: str, stage: Stage, measure: Measure
) -> dict[Node, Estimate]:
    """The share of every member that is patched alone."""
    alone = {*stage.heads}
    if screened(stage):
        estimated = measure(gradients(context, on, stage, {}))
        alone = strongest(estimated, stage.heads, {})
    senders = members(stage, alone)
    result = measure(effects(context, on, stage, senders, {}))
    how = context.sampling(result)
    shares: dict[Node, Estimate] = {}
    for name, nodes in senders.items():
        if len(nodes) == 1:
            columns = [result.values[name], result.values["total"]]
            share = estimates.of_means(columns, estimates.ratio, how, counted=False)
            shares[nodes[0]] = estimates.for_few_clusters(share, how.confidence)
    return shares
