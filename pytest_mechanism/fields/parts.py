"""The parts of a spec that claims look at: groups of heads, ablation, where a spec applies."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from pytest_mechanism.spec.reach import check_reach
from pytest_mechanism.types import Head

Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
"""0 to 1. What is claimed of a share has narrower types: `spec.thresholds`."""

Layer = Annotated[int, Field(ge=0, lt=1000)]
HeadIndex = Annotated[StrictInt, Field(ge=0, lt=1000)]


At = Annotated[StrictStr, AfterValidator(lambda at: at.removesuffix(".last"))]
"""A named position of the task: the last token of its word, or ``name.first``. ``name.last`` says
what ``name`` means."""


class Part(BaseModel):
    """A piece of a spec: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Into(Part):
    """Which heads read what a group writes.

    Attributes:
        group: the receiving group.
        via: through which of the receivers' inputs.
    """

    group: StrictStr
    via: Literal["q", "k", "v"]


class Screen(Part):
    """Attribution patching before path patching: many heads are looked at by gradient, few exactly.

    Attributes:
        keep: heads that are path patched, those with the largest estimated effect.
    """

    keep: Annotated[StrictInt, Field(ge=1, le=100_000)]


class Find(Part):
    """How the heads of a group are found.

    Attributes:
        candidates: take so many heads with the strongest path-patching effect (the published
            way); None takes those whose effect is large enough, and surely not none.
        receivers: how many of them the next group is patched into; None is all.
        drops_at_least: wanted effect without ``candidates``: the answer's log-probability falls
            by so many nats. Should the circuit of all groups not suffice, heads with less join.
        screen: which heads are looked at exactly; None is all.
    """

    candidates: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    receivers: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    drops_at_least: Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)] = 0.2
    screen: Screen | None = None


class Group(Part):
    """Heads that do one job.

    Attributes:
        heads: layer -> heads.
        at: named position of the task at which they do it; of a word of several tokens the last
            one, or ``name.first``.
        into: the group that reads them; None for the group that writes the answer.
        find: how ``pytest-mechanism discover`` looks for them.
    """

    heads: dict[Layer, Annotated[list[HeadIndex], Field(min_length=1)]] = Field(min_length=1)
    at: At
    into: Into | None = None
    find: Find | None = None

    def sought(self) -> SoughtGroup:
        """The same group with its heads forgotten."""
        return SoughtGroup(heads="discovered", at=self.at, into=self.into, find=self.find or Find())

    def members(self) -> list[Head]:
        """(layer, head) pairs in order."""
        return sorted((layer, head) for layer, heads in self.heads.items() for head in heads)


class SoughtGroup(Part):
    """A group whose heads are found on the model under test: ``heads: discovered``.

    Attributes:
        heads: the word ``discovered``.
        at: named position of the task at which they work.
        into: the group that reads them.
        find: how they are found.
    """

    heads: Literal["discovered"]
    at: At
    into: Into | None = None
    find: Find = Field(default_factory=Find)

    def sought(self) -> SoughtGroup:
        return self


AnyGroup = Group | SoughtGroup


LEAST_PROMPTS = 50
"""Fewer prompts behind a mean is an error."""


class Ablation(Part):
    """What stands where a head is silenced.

    Attributes:
        value: ``positional_mean`` (the model's own mean of z at the same place of the template;
            paper 1, appendix), ``mean`` (over all places), ``zero``, or ``resample`` (z of
            another prompt at the same place).
        prompts: how many prompts are behind a mean.
    """

    value: Literal["positional_mean", "mean", "zero", "resample"] = "positional_mean"
    prompts: Annotated[StrictInt, Field(ge=LEAST_PROMPTS, le=100_000)] = 500

    def key(self) -> str:
        """The full ablation key: a faithfulness number means nothing without it."""
        behind = f" over {self.prompts} prompts" if "mean" in self.value else ""
        return f"{self.value}{behind}; z of every other head at every position; MLPs alive"


Pattern = Annotated[StrictStr, Field(max_length=200)]


class AppliesTo(Part):
    """Where a spec speaks at all; elsewhere its claims are skipped, saying why.

    Attributes:
        labels: patterns (``ft*``); each label of the pair must match one.
        shape: sizes the models must have, such as ``{n_heads: 4}``.
        roles: further roles that the run must have checkpoints for (``--mechanism-model``).
    """

    labels: Annotated[list[Pattern], Field(max_length=100)] | None = None
    shape: dict[
        Literal["n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_vocab"], StrictInt
    ] = Field(default_factory=dict)
    roles: list[StrictStr] = Field(default_factory=list)

    @model_validator(mode="after")
    def some_run_meets_it(self) -> Self:
        check_reach(self.labels, {str(k): v for k, v in self.shape.items()}, self.roles)
        return self


def plain(part: Part) -> Any:
    """JSON data of a part."""
    return part.model_dump(mode="json")
