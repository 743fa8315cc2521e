"""What every claim kind has: its YAML fields, the measurements it needs, how it judges.

A kind is one file with one subclass of `Claim`. Third parties add theirs through the entry point
group ``pytest_mechanism.claims``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

from pydantic import Field, StrictStr

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.errors import MeasurementError, MechanismError, add_models
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import Atol, Drift
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import BY_CONTENT
from pytest_mechanism.types import (
    Chart,
    Head,
    Measurement,
    Observations,
    Result_co,
    Setting,
    Verdict,
    canonical,
)


class Measure(Protocol):
    """Asks the runner; measures on the spot what was not planned."""

    def __call__(self, measurement: Measurement[Result_co], /) -> Result_co: ...


LEAST_CLUSTERS = 10
"""With fewer, a bootstrap's 95 % interval misses more than twice as often as it says."""

PAIR = "pair"
"""The role of a claim that compares models."""

REFERENCE = "base"
"""The role of the model that the spec was written for: what is red there says nothing about the
candidate."""


def task_settings(task: Task) -> str:
    """A measurement's ``task``."""
    # a file by its content: where it lies changes no result
    settings = task.settings.model_dump(mode="json", context=BY_CONTENT)
    settings["revision"] = task.revision
    if task.edition:
        settings["edition"] = task.edition
    return canonical(settings)


@dataclass(frozen=True)
class ClaimContext:
    """One claim on one role, with everything its judgement may look at.

    Attributes:
        role: the model under test, or ``pair``.
        groups: of the spec.
        ablation: of the spec.
        task: source of rows.
        confidence: of every interval.
        shapes: role -> sizes of its model.
        setting: what is noted beside each score.
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

    def sampling(self, seen: Observations) -> Sampling:
        """How the rows behind some observations were drawn.

        Raises:
            MeasurementError: too few contexts for an interval that means what it says.
        """
        contexts = len(set(seen.clusters))
        if contexts < LEAST_CLUSTERS:
            raise MeasurementError(
                f"{len(seen.clusters)} rows come from {contexts} contexts, an interval needs "
                f"{LEAST_CLUSTERS}; raise task.rows"
            )
        return Sampling(seen.clusters, self.confidence, self.seed)

    def group(self, name: str, on: str) -> Group:
        """A group whose heads exist in the model of role ``on``.

        Raises:
            MechanismError: a head lies outside the model.
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
        """As many heads as the group has, none of them in it: the same layers while they last.

        Only heads that could have an effect at the group's position are drawn: a head of the last
        layer reaches the answer from the last token alone.

        Args:
            group: whose control it is.
            on: role of the model.
            below: draw from layers below this one (receivers hear no others).
            spare: further heads that must not be drawn.

        Returns:
            The heads, and what to call this control; no heads where the model has too few.
        """
        members = group.members()
        shape = self.shapes[on]
        highest = shape.n_layers if group.at == "last" else shape.n_layers - 1
        highest = highest if below is None else min(highest, below)
        rng = random.Random(f"random heads/{self.seed}/{members}")
        gone = {*members, *spare}
        others = [h for h in shape.heads() if h not in gone and h[0] < highest]
        if len(others) < len(members):
            return [], "too few other heads could have an effect there"
        same_layers, elsewhere = [], 0
        for layer in sorted(group.heads):
            wanted = sum(1 for at, _ in members if at == layer)
            here = [h for h in others if h[0] == layer]
            same_layers += rng.sample(here, min(wanted, len(here)))
            elsewhere += max(0, wanted - len(here))
        rest = [h for h in others if h not in same_layers]
        heads = sorted(same_layers + rng.sample(rest, elsewhere))
        where = "the same layers" if not elsewhere else "other layers (the group fills its own)"
        many = "1 random head" if len(heads) == 1 else f"{len(heads)} random heads"
        return heads, f"{many} of {where}"


