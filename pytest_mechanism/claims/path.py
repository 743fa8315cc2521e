"""``path``: a group sends its receivers information that the answer needs.

Path patching of the whole group (Prakash et al., section 3.1): its z, and the output of its MLPs, comes from
the source prompt,
all other heads at its position and later are frozen, and only what the receivers read through
``via`` is passed on; for the group that writes the answer, only the direct path to the logits.
Score: mean change of the answer's log-probability, negative if the group matters. The published
mean of ratios is reported under its own name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import StrictStr

from pytest_mechanism.claims.base import PerRoleClaim, Reference
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.scoring import above_chance, guesses, performance, score
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.fields.thresholds import DriftInNats, Nats
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.nodes import KINDS, MLP, Member, Node, layers_before, readers
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import beats_control, no_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Observations, Score, Verdict


class Path(PerRoleClaim):
    """The effect of a group on its receivers.

    Attributes:
        group: the sender.
        drops_at_least: how many nats the answer's log-probability falls, at least.
    """

    summary: ClassVar[str] = "a group sends its receivers information that the answer needs"
    if_red: ClassVar[str] = (
        "the receivers of this group do not get the information that the answer needs from it"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("drops_at_least",)

    kind: Literal["path"]
    group: StrictStr
    drops_at_least: Nats
    drift: DriftInNats = 0.05

    def members_problem(self, group: AnyGroup) -> str | None:
        return elsewhere(group) or super().members_problem(group)

    def references(self) -> tuple[Reference, ...]:
        return (Reference("group", "group", self.group),)

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""), ("pairs", ""))

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return performance(context, context.role), patched_path(context, self.group)

    def missing_control(self, context: ClaimContext) -> str | None:
        heads, why = control_members(context, self.group)
        return None if heads else why

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, effects = (measure(m) for m in self.required_measurements(context))
        threshold = f"drops at least {self.drops_at_least:g}"
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so no path can matter to its answer",
                threshold,
            )
        judged, published = path_scores(context, self.group, effects)
        _, control_name = control_members(context, self.group)
        verdict = verdicts.within(judged, float("-inf"), -self.drops_at_least, claimed=threshold)
        verdict = replace(verdict, scores=(judged, published), chance=solved)
        control = judged.control
        if control is None:
            return no_control(verdict, control_name)
        how = context.sampling(effects)
        gap = estimates.difference(effects.values["group"], effects.values["control"], how)
        as_good = f"{control_name} do as much ({control.value:.3f})"
        return beats_control(verdict, control_name, gap, as_good, better=-1)


def control_members(context: ClaimContext, name: str) -> tuple[list[Member], str]:
    """Random members, of the kinds of a group, that its receivers could read."""
    group = context.group(name, context.role)
    if group.into is None:
        return context.random_members(group, context.role)
    receivers = readers(context.group(group.into.group, context.role).placed(), group.into.via)
    has_mlps = MLP in {part for _, part, _ in group.placed()}
    below = layers_before(receivers, "mlps" if has_mlps else "heads")
    return context.random_members(group, context.role, below)


def sent(context: ClaimContext, name: str) -> list[Node]:
    """The heads and MLPs of a group, as senders.

    Raises:
        MechanismError: a member does not work at the group's position.
    """
    if (problem := elsewhere(context.group(name, context.role))) is not None:
        raise MechanismError(f"group {name} {problem}")
    return read(context, name)


def read(context: ClaimContext, name: str) -> list[Node]:
    """The heads and MLPs of a group."""
    members = [(layer, part) for layer, part, _ in context.group(name, context.role).placed()]
    return context.nodes(members, context.role)


def patched_path(context: ClaimContext, name: str) -> Measurement:
    """Path patching of a group and of its control heads into its receivers."""
    group = context.group(name, context.role)
    control = context.nodes(control_members(context, name)[0], context.role)
    request = PathPatching(
        senders={"group": sent(context, name), **({"control": control} if control else {})},
        at=group.at,
        receivers=readers(read(context, group.into.group), group.into.via) if group.into else [],
        via=group.into.via if group.into else None,
        rows=context.rows,
        stream="pairs",
    )
    return context.measurement(request, context.role)


def path_scores(context: ClaimContext, name: str, effects: Observations) -> tuple[Score, Score]:
    """The effect of a group in nats, and the published ratio."""
    group = context.group(name, context.role)
    _, control_name = control_members(context, name)
    how = context.sampling(effects)
    into = f"{group.into.via} of {group.into.group}" if group.into else "the logits"

    def control_of(column: str) -> Control | None:
        if column not in effects.values:
            return None
        effect = estimates.mean(effects.values[column], how)
        return Control(control_name, effect.value, effect.interval)

    return (
        score(
            context,
            f"path {name} -> {into}",
            estimates.mean(effects.values["group"], how),
            "mean change of the answer's log-probability, in nats" + shared_keys(context, group),
            "lower",
            control_of("control"),
        ),
        score(
            context,
            f"path {name} -> {into}, published ratio",
            estimates.mean(effects.values["ratio group"], how),
            "mean of (p_patched - p_clean) / p_clean (Prakash et al., appendix)",
            "lower",
            control_of("ratio control"),
        ),
    )


def shared_keys(context: ClaimContext, group: Group) -> str:
    """What the metric says under GQA, where k and v of a head are those of its key-value group."""
    shape = context.shapes[context.role]
    if group.into is None or group.into.via not in ("k", "v") or shape.n_kv_heads == shape.n_heads:
        return ""
    return f"; {group.into.via} of the readers' key-value groups (GQA)"
