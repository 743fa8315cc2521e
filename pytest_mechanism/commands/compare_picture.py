"""The picture of a comparison: the work of every head and MLP in both models, and the difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.comparison.members import BASE, FT, Comparison
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import write_bytes
from pytest_mechanism.nodes import MLP
from pytest_mechanism.report.pictures import heatmaps, style
from pytest_mechanism.report.pictures.head_map import HeadMap
from pytest_mechanism.report.pictures.heatmaps import HeadMaps, StageMaps
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import MemberChange


def maps(spec: Spec, result: Comparison, labels: Mapping[str, str], shape: Shape) -> HeadMaps:
    """A block of three maps for each stage, on the colour scale that the figure shares."""
    stages: dict[tuple[str, str], list[MemberChange]] = {}
    for change in result.shares:
        stages.setdefault((change.readers, change.at), []).append(change)
    a, b = labels[BASE], labels[FT]
    changed = {(change.readers, change.at, change.member) for change in result.changed_shares}
    blocks = []
    for (readers, at), changes in sorted(stages.items(), key=lambda item: order(spec, item[0])):
        before = cells(changes, shape, [change.before for change in changes])
        now = cells(changes, shape, [change.now for change in changes])
        chosen = {
            place
            for change in changes
            if (readers, at, change.member) in changed
            and (place := cell(change.member, shape)) is not None
        }
        tables = {a: before, b: now, f"{b} minus {a}": now - before}
        blocks.append(
            (
                dict(enumerate(spec.groups)).get(order(spec, (readers, at)), readers),
                f"at {at}, into {readers}",
                {name: HeadMap(table, chosen, wholes=("MLP",)) for name, table in tables.items()},
            )
        )
    return HeadMaps(
        f"{spec.circuit}: what every head and MLP does in {a} and in {b}",
        [StageMaps(name, path, of) for name, path, of in blocks],
        "change of the answer's logit, as a share of what exchanging the whole prompt does",
        f"changed by more than {result.margin:g} (false-discovery rate {result.alpha:.0%})",
        f"Difference: red where the member does more of the work in {b}, blue where it does less. "
        f"Path patching, one member at a time (Prakash et al. 2024, section 3.1); means over "
        f"{result.rows} pairs of prompts.",
    )


def order(spec: Spec, stage: tuple[str, str]) -> int:
    """The place of a stage among the spec's groups."""
    for number, group in enumerate(spec.groups.values()):
        heard = f"{group.into.via} of {group.into.group}" if group.into else "the logits"
        if (heard, group.at) == stage:
            return number
    return len(spec.groups)


def cell(member: str, shape: Shape) -> tuple[int, int] | None:
    """The place of a head or MLP in a map; None for a set of heads."""
    layer, dot, part = member.partition(".")
    if not dot or not layer.isdigit():
        return None
    return int(layer), shape.n_heads if part == MLP else int(part)


def cells(changes: list[MemberChange], shape: Shape, shares: list[float]) -> NDArray[np.float64]:
    """[layers, heads and the MLP]: minus the share, so that what the answer needs is red as in ``show``."""
    table = np.full((shape.n_layers, shape.n_heads + 1), np.nan)
    for change, share in zip(changes, shares, strict=True):
        if (place := cell(change.member, shape)) is not None:
            table[place] = -share + 0.0
    return table


def save(picture: HeadMaps, path: Path) -> None:
    """Write the picture in the format that the file's name says.

    Raises:
        MechanismError: the file cannot be written.
    """
    with style.our_style():
        content = style.rendered(heatmaps.draw(picture), path.suffix.removeprefix("."))
    try:
        write_bytes(path, content, durable=False)
    except OSError as problem:
        raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