class Claim(Part):
    """A sentence about a model that a run can refute.

    Attributes:
        kind: which subclass.
        drift: how much worse than the accepted score a new checkpoint may be.
        atol: how much the score of unchanged checkpoints may differ from the accepted one.
    """

    kind: StrictStr
    drift: Drift = 0.05
    atol: Atol = 1e-3

    summary: ClassVar[str] = ""
    """One line for ``--help`` and the schema."""

    if_red: ClassVar[str] = ""
    """What a red verdict means, for somebody who knows no interpretability."""

    thresholds: ClassVar[tuple[str, ...]] = ()
    """Fields that say what is asked of the score, and not what the score is."""

    later: ClassVar[tuple[str, ...]] = ()
    """Fields that a later version added: at their defaults they mean what a spec without them meant,
    so that accepted scores stay (`report.result.definition`)."""

    needs_groups: ClassVar[bool] = True
    """Whether the claim is about the spec's heads."""

    ablates: ClassVar[bool] = False
    """Whether heads outside the circuit are silenced, by means over the task's prompts."""

    matching_sizes: ClassVar[tuple[str, ...]] = ()
    """Sizes of a `Shape` that `matched` models must have in common: part is set against part."""

    def roles(self) -> tuple[str, ...]:
        """One test item each."""
        raise NotImplementedError

    def models(self, role: str) -> tuple[str, ...]:
        """Roles whose checkpoints the item of ``role`` needs."""
        return (role,)

    def matched(self, role: str) -> tuple[str, ...]:
        """Roles whose models are set against each other part by part."""
        return self.models(role)

    def optional_roles(self, role: str) -> tuple[str, ...]:
        """Further roles, controls for the most part, that the item of ``role`` uses where the run
        has them; without, it says what it can still conclude (`ClaimContext.has`)."""
        return ()

    def found_on(self, role: str, spec_found_on: str) -> str:
        """The role on whose model ``heads: discovered`` finds this item's heads."""
        return spec_found_on if role == PAIR else role

    def mentions(self) -> Mapping[str, tuple[str, str]]:
        """Names the claim uses: field -> (``group``, ``variable`` or ``position``, name)."""
        return {}

    def unsupported_reason(self, task: Task) -> str | None:
        """Why the claim cannot be made about a task, as far as its settings tell; else None."""
        return None

    def draws(self, task: Task) -> tuple[tuple[str, str], ...]:
        """Sets of rows that the claim is measured on, so that they are tried when the spec is read:
        (a set of `Task.row_set` or ``pairs``, nothing), or (``interchange``, variable)."""
        return ()

    def needs(self, context: ClaimContext) -> tuple[Measurement, ...]:
        """What must be measured, as far as it is known beforehand."""
        raise NotImplementedError

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        """The verdict; may ask for more measurements."""
        raise NotImplementedError

    def lacks(self, context: ClaimContext) -> str | None:
        """Why the claim cannot pass whatever is measured, as far as it is known beforehand: what a
        run says before it loads a checkpoint. None where it can."""
        missing = [role for role in self.optional_roles(context.role) if not context.has(role)]
        if not missing:
            return None
        return f"it cannot pass without {' and '.join(missing)}: {add_models(missing)}"

    def chart(self, context: ClaimContext, measure: Measure) -> Chart | None:
        """Curves behind the verdict, for ``pytest-mechanism show``; None where there are none."""
        return None

    def check_matching_sizes(self, role: str, shapes: Mapping[str, Shape]) -> None:
        """The matched models have the sizes in common that the claim needs.

        Raises:
            MechanismError: they have not.
        """
        first, *others = self.matched(role) if self.matching_sizes else (role,)
        for other in others:
            for size in self.matching_sizes:
                one, two = (getattr(shapes[r], size) for r in (first, other))
                if one != two:
                    raise MechanismError(
                        f"{self.kind} sets {first} against {other} part by part, and they differ in "
                        f"{size}: {one} and {two}; claims about one model run on each"
                    )


Roles = Annotated[list[StrictStr] | StrictStr, Field(min_length=1)]


def listed(roles: list[str] | str) -> tuple[str, ...]:
    """A YAML value that may be one name or several, as a tuple."""
    return (roles,) if isinstance(roles, str) else tuple(roles)
