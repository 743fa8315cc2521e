"""What is wrong between the parts of a spec, each of which is valid alone: (message, where) pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_mechanism.claims.base import PAIR, Claim
from pytest_mechanism.errors import choices
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.nodes import EVERYWHERE, kind_of
from pytest_mechanism.spec.choice import NAME
from pytest_mechanism.spec.feasible import Feasible
from pytest_mechanism.spec.members import (
    Problem,
    in_groups_of,
    named_twice,
    split_twice,
    unread,
    via_problem,
)
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task, parse_position


def contradictions(spec: Spec, written: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that needs no row of the task (see `infeasible`).

    Args:
        spec: its valid parts.
        written: the whole file; it also names the groups that are invalid themselves.
    """
    named = written.get("groups")
    groups = [str(name) for name in named] if isinstance(named, dict) else []
    for name, group in spec.groups.items():
        yield from in_group(name, group, spec, groups)
    yield from named_twice(spec, written["groups"] if spec.groups else {})
    yield from split_twice(spec)
    yield from [*circles(spec.groups)] or unread(spec.groups)
    for name, claim in spec.claims.items():
        yield from in_references(name, claim, spec.task, groups)
        yield from in_groups_of(name, claim, spec)
        if (reason := claim.groups_problem(spec.groups)) is not None:
            yield f"claim {name}: {reason}", ("claims", name)
        yield from in_roles(name, claim, spec)
    yield from unknown_origin(spec)


# -- groups


def in_group(name: str, group: AnyGroup, spec: Spec, groups: Sequence[str]) -> Iterator[Problem]:
    """An unknown position, an unknown reader, or a reader at a position that the path cannot reach."""
    if wrong := position_problem(group.at, spec.task):
        yield f"group {name}: {wrong}", ("groups", name, "at")
    for _, part, at in group.placed() if isinstance(group, Group) else ():
        if (
            isinstance(part, str)
            and at != EVERYWHERE
            and (wrong := position_problem(at, spec.task))
        ):
            yield f"group {name}: {wrong}, {EVERYWHERE}", ("groups", name, kind_of(part))
    if group.into is None:
        return
    reader = group.into.group
    if reader not in groups:
        others = [other for other in spec.groups if other != name]
        yield (
            f"group {name}: into an unknown group {reader!r}; {choices(reader, others)}",
            ("groups", name, "into", "group"),
        )
    if (wrong := via_problem(reader, spec.groups.get(reader), group.into.via)) is not None:
        yield f"group {name}: {wrong}", ("groups", name, "into", "via")
        return
    at = spec.groups[reader].at if reader in spec.groups else group.at
    if group.into.via == "input" and at != group.at:
        yield (
            f"group {name}: works at {group.at}, its reader {reader} at {at}; an MLP reads where it "
            "works, so via: input needs the same position",
            ("groups", name, "into", "via"),
        )
    if group.into.via == "q" and at != group.at:
        yield (
            f"group {name}: works at {group.at}, its reader {reader} at {at}; a query is made where "
            "the reader works, so via: q needs the same position (valid here: k, v)",
            ("groups", name, "into", "via"),
        )


def circles(groups: Mapping[str, AnyGroup]) -> Iterator[Problem]:
    """The first circle of groups that read each other."""
    for name in groups:
        path, into = [name], groups[name].into
        while into is not None and into.group in groups:
            if into.group in path:
                yield (
                    f"groups {' -> '.join([*path, into.group])} read each other in a circle; "
                    "the group that writes the answer has no into",
                    ("groups", name, "into"),
                )
                return
            path.append(into.group)
            into = groups[into.group].into


# -- claims


