"""Groups whose members work at another position than the group's own."""

from __future__ import annotations

from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.nodes import KINDS, kind_of


def elsewhere(group: AnyGroup, what: str = "path patching sends from") -> str | None:
    """Why a claim cannot be about a group, in the words after "group NAME"; None if it can.

    Args:
        group: the group; what discovery finds works at the group's position.
        what: the claim does at this position.
    """
    for layer, part, at in group.placed() if isinstance(group, Group) else ():
        if at != group.at:
            return (
                f"names the {KINDS[kind_of(part)][0]} of layer {layer} at {at}, and {what} the group's position, "
                f"{group.at}"
            )
    return None
