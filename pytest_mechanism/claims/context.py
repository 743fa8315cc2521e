"""What a claim is judged with: the models' sizes, the groups, the task, and the results of measurements."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.errors import MechanismError, TooFewContexts
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.nodes import ATTENTION, KINDS, MLP, Member, kind_of
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import BY_CONTENT
from pytest_mechanism.types import Head, Observations, Result_co, Setting, canonical

if TYPE_CHECKING:
    from pytest_mechanism.claims.base import Claim


class Measure(Protocol):
    """Gives the result of a measurement; makes measurements that were not planned at once."""

    def __call__(self, measurement: Measurement[Result_co], /) -> Result_co: ...


@dataclass(frozen=True)
class FoundCircuit:
    """The outcome of a search for the heads of a spec's groups.

    Attributes:
        groups: group -> its heads; without the groups that have none.
        reason: why groups have no heads; None if all have some.
    """

    groups: Mapping[str, Group]
    reason: str | None = None


class Search(Protocol):
    """Searches the heads of all groups on the model of role ``on``. Each number searches on rows of its
    own; number 0 on the rows on which ``heads: discovered`` searches."""

    def __call__(self, on: str, number: int, /) -> FoundCircuit: ...


def no_search(_on: str, _number: int) -> FoundCircuit:
    """The search of a context that has none.

    Raises:
        MechanismError: always.
    """
    raise MechanismError("nothing here can search for heads")


LEAST_CLUSTERS = 10
"""A bootstrap's 95 % interval over fewer clusters misses more than twice as often as it should."""


def check_contexts(clusters: Sequence[str]) -> None:
    """Check that rows come from enough contexts for a confidence interval; ``clusters`` has the context of each.

    Raises:
        TooFewContexts: they do not.
    """
    contexts = len(set(clusters))
    if contexts < LEAST_CLUSTERS:
        raise TooFewContexts(
            f"{len(clusters)} rows come from {contexts} contexts, but a confidence interval needs "
            f"{LEAST_CLUSTERS}; raise task.rows"
        )


def task_settings(task: Task) -> str:
    """The ``task`` of a measurement."""
    # a file counts by its content: its path changes no result
    settings = task.settings.model_dump(mode="json", context=BY_CONTENT)
    settings["revision"] = task.revision
    if task.edition:
        settings["edition"] = task.edition
    return canonical(settings)


