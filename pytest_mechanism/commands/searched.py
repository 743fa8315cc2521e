"""The spec that ``discover`` searches: what its command line changes in the file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.nodes import KINDS, listing

if TYPE_CHECKING:
    from pytest_mechanism.spec.spec import Spec


def members_of(text: str) -> list[str]:
    """The value of ``--members``.

    Raises:
        ArgumentTypeError: not kinds of members, or one twice.
    """
    kinds = [kind.strip() for kind in text.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r} is no kind; {choices(kind, KINDS)}")
        if kinds.count(kind) > 1:
            raise argparse.ArgumentTypeError(f"names {kind} twice")
    return kinds


def offering(spec: Spec, members: list[str] | None) -> Spec:
    """The spec whose groups offer these kinds of members, where they are given, in place of what their ``find`` says.

    Raises:
        MechanismError: a group names members of a kind that it does not offer, or a reader would lack the input
            through which it is read.
    """
    from pytest_mechanism.fields.groups import Find, Group
    from pytest_mechanism.spec.members import via_problem

    groups = dict(spec.groups)
    for name, group in groups.items() if members is not None else ():
        find = Find.model_validate({**(group.find or Find()).model_dump(), "members": members})
        groups[name] = group.model_copy(update={"find": find})
    searched = {name: group.without_heads() for name, group in groups.items()}
    for name, group in groups.items():
        kinds = searched[name].searched
        others = (
            [key for key in group.kinds if key not in kinds] if isinstance(group, Group) else []
        )
        if others:
            offered = ",".join(kind for kind in KINDS if kind in {*kinds, *others})
            raise MechanismError(
                f"group {name} names {others[0]}, and its search offers {listing(kinds)} alone; leave "
                f"{others[0]} out, or write --members {offered}",
                spec.place("groups", name, others[0]),
            )
        into = group.into
        if into is not None and (
            problem := via_problem(into.group, searched.get(into.group), into.via)
        ):
            raise MechanismError(f"group {name}: {problem}", spec.place("groups", name, "into"))
    return spec.model_copy(update={"groups": groups}) if members is not None else spec


def with_seed(spec: Spec, seed: int | None) -> Spec:
    """The spec with another seed of its rows, if one is given."""
    if seed is None:
        return spec
    settings = spec.task.settings.model_copy(update={"seed": seed})
    return spec.model_copy(update={"task": replace(spec.task, settings=settings)})
