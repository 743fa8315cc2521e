"""What is wrong between the parts of a spec, each of which is valid alone: (message, where) pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import choices
from pytest_mechanism.fields.applies_to import AppliesTo
from pytest_mechanism.fields.groups import AnyGroup, SoughtGroup
from pytest_mechanism.spec.feasible import Feasible
from pytest_mechanism.spec.yaml import Path_
from pytest_mechanism.tasks.base import Task, parse_position

Problem = tuple[str, Path_]


def circles(groups: Mapping[str, AnyGroup]) -> Iterator[Problem]:
    """Groups that read each other in a circle; the first of them."""
    for name in groups:
        seen, at = [name], groups[name].into
        while at is not None and at.group in groups:
            if at.group in seen:
                yield (
                    f"groups {' -> '.join([*seen, at.group])} read each other in a circle; "
                    "the group that writes the answer has no into",
                    ("groups", name, "into"),
                )
                return
            seen.append(at.group)
            at = groups[at.group].into


def strange_origin(
    found_on: object, claims: Mapping[str, Claim], applies: AppliesTo | None
) -> Iterator[Problem]:
    """``found_on`` is a role of the pair, or one that something else in the spec speaks of."""
    roles = {"base", "ft", *(applies.roles if applies is not None else ())}
    for claim in claims.values():
        roles |= {model for role in claim.roles() for model in claim.models(role)}
    if isinstance(found_on, str) and found_on not in roles:
        yield f"found_on: unknown role {found_on!r}; {choices(found_on, roles)}", ("found_on",)


def labels_for_roles(claims: Mapping[str, Claim], applies: AppliesTo | None) -> Iterator[Problem]:
    """A claim names roles; labels are what the command line calls their checkpoints."""
    if applies is None:
        return
    labels, known = {*(applies.labels or ())}, {"base", "ft", *applies.roles}
    for name, claim in claims.items():
        roles = {model for role in claim.roles() for model in claim.models(role)}
        for role in sorted(roles & labels - known):
            yield (
                f"claim {name}: {role!r} is a label (applies_to.labels), and a claim names roles; "
                "valid: base, ft, and what applies_to.roles lists",
                ("claims", name, "on"),
            )


def infeasible(
    claims: Mapping[str, Claim], groups: Mapping[str, AnyGroup], feasible: Feasible
) -> Iterator[Problem]:
    """Claims whose rows or prompts the task cannot give."""
    there = True
    for name, claim in claims.items():
        if (why := feasible.wrong(claim)) is not None:
            there = False
            yield f"claim {name}: {why}", ("claims", name)
    sought = any(isinstance(group, SoughtGroup) for group in groups.values())
    if there and sought and (why := feasible.thin) is not None:
        yield f"groups: {why}", ("groups",)


def misplaced(at: str, task: Task) -> str | None:
    """What is wrong with a position of a spec, or None: ``name``, ``name.first``, ``name.last``."""
    name, _ = parse_position(at)
    if at in task.positions or name in task.positions:
        return None
    word, _, token = at.rpartition(".")
    if word in task.positions:
        return f"{token!r} is no token of a word; valid: {word}.first, {word}.last"
    return f"unknown position {name!r}; {choices(name, task.positions)}"
