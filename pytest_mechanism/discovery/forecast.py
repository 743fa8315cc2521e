"""What the stages of a search measure, as far as it follows from the groups before any head is known: for the
time that ``doctor`` announces.

Path patching costs the same whichever heads are patched, so the first heads stand for those that a screen keeps. How
many heads the readers of a group have is not known either; a path into them costs two forwards in any case.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.discovery.edges import edge_gradients
from pytest_mechanism.discovery.looks import looks
from pytest_mechanism.discovery.screening import bands, number_kept
from pytest_mechanism.discovery.selection import chain
from pytest_mechanism.discovery.senders import alone
from pytest_mechanism.discovery.stages import StageSearch
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.groups import AnyGroup
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.types import Result_co


def stages_ahead(
    context: ClaimContext, on: str, rows: int, *, settled: bool
) -> dict[str, list[Measurement]]:
    """Group -> the measurements of its stage, from the answer back.

    Args:
        context: of the search.
        on: role of the model.
        rows: pairs of prompts at most.
        settled: whether the first rows settle every head; else each is measured on all rows.
    """
    alone_on = looks(rows)[0] if settled else rows
    return {
        name: list(stage_ahead(context, on, context.groups[name], rows, alone_on))
        for name in chain(context.groups)
    }


def stage_ahead(
    context: ClaimContext, on: str, group: AnyGroup, rows: int, alone_on: int
) -> Iterator[Measurement]:
    """The measurements of one group's stage; heads that are patched alone are measured on ``alone_on`` rows."""
    stage = StageSearch(context, on, group, None, never, rows)
    possible = stage.possible()
    count = number_kept(group, len(possible))
    yield stage.patched(alone(possible[:count]), 0, alone_on)
    if count < len(possible):
        yield from stage.gradients(possible)
        yield stage.patched(bands(possible[count:]), 0, looks(rows)[0])
    if group.find is not None and group.find.edges is not None:
        shape = context.shapes[on]
        request = edge_gradients(context, on, group, shape.heads(), None, rows)
        yield context.measurement(request, on)
        yield stage.patched(alone(shape.heads()[: group.find.edges.keep]), 0, looks(rows)[0])


def never(_: Measurement[Result_co]) -> Result_co:
    """Measures nothing.

    Raises:
        MechanismError: always.
    """
    raise MechanismError("a forecast measures nothing")