@dataclass(frozen=True)
class ClaimContext:
    """Everything that a claim needs to judge one role.

    Attributes:
        role: role of the model under test, or ``pair``.
        groups: of the spec.
        ablation: of the spec.
        task: source of rows.
        confidence: of every interval.
        shapes: role -> sizes of its model.
        setting: the conditions that each score records.
        search: finds the circuits that the claim asks for (`Claim.required_searches`).
        sweep_rows: pairs of prompts on which profiles are measured; None for as many as the task has rows.
        claims: of the spec, for a claim that shares a measurement with others.
    """

    role: str
    groups: Mapping[str, AnyGroup]
    ablation: Ablation
    task: Task
    confidence: float
    shapes: Mapping[str, Shape]
    setting: Setting
    search: Search = no_search
    sweep_rows: int | None = None
    claims: Sequence[Claim] = ()

    def measurement(
        self, request: Request[Result_co], on: str, inputs: tuple[Measurement, ...] = ()
    ) -> Measurement[Result_co]:
        """A measurement on this claim's task, on the model of role ``on``."""
        return Measurement(request, on, task_settings(self.task), inputs)

    def has(self, role: str) -> bool:
        """Whether the run has a checkpoint for a role."""
        return role in self.shapes

    @property
    def seed(self) -> int:
        return int(self.task.settings.seed)

    @property
    def rows(self) -> int:
        return int(self.task.settings.rows)

    def sampling(self, observations: Observations) -> Sampling:
        """How the rows of some observations were drawn.

        Raises:
            TooFewContexts: too few contexts for an interval of this confidence.
        """
        check_contexts(observations.clusters)
        return Sampling(observations.clusters, self.confidence, self.seed)

    def group(self, name: str, on: str) -> Group:
        """A group whose members exist in the model of role ``on``.

        Raises:
            MechanismError: the model has no such head or layer, or the group has no heads yet.
        """
        group = self.groups[name]
        if not isinstance(group, Group):
            raise MechanismError(f"the heads of group {name} have not been discovered yet")
        shape = self.shapes[on]
        for layer, part, _ in group.placed():
            if layer >= shape.n_layers or (isinstance(part, int) and part >= shape.n_heads):
                named = f"head {part}" if isinstance(part, int) else KINDS[kind_of(part)][0]
                raise MechanismError(
                    f"group {name} names {named} of layer {layer}; the model of role {on} has "
                    f"layers 0 to {shape.n_layers - 1} with heads 0 to {shape.n_heads - 1}"
                )
        return group

    @property
    def ablates_mlps(self) -> bool:
        """Whether a circuit of the groups names its MLPs, or a search may find some, so that all others are
        ablated with it. A circuit of heads and attention outputs keeps every MLP."""
        return any("mlps" in group.kinds for group in self.groups.values())

    def nodes(self, members: Iterable[Sequence[Any]], on: str) -> list[Any]:
        """Members, with or without their position, with all heads of a layer in place of its attention output."""
        heads = range(self.shapes[on].n_heads)
        return [
            (layer, number, *at)
            for layer, part, *at in members
            for number in (heads if part == ATTENTION else [part])
        ]

    def random_heads(
        self,
        group: Group,
        on: str,
        below: int | None = None,
        spare: Sequence[Head] = (),
    ) -> tuple[list[Head], str]:
        """The control of a group of heads: as many other heads, from the same layers as far as possible.

        Only heads that could have an effect at the group's position are drawn: a head of the last
        layer reaches the answer from the last token alone.

        Args:
            group: whose control is drawn.
            on: role of the model.
            below: draw from layers below this one, because receivers hear no others.
            spare: further heads that must not be drawn.

        Returns:
            The heads and the name of the control; no heads, and why, if the model has too few.
        """
        members = group.named_heads()
        shape = self.shapes[on]
        highest = shape.n_layers if group.at == "last" else shape.n_layers - 1
        highest = highest if below is None else min(highest, below)
        rng = random.Random(f"random heads/{self.seed}/{members}")
        excluded = {*members, *spare}
        others = [h for h in shape.heads() if h not in excluded and h[0] < highest]
        if len(others) < len(members):
            return [], "too few other heads could have an effect there"
        same_layers, elsewhere = [], 0
        for layer in sorted(group.heads):
            wanted = sum(1 for member_layer, _ in members if member_layer == layer)
            available = [h for h in others if h[0] == layer]
            same_layers += rng.sample(available, min(wanted, len(available)))
            elsewhere += max(0, wanted - len(available))
        rest = [h for h in others if h not in same_layers]
        heads = sorted(same_layers + rng.sample(rest, elsewhere))
        where = "the same layers" if not elsewhere else "other layers (the group fills its own)"
        count = "1 random head" if len(heads) == 1 else f"{len(heads)} random heads"
        return heads, f"{count} of {where}"

    def random_members(
        self, group: Group, on: str, below: int | None = None, spare: Sequence[Member] = ()
    ) -> tuple[list[Member], str]:
        """The control of a group at one position: as many other members of each kind, heads from the same
        layers as far as possible, MLPs and attention outputs of other layers.

        Args:
            group: whose control is drawn.
            on: role of the model.
            below: draw from layers below this one, because receivers hear no others.
            spare: further members of which none, and no part, must be drawn.

        Returns:
            The members and the name of the control; no members, and why, if the model has too few.
        """
        members = [(layer, part) for layer, part, _ in group.placed()]
        known = [*members, *spare]
        full = {layer for layer, part in known if part == ATTENTION}
        apart = [head for head in self.shapes[on].heads() if head[0] in full or head in spare]
        drawn: list[Member] = []
        names: list[str] = []
        if group.heads:
            heads, name = self.random_heads(group, on, below, apart)
            if not heads:
                return [], name
            drawn += heads
            names.append(name)
        highest = self.shapes[on].n_layers if group.at == "last" else self.shapes[on].n_layers - 1
        layers = range(highest if below is None else min(highest, below))
        for part in (ATTENTION, MLP):
            own = {layer for layer, other in members if other == part}
            with_heads = {layer for layer, other in (*known, *drawn) if isinstance(other, int)}
            taken = {layer for layer, other in known if other == part}
            taken |= with_heads if part == ATTENTION else set()
            others = [layer for layer in layers if layer not in taken]
            one, several = KINDS[kind_of(part)]
            if len(others) < len(own):
                return [], f"too few other {several} could have an effect there"
            if own:
                rng = random.Random(f"random {part}/{self.seed}/{sorted(own)}")
                drawn += [(layer, part) for layer in sorted(rng.sample(others, len(own)))]
                names.append(f"{len(own)} random {one if len(own) == 1 else several}")
        return drawn, " and ".join(names)
