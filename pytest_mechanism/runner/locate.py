"""Which heads and MLPs are behind a red claim: the profile of every member, in the reference model and the candidate.

The same sweep as kind ``same_profile`` (`claims.profiles`), made only once a claim about a circuit is red, and once for
each spec and candidate. Where a claim ``same_profile`` makes it anyway, a red claim about the task gets its lines, too.
A group that broke is shown by its members' effects before and now; work that moved by the members that do it now.
What changed in the weights is in `runner.edited_weights`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_mechanism.causes import Cause
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import REFERENCE, Claim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.moved_work import OF_WHAT, called, sentences, silent
from pytest_mechanism.claims.other_places import places_in_circuit
from pytest_mechanism.claims.patched_alone import ALL_UP_TO, BANDS, number_alone
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.profile_stages import stages
from pytest_mechanism.claims.profiles import changes, known_measurements, measured
from pytest_mechanism.claims.same_profile import SameProfile
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import Located, MemberChange

MARGIN = 0.05
"""Changes of a share that are named."""

ROWS, FEWEST_ROWS = 140, 48
"""Pairs of prompts of the sweep, unless a claim of the spec makes it on all of them anyway; and of the sweep of a model
on which these would take too long."""

WORK = 1.8e12
"""Weights that a sweep may read for one token of each forward: four minutes of a processor for prompts of 20 tokens."""

ABOUT_MEMBERS = frozenset(
    {
        Cause.REFUTED,
        Cause.UNSETTLED,
        Cause.FELL_BEHIND,
        Cause.NOT_COMPARABLE,
        Cause.CONTROL_AS_GOOD,
    }
)
"""Causes of a red claim that a change of heads may be behind."""

CANDIDATE = "ft"


def candidate(claim: Claim, role: str) -> str:
    """The model whose members are looked at."""
    others = [model for model in claim.models(role) if model != REFERENCE]
    return others[0] if others else CANDIDATE


def same_sizes(shapes: Mapping[str, Shape], to: str) -> bool:
    """Whether a model has the layers and heads of the reference model."""
    if not {REFERENCE, to} <= {*shapes}:
        return False
    before, now = shapes[REFERENCE], shapes[to]
    return (before.n_layers, before.n_heads) == (now.n_layers, now.n_heads)


def can_locate(
    context: ClaimContext, spec: Spec, claim: Claim, role: str, cause: Cause | None
) -> bool:
    """Whether a red claim is about heads of a circuit that both models have; or about the task, where another claim of
    the spec makes the sweep anyway."""
    if cause not in ABOUT_MEMBERS or not context.groups:
        return False
    if not claim.needs_groups and not sweeps_anyway(spec, candidate(claim, role)):
        return False
    if role == REFERENCE or not same_sizes(context.shapes, candidate(claim, role)):
        return False
    return all(
        isinstance(group, Group) and elsewhere(group) is None for group in context.groups.values()
    )


def sweeps_anyway(spec: Spec, to: str) -> bool:
    """Whether a claim of a spec measures every member of the reference model and of another."""
    return any(
        isinstance(claim, SameProfile) and (claim.source, claim.to) == (REFERENCE, to)
        for claim in spec.claims.values()
    )


def with_rows(context: ClaimContext, spec: Spec, to: str) -> ClaimContext:
    """The context of the sweep: on the rows of a claim that makes it anyway, else on fewer."""
    if sweeps_anyway(spec, to):
        return context
    rows = rows_within(context.shapes[REFERENCE], len(context.groups))
    return replace(context, sweep_rows=min(context.rows, rows))


def rows_within(shape: Shape, groups: int) -> int:
    """Pairs of prompts on which the sweep of a circuit with so many groups stays within `WORK`, as far as `FEWEST_ROWS`
    and `ROWS` allow. Each member of a stage is a forward, and a layer has about 12 x width^2 weights."""
    heads = shape.n_layers * shape.n_heads
    bands = 0 if heads <= ALL_UP_TO else BANDS
    members = max(1, groups) * (number_alone(heads) + shape.n_layers + bands)
    weights = 12 * shape.n_layers * shape.d_model**2
    return min(ROWS, max(FEWEST_ROWS, int(WORK / (members * weights))))


def needed(context: ClaimContext, to: str) -> tuple[Measurement, ...]:
    """What the sweep measures, as far as it is known in advance."""
    of = stages(context, REFERENCE)
    return tuple(m for role in (REFERENCE, to) for m in known_measurements(context, role, of))


def sweep(
    context: ClaimContext, to: str, measure: Measure
) -> tuple[list[MemberChange], list[str], float]:
    """The change of every member, where heads are in another place or basis, and how long it took."""
    started = time.perf_counter()
    of = stages(context, REFERENCE)
    found = changes(context, measured(context, REFERENCE, to, measure, of), MARGIN)
    said: list[str] = []
    places = places_in_circuit(context, REFERENCE, to, measure, of)
    if places.moved or places.turned:
        said = places.sentences(REFERENCE)
    if places.moved:
        again = measured(context, REFERENCE, to, measure, of, places.moved)
        found = changes(context, again, MARGIN)
    return found, said, time.perf_counter() - started


def located(
    claim: Claim, found: Sequence[MemberChange], places: Sequence[str], seconds: float, alpha: float
) -> Located:
    """What a reader of a red claim has to know about its members.

    Args:
        claim: the red claim.
        found: every member.
        places: where heads are in another place or basis.
        seconds: how long the sweep took.
        alpha: members with a smaller p-value changed.
    """
    changed = [member for member in found if member.p < alpha]
    lines = [*places]
    groups = [reference.name for reference in claim.references() if reference.kind == "group"]
    for group in dict.fromkeys(groups):
        lines += of_group(group, found, changed)
    lines += sentences(changed, found)
    if not changed:
        lines.append(
            f"no head or MLP surely changed its share {OF_WHAT} by more than {MARGIN:g} "
            f"(corrected for {len(found)} comparisons)"
        )
    return Located(tuple(lines), tuple(changed), round(seconds, 3))


def of_group(
    group: str, found: Sequence[MemberChange], changed: Sequence[MemberChange]
) -> list[str]:
    """The effects of a group's members before and now, for members that `sentences` does not name."""
    named = {member.name for member in changed}
    own = [member for member in found if member.group == group and member.name not in named]
    shown = [member for member in own if not silent(member) and abs(member.before) >= MARGIN]
    if not shown:
        return []
    parts = [
        f"{called(member.member)} {member.before:.2f} -> {member.now:.2f} towards {member.readers}"
        for member in sorted(shown, key=lambda member: -abs(member.before))[:4]
    ]
    return [f"{group} shows no sure change of its share {OF_WHAT}: {', '.join(parts)}"]
