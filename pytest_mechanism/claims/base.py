"""The base of every claim kind: its YAML fields, its measurements and its verdict.

A kind is one file with one subclass of `Claim`. Other packages add kinds through the entry point
group ``pytest_mechanism.claims``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictStr, model_validator

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.errors import MechanismError, add_models
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import Atol, Drift
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import listing
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Chart, Severity, Verdict

PAIR = "pair"
"""The role of a claim that compares models."""

REFERENCE = "base"
"""The role of the model that the spec was written for. A red claim on it says nothing about the
candidate."""


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
        severity: whether the claim makes a run red where it does not hold (``block``), or is only shown (``warn``).
    """

    kind: StrictStr
    drift: Drift = 0.05
    atol: Atol = 1e-3
    severity: Severity = "block"

    summary: ClassVar[str] = ""
    """One line for ``--help`` and the schema."""

    if_red: ClassVar[str] = ""
    """What a refuted claim means, for a reader who knows no interpretability."""

    thresholds: ClassVar[tuple[str, ...]] = ()
    """Fields that the score must meet. All other fields define the score."""

    added_later: ClassVar[tuple[str, ...]] = ()
    """Fields that a later version added. At their defaults they leave the definition of the score as it
    was, so that baselines stay valid (`spec.definition.definition`)."""

    needs_groups: ClassVar[bool] = True
    """Whether the claim is about the heads of the spec."""

    members: ClassVar[tuple[str, ...]] = ("heads",)
    """Keys of a group (`nodes.KINDS`) whose members the claim handles. A spec in which the claim is about a
    group with other members is refused."""

    ablates: ClassVar[bool] = False
    """Whether heads outside the circuit are ablated, by means over the task's prompts."""

    counted: ClassVar[str] = "rows"
    """What the n of the scores counts."""

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

    def required_searches(
        self, role: str, groups: Mapping[str, AnyGroup]
    ) -> tuple[tuple[str, int], ...]:
        """The searches for heads that the item of ``role`` asks `ClaimContext.search` for: (role of a
        model, number). The item of a claim that asks for some gets the groups as the spec has them."""
        return ()

    def groups_problem(self, groups: Mapping[str, AnyGroup]) -> str | None:
        """What the claim lacks in the groups of the spec, or None."""
        return None

    def refuted(self, verdict: Verdict) -> str:
        """What a refuted verdict means; `if_red`, where its scores do not say more."""
        return self.if_red

    def references(self) -> tuple[Reference, ...]:
        """Names of the spec or its task that the claim uses."""
        return ()

    def members_problem(self, group: AnyGroup) -> str | None:
        """Why the claim cannot be about a group, in the words after "group NAME"; None if it can."""
        named = isinstance(group, Group)
        for key in group.kinds:
            if key not in self.members:
                why = f"kind {self.kind} is about {listing(self.members)} alone"
                return f"{'names' if named else 'may find'} {key}, and {why}"
        return None

    def unsupported_reason(self, task: Task) -> str | None:
        """Why the claim cannot be made about a task, as far as its settings show; else None."""
        return None

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        """The sets of rows that are drawn for a check when the spec is read: (a set of `Task.row_set` or
        ``pairs``, an empty string), or (``interchange``, a variable). The preflight of a run draws those
        of `Request.row_sets`."""
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
        self.check_sizes(self.matching_sizes, role, shapes)

    def check_sizes(self, sizes: Sequence[str], role: str, shapes: Mapping[str, Shape]) -> None:
        """Check that the compared models share some sizes.

        Raises:
            MechanismError: they differ.
        """
        first, *others = self.compared_roles(role) if sizes else (role,)
        for other in others:
            for size in sizes:
                first_size, other_size = (getattr(shapes[r], size) for r in (first, other))
                if first_size != other_size:
                    raise MechanismError(
                        f"{self.kind} compares the parts of {first} and {other} one by one, so both "
                        f"need the same {size} ({first_size} and {other_size}); use claims about "
                        "each model alone"
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


class PairClaim(Claim):
    """A claim that compares two models, judged once.

    Attributes:
        source: YAML ``from``: role of the reference model.
        to: role of the model that is compared with it.
    """

    source: StrictStr = Field(default="base", alias="from")
    to: StrictStr = "ft"

    @model_validator(mode="after")
    def check_two_roles(self) -> PairClaim:
        if self.source == self.to:
            raise ValueError("from and to must be two roles")
        return self

    def roles(self) -> tuple[str, ...]:
        return (PAIR,)

    def models(self, role: str) -> tuple[str, ...]:
        return (self.to, self.source)
