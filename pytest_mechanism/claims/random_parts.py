"""The control of ``encodes``: random heads and MLPs in place of those that are patched."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.masks import heads_and_mlps, only
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.types import Head


def random_parts(
    context: ClaimContext,
    group: Group,
    heads: Sequence[Head],
    mlps: Sequence[int],
) -> tuple[list[Head], list[int], str]:
    """As many random heads and MLPs as are patched, none of them in the group.

    Args:
        context: of the claim.
        group: whose position it is.
        heads: that are patched; random ones come from their layers as far as possible.
        mlps: layers whose MLPs are patched.

    Returns:
        Heads, MLPs and the name of the control; none, and why, where the model has too few others of either
        kind: a smaller control would be easier to beat.
    """
    of_group, own_mlps = heads_and_mlps(context, context.role, group)
    patched = only(group, heads)
    control, name = (
        ([], "the mask selects no head")
        if patched is None
        else context.random_heads(patched, context.role, spare=of_group)
    )
    control_mlps = random_mlps(context, group.at, mlps, own_mlps) if mlps else []
    if heads and not control:
        return [], [], name
    if len(control_mlps) < len(mlps):
        return [], [], "too few other MLPs could have an effect there"
    if control_mlps:
        count = len(control_mlps)
        of_mlps = "1 random MLP" if count == 1 else f"{count} random MLPs"
        name = f"{name} and {of_mlps}" if control else of_mlps
    return control, control_mlps, name


def random_mlps(
    context: ClaimContext, at: str, mlps: Sequence[int], of_group: Sequence[int]
) -> list[int]:
    """As many random MLPs as are patched, as far as the model has others."""
    taken = {*mlps, *of_group}
    others = [layer for layer in layers_with_effect(context, at) if layer not in taken]
    rng = random.Random(f"random MLPs/{context.seed}/{list(mlps)}")
    return sorted(rng.sample(others, min(len(mlps), len(others))))


def layers_with_effect(context: ClaimContext, at: str) -> list[int]:
    """Layers whose heads and MLPs can have an effect at a position: those of the last layer reach the
    answer from the last token alone."""
    layers = context.shapes[context.role].n_layers
    return list(range(layers if at == "last" else layers - 1))