def in_references(
    name: str, claim: Claim, task: Task | None, groups: Sequence[str]
) -> Iterator[Problem]:
    """Names that neither the spec nor its task defines, and a claim that the task does not support."""
    for reference in claim.references():
        where = ("claims", name, reference.field)
        if reference.kind == "position":
            if wrong := position_problem(reference.name, task):
                yield f"claim {name}: {wrong}", where
            continue
        variables = task.variables if task else [reference.name]
        valid = groups if reference.kind == "group" else variables
        if reference.name not in valid:
            yield (
                f"claim {name}: unknown {reference.kind} {reference.name!r}; "
                f"{choices(reference.name, valid)}",
                where,
            )
    if task is not None and (reason := claim.unsupported_reason(task)) is not None:
        yield f"claim {name}: {reason}", ("claims", name)
    if claim.needs_groups and task is not None and task.judges_replies:
        yield (
            f"claim {name}: task {task.family} judges whole replies, and kind {claim.kind} compares "
            "one next token with an answer",
            ("claims", name),
        )
    if claim.needs_groups and not groups:
        yield f"claim {name}: kind {claim.kind} needs groups", ("claims", name)


def in_roles(name: str, claim: Claim, spec: Spec) -> Iterator[Problem]:
    """Roles that are no names, are labels, or contradict ``found_on``."""
    roles = claim.roles()
    if len(set(roles)) < len(roles):
        yield f"claim {name}: on names a role twice", ("claims", name, "on")
    models = {model for role in roles for model in claim.models(role)}
    optional = {other for role in roles for other in claim.optional_roles(role)}
    for role in sorted({*roles} | models | optional):
        if re.fullmatch(NAME, role) is None:
            yield (
                f"claim {name}: role {role!r}: use letters, digits and '_'; the pair's roles are base "
                "and ft",
                ("claims", name),
            )
    # labels are what the command line calls the checkpoints of roles
    labels = {*(spec.applies_to.labels or ())} - {"base", "ft", *spec.applies_to.roles}
    for role in sorted(models & labels):
        yield (
            f"claim {name}: {role!r} is a label (applies_to.labels), and a claim names roles; "
            "valid: base, ft, and what applies_to.roles lists",
            ("claims", name, "on"),
        )
    named = any(isinstance(group, Group) for group in spec.groups.values())
    if spec.found_on is not None and named:
        pair = roles == (PAIR,)
        origin = claim.discovery_role(PAIR, spec.found_on) if pair else spec.found_on
        if origin != spec.found_on:
            yield (
                f"claim {name}: is about the circuit of {origin}, but the heads named in groups were "
                f"found on {spec.found_on} (found_on)",
                ("claims", name, "from"),
            )


def unknown_origin(spec: Spec) -> Iterator[Problem]:
    """A ``found_on`` that is no role of the pair and that nothing else in the spec names."""
    roles = {"base", "ft", *spec.applies_to.roles}
    for claim in spec.claims.values():
        roles |= {model for role in claim.roles() for model in claim.models(role)}
    if spec.found_on is not None and spec.found_on not in roles:
        yield (
            f"found_on: unknown role {spec.found_on!r}; {choices(spec.found_on, roles)}",
            ("found_on",),
        )


def infeasible(spec: Spec) -> Iterator[Problem]:
    """Claims whose rows or prompts the task of a valid spec cannot give."""
    feasible, all_feasible = Feasible(spec.task, spec.ablation), True
    for name, claim in spec.claims.items():
        if (reason := feasible.problem(claim)) is not None:
            all_feasible = False
            yield f"claim {name}: {reason}", ("claims", name)
    if all_feasible and spec.discovers_heads and (reason := feasible.mean_problem) is not None:
        yield f"groups: {reason}", ("groups",)


def position_problem(at: str, task: Task | None) -> str | None:
    """What is wrong with a position, or None; ``name``, ``name.first`` and ``name.last`` are valid."""
    name, _ = parse_position(at)
    if task is None or at in task.positions or name in task.positions:
        return None
    word, _, token = at.rpartition(".")
    if word in task.positions:
        return f"{token!r} is not a token of a word; valid: {word}.first, {word}.last"
    return f"unknown position {name!r}; {choices(name, task.positions)}"
