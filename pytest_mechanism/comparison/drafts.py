"""Claims that hold on both models of a comparison, for the spec that ``compare`` writes.

Members are chosen on the rows of the comparison (`discovery.paths.RANK_STREAM`), thresholds on `discover.THRESHOLD`
rows, with room, and every claim is then judged on the spec's own rows, which neither used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.path import patched_path, path_scores
from pytest_mechanism.claims.profile_stages import stages
from pytest_mechanism.claims.profiles import measured
from pytest_mechanism.claims.scoring import accuracy
from pytest_mechanism.comparison.members import BASE, FT
from pytest_mechanism.discovery.claims import EFFECT_ROWS, SLACK, with_rows
from pytest_mechanism.discovery.selection import chain
from pytest_mechanism.fields.groups import Group, Into
from pytest_mechanism.measurements.performance import Performance

ROOM = 0.05
"""How far below the interval of the worse model's accuracy the threshold lies."""

WORK_ROOM = 0.02
"""How far the margin of the claim about all members lies beyond the largest interval."""

LEAST_DROP = 0.02
"""Nats: the least effect of a group that becomes a claim."""

WIDEST = 0.25
"""The largest margin at which the claim about all members still says something."""


@dataclass(frozen=True)
class Drafts:
    """Groups and claims of a new spec.

    Attributes:
        groups: name -> members; a group whose members differ comes once for each model.
        claims: name -> fields, as in YAML.
    """

    groups: Mapping[str, Group]
    claims: Mapping[str, Mapping[str, Any]]


def merged(
    circuits: Mapping[str, Mapping[str, Group]],
) -> tuple[dict[str, Group], dict[str, tuple[str, ...]]]:
    """The groups of both circuits, and the roles whose circuit each belongs to.

    A group that has the same members and the same readers in both models comes once.
    """
    groups: dict[str, Group] = {}
    roles: dict[str, tuple[str, ...]] = {}
    names: dict[str, dict[str, str]] = {BASE: {}, FT: {}}
    both = {**circuits[BASE], **circuits[FT]}
    for name in chain(both):
        here = {role: circuits[role][name] for role in (BASE, FT) if name in circuits[role]}
        heard = {
            names[role].get(group.into.group) if group.into else "" for role, group in here.items()
        }
        placed = {tuple(group.placed()) for group in here.values()}
        if len(here) == 2 and len(placed) == 1 and len(heard) == 1:
            variants: dict[str, tuple[str, ...]] = {name: (BASE, FT)}
        else:
            variants = {f"{name}_in_{role}": (role,) for role in here}
        for variant, of in variants.items():
            group = here[of[0]]
            into = group.into
            if into is not None:
                reader = names[of[0]].get(into.group)
                if reader is None:
                    continue
                into = Into(group=reader, via=into.via)
            groups[variant] = group.model_copy(update={"into": into, "find": None})
            roles[variant] = of
            for role in of:
                names[role][name] = variant
    return groups, roles


def unmeasured(
    circuits: Mapping[str, Mapping[str, Group]], changed: bool
) -> tuple[dict[str, Group], dict[str, Mapping[str, Any]]]:
    """Groups and claims with thresholds that stand for none: what the claims measure is known before these are."""
    groups, roles = merged(circuits)
    claims: dict[str, Mapping[str, Any]] = {
        "solves_task": {"kind": "accuracy", "on": [BASE, FT], "at_least": 0.5}
    }
    for name, of in roles.items():
        claims[f"{name}_is_heard"] = {
            "kind": "path", "on": list(of), "group": name, "drops_at_least": 1.0,
        }  # fmt: skip
    if not changed:
        claims["same_work"] = {"kind": "same_profile", "from": BASE, "to": FT, "margin": WIDEST}
    return groups, claims


def drafts(
    context_of: Callable[[str], ClaimContext],
    circuits: Mapping[str, Mapping[str, Group]],
    changed: bool,
    measure: Measure,
    rows: int,
) -> Drafts:
    """The claims with their thresholds.

    Args:
        context_of: role -> its context.
        circuits: role -> who does the work of each group.
        changed: whether some member changed; if none did, a claim says that all members do the same.
        measure: gives results on rows that the comparison did not use.
        rows: how many of them.
    """
    groups, roles = merged(circuits)
    claims: dict[str, Mapping[str, Any]] = {}
    claims |= task_claims(context_of, measure, rows)
    effects = {
        (name, role): effect_of(replace(context_of(role), groups=groups), name, measure, rows)
        for role in (BASE, FT)  # all of one model before the other, which has to be loaded
        for name, of in roles.items()
        if role in of
    }
    for name, of in roles.items():
        drop = min(effects[name, role] for role in of)
        if drop >= LEAST_DROP:
            on = list(of) if len(of) > 1 else of[0]
            fields = {
                "kind": "path",
                "on": on,
                "group": name,
                "drops_at_least": floored(SLACK * drop),
            }
            claims[f"{name}_is_heard"] = fields
    if not changed and groups:
        context = replace(context_of(BASE), groups=groups, sweep_rows=rows)
        margin = margin_of(context, measure)
        if margin <= WIDEST:
            claims["same_work"] = {
                "kind": "same_profile", "from": BASE, "to": FT, "margin": margin,
            }  # fmt: skip
    return Drafts(groups, claims)


def floored(number: float) -> float:
    """Two significant digits, rounded down."""
    digits = 1 - math.floor(math.log10(number))
    return float(f"{math.floor(number * 10**digits) / 10**digits:.6g}")


def task_claims(
    context_of: Callable[[str], ClaimContext], measure: Measure, rows: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The claims about the task alone."""
    scores = {}
    for role in (BASE, FT):
        context = context_of(role)
        request = Performance(rows=rows, stream="rows")
        scores[role] = accuracy(context, measure(context.measurement(request, role)))
    context = context_of(BASE)
    lowest = min(score.interval[0] for score in scores.values())
    at_least = max(context.task.chance, math.floor((lowest - ROOM) * 100) / 100)
    yield "solves_task", {"kind": "accuracy", "on": [BASE, FT], "at_least": round(at_least, 4)}
    fall = scores[BASE].interval[1] - scores[FT].interval[0]
    margin = max(0.05, math.ceil((fall + 0.01) * 100) / 100)
    if margin < 0.5:
        yield (
            "no_worse",
            {"kind": "accuracy", "on": FT, "not_worse_than": BASE, "margin": round(margin, 2)},
        )


def effect_of(context: ClaimContext, name: str, measure: Measure, rows: int) -> float:
    """The least effect of a group that its interval allows, in nats; negative without one."""
    fewer = with_rows(context, min(rows, EFFECT_ROWS))
    effect, _ = path_scores(fewer, name, measure(patched_path(fewer, name)))
    return -effect.interval[1]


def margin_of(context: ClaimContext, measure: Measure) -> float:
    """A margin that every member's change keeps, with room."""
    profiles = measured(context, BASE, FT, measure, stages(context, BASE))
    reach = [
        max(abs(bound) for bound in profile.change(name, context.sampling(profile.now)).interval)
        for profile in profiles
        for name in profile.senders
    ]
    return math.ceil((float(np.max(reach)) + WORK_ROOM) * 100) / 100
