"""The base of every claim kind: its YAML fields, its measurements and its verdict.

A kind is one file with one subclass of `Claim`. Other packages add kinds through the entry point
group ``pytest_mechanism.claims``.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Field, StrictStr

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.errors import MeasurementError, MechanismError, add_models
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import Atol, Drift
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import BY_CONTENT
from pytest_mechanism.types import Chart, Head, Observations, Result_co, Setting, Verdict, canonical


class Measure(Protocol):
    """Gives the result of a measurement; makes measurements that were not planned at once."""

    def __call__(self, measurement: Measurement[Result_co], /) -> Result_co: ...


LEAST_CLUSTERS = 10
"""A bootstrap's 95 % interval over fewer clusters misses more than twice as often as it should."""

PAIR = "pair"
"""The role of a claim that compares models."""

REFERENCE = "base"
"""The role of the model that the spec was written for. A red claim on it says nothing about the
candidate."""


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
    """

    role: str
    groups: Mapping[str, AnyGroup]
    ablation: Ablation
    task: Task
    confidence: float
    shapes: Mapping[str, Shape]
    setting: Setting

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
            MeasurementError: too few contexts for an interval of this confidence.
        """
        contexts = len(set(observations.clusters))
        if contexts < LEAST_CLUSTERS:
            raise MeasurementError(
                f"{len(observations.clusters)} rows come from {contexts} contexts, an interval needs "
                f"{LEAST_CLUSTERS}; raise task.rows"
            )
        return Sampling(observations.clusters, self.confidence, self.seed)

    def group(self, name: str, on: str) -> Group:
        """A group whose heads exist in the model of role ``on``.

        Raises:
            MechanismError: the model has no such head, or the group has no heads yet.
        """
        group = self.groups[name]
        if not isinstance(group, Group):
            raise MechanismError(f"the heads of group {name} have not been discovered yet")
        shape = self.shapes[on]
        outside = [h for h in group.members() if h[0] >= shape.n_layers or h[1] >= shape.n_heads]
        if outside:
            layer, head = outside[0]
            raise MechanismError(
                f"group {name} names head {head} of layer {layer}; the model of role {on} has "
                f"layers 0 to {shape.n_layers - 1} with heads 0 to {shape.n_heads - 1}"
            )
        return group

    def random_heads(
        self,
        group: Group,
        on: str,
        below: int | None = None,
        spare: Sequence[Head] = (),
    ) -> tuple[list[Head], str]:
        """The control of a group: as many other heads, from the same layers as far as possible.

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
        members = group.members()
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


@dataclass(frozen=True)
class Reference:
    """A name in a claim that the spec or its task must define.

    Attributes:
        field: of the claim, for the line of an error.
        kind: what has this name.
        name: the name.
    """

    field: str
    kind: Literal["group", "variable", "position"]
    name: str


class Claim(Part):
    """A statement about a model that a run can refute.

    Attributes:
        kind: which subclass.
        drift: how much worse than the baseline the score of a new checkpoint may be.
        atol: how much the score of unchanged checkpoints may differ from the baseline.
    """

    kind: StrictStr
    drift: Drift = 0.05
    atol: Atol = 1e-3

    summary: ClassVar[str] = ""
    """One line for ``--help`` and the schema."""

    if_red: ClassVar[str] = ""
    """What a refuted claim means, for a reader who knows no interpretability."""

    thresholds: ClassVar[tuple[str, ...]] = ()
    """Fields that the score must meet. All other fields define the score."""

    added_later: ClassVar[tuple[str, ...]] = ()
    """Fields that a later version added. At their defaults they leave the definition of the score as it
    was, so that baselines stay valid (`plugin.score_entry.definition`)."""

    needs_groups: ClassVar[bool] = True
    """Whether the claim is about the heads of the spec."""

    ablates: ClassVar[bool] = False
    """Whether heads outside the circuit are ablated, by means over the task's prompts."""

    matching_sizes: ClassVar[tuple[str, ...]] = ()
    """Sizes of a `Shape` that the models of `compared_roles` must share."""

    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """The roles that the claim judges; each is a test item."""

    def models(self, role: str) -> tuple[str, ...]:
        """Roles of the checkpoints that the item of ``role`` requires."""
        return (role,)

    def compared_roles(self, role: str) -> tuple[str, ...]:
        """Roles whose models are compared part by part."""
        return self.models(role)

    def optional_roles(self, role: str) -> tuple[str, ...]:
        """Further roles, mostly controls, that the item of ``role`` uses if the run has them. Without
        them, the verdict says what can still be concluded (`ClaimContext.has`)."""
        return ()

    def discovery_role(self, role: str, spec_found_on: str) -> str:
        """The role on whose model ``heads: discovered`` searches the heads of this item."""
        return spec_found_on if role == PAIR else role

    def references(self) -> tuple[Reference, ...]:
        """Names of the spec or its task that the claim uses."""
        return ()

    def unsupported_reason(self, task: Task) -> str | None:
        """Why the claim cannot be made about a task, as far as its settings show; else None."""
        return None

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        """The sets of rows that are drawn for a check when the spec is read; a request's own `row_sets` are
        drawn for the preflight:
        (a set of `Task.row_set` or ``pairs``, an empty string), or (``interchange``, a variable)."""
        return ()

    @abstractmethod
    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        """The measurements of the claim, as far as they are known in advance."""

    @abstractmethod
    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        """The verdict; may request further measurements."""

    def blocking_reason(self, context: ClaimContext) -> str | None:
        """Why the claim cannot pass, whatever is measured; None if it can.

        A run reports the reason before it loads a checkpoint.
        """
        if missing := self.missing_roles(context):
            return f"it cannot pass without {' and '.join(missing)}: {add_models(missing)}"
        why = self.missing_control(context)
        return None if why is None else f"it cannot pass without a control: {why}"

    def missing_roles(self, context: ClaimContext) -> list[str]:
        """Optional roles that the run has no checkpoint for."""
        return [role for role in self.optional_roles(context.role) if not context.has(role)]

    def missing_control(self, context: ClaimContext) -> str | None:
        """Why the model has no control for the claim; None if it has one or needs none."""
        return None

    def chart(self, context: ClaimContext, measure: Measure) -> Chart | None:
        """Curves behind the verdict, for ``pytest-mechanism show``; None if there are none."""
        return None

    def check_matching_sizes(self, role: str, shapes: Mapping[str, Shape]) -> None:
        """Check that the compared models share the sizes that the claim requires.

        Raises:
            MechanismError: they differ.
        """
        first, *others = self.compared_roles(role) if self.matching_sizes else (role,)
        for other in others:
            for size in self.matching_sizes:
                first_size, other_size = (getattr(shapes[r], size) for r in (first, other))
                if first_size != other_size:
                    raise MechanismError(
                        f"{self.kind} compares {first} and {other} part by part, and they differ in "
                        f"{size}: {first_size} and {other_size}; claims about one model run on each"
                    )


Roles = Annotated[list[StrictStr] | StrictStr, Field(min_length=1)]


def listed(roles: list[str] | str) -> tuple[str, ...]:
    """The roles of a YAML value, which may be one name or a list."""
    return (roles,) if isinstance(roles, str) else tuple(roles)


class PerRoleClaim(Claim):
    """A claim about one model, judged on each role in ``on``.

    Attributes:
        on: role or roles under test.
    """

    on: Roles = Field(default_factory=lambda: ["base", "ft"])

    def roles(self) -> tuple[str, ...]:
        return listed(self.on)
