"""What is wrong with the members of a spec's groups: heads, MLPs and attention outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.nodes import ATTENTION, EVERYWHERE, KINDS, kind_of, layers_before, readers
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.yaml import Place

Problem = tuple[str, Place]
"""A message and where it is about."""


def named_groups(spec: Spec) -> dict[str, Group]:
    """The groups that name their members."""
    return {name: group for name, group in spec.groups.items() if isinstance(group, Group)}


def via_problem(name: str, reader: AnyGroup | None, via: str) -> str | None:
    """Why a group does not read through this input; None if it does.

    Args:
        name: of the reader.
        reader: the group that reads; None if it is not known.
        via: the input.
    """
    if reader is None:
        return None
    kinds = reader.kinds
    if kinds == ("mlps",) and via != "input":
        return f"its reader {name} has MLPs, which read through via: input; valid: input"
    if "mlps" not in kinds and via == "input":
        return f"its reader {name} has no MLPs, which alone read through via: input; valid: q, k, v"
    members = readers(reader.placed(), via) if isinstance(reader, Group) else []
    elsewhere = [at for *_, at in members if at != reader.at]
    if elsewhere and via in ("q", "input"):
        return (
            f"its reader {name} has members at {elsewhere[0]}, and via: {via} is read at the reader's own "
            f"position, {reader.at}; make a group of them"
        )
    return None


def unread(groups: Mapping[str, AnyGroup]) -> Iterator[Problem]:
    """Groups with named members of which none can reach those that read them: their effect is 0 in any model."""
    for name, group in groups.items():
        reader = groups.get(group.into.group) if group.into else None
        if group.into is None or not isinstance(group, Group) or not isinstance(reader, Group):
            continue
        reading = readers(reader.placed(), group.into.via)
        layers = [
            (layer, layers_before(reading, kind_of(part))) for layer, part, _ in group.placed()
        ]
        if reading and all(layer >= end for layer, end in layers):
            first, last = min(layers)[0], max(layer for layer, *_ in reading)
            yield (
                f"group {name}: all members are in layer {first} or later, and its reader {group.into.group} reads in "
                f"layer {last} at the latest, which their output cannot reach",
                ("groups", name, "into"),
            )


def named_twice(spec: Spec, written: Mapping[Any, Any]) -> Iterator[Problem]:
    """A member that a group names twice.

    Args:
        spec: its valid parts.
        written: the groups as in the file.
    """
    for name, group in named_groups(spec).items():
        count = Counter(group.placed())
        everywhere = [member[:2] for member in count if member[2] == EVERYWHERE]
        twice = {kind_of(part) for (_, part, _), number in count.items() if number > 1}
        twice |= {kind_of(m[1]) for m in count if m[2] != EVERYWHERE and m[:2] in everywhere}
        # '3' and 3.0 are other YAML keys than 3, but the same layer
        twice |= {key for key in group.kinds if len(getattr(group, key)) < len(written[name][key])}
        for key in sorted(twice):
            yield f"group {name} names {with_article(KINDS[key][0])} twice", ("groups", name, key)


def with_article(noun: str) -> str:
    """The noun with a or an."""
    return f"an {noun}" if noun[0] in "aM" else f"a {noun}"


def split_twice(spec: Spec) -> Iterator[Problem]:
    """A head beside the attention output that it is part of."""
    whole = [
        (layer, at, name)
        for name, group in named_groups(spec).items()
        for layer, part, at in group.placed()
        if part == ATTENTION
    ]
    for name, group in named_groups(spec).items():
        for layer, head in group.named_heads():
            owners = [
                o for other, at, o in whole if other == layer and at in (group.at, EVERYWHERE)
            ]
            if owners:
                yield (
                    f"group {name}: head {head} of layer {layer} at {group.at} is part of the attention output "
                    f"that group {owners[0]} names; name the head or the output",
                    ("groups", name, "heads"),
                )


def in_groups_of(name: str, claim: Claim, spec: Spec) -> Iterator[Problem]:
    """Groups with members that a claim does not handle.

    Args:
        name: of the claim.
        claim: the claim.
        spec: its valid parts.
    """
    own = [reference for reference in claim.references() if reference.kind == "group"]
    about: dict[str, Place] = {
        reference.name: ("claims", name, reference.field) for reference in own
    }
    if claim.needs_groups and not own:
        about = dict.fromkeys(spec.groups, ("claims", name, "kind"))
    problems = {of: claim.members_problem(group) for of, group in spec.groups.items()}
    for group, where in about.items():
        if (problem := problems.get(group)) is not None:
            valid = ", ".join(other for other in spec.groups if problems.get(other) is None)
            yield (
                f"claim {name}: group {group} {problem}; valid groups: {valid or 'none of this spec'}",
                where,
            )
