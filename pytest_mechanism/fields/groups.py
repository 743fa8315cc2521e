"""``groups``: heads that do one job, named in the spec or found on the model under test."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt, StrictStr, WrapValidator

from pytest_mechanism.fields.part import Part
from pytest_mechanism.types import Head

Layer = Annotated[int, Field(ge=0, lt=1000)]
HeadIndex = Annotated[StrictInt, Field(ge=0, lt=1000)]

At = Annotated[StrictStr, AfterValidator(lambda at: at.removesuffix(".last"))]
"""A named position of the task: the last token of its word, or ``name.first``. ``name.last`` is the
same as ``name``."""


class Into(Part):
    """Which heads read what a group writes.

    Attributes:
        group: the receiving group.
        via: through which of the receivers' inputs.
    """

    group: StrictStr
    via: Literal["q", "k", "v"]


class Screen(Part):
    """Attribution patching before path patching: gradients estimate every head, only the heads with the
    largest estimates are path patched alone, and the others together.

    Attributes:
        keep: how many heads are path patched alone.
    """

    keep: Annotated[StrictInt, Field(ge=1, le=100_000)]


class Find(Part):
    """How discovery finds the heads of a group.

    Attributes:
        candidates: take this many heads with the strongest path-patching effect (the published
            rule); None takes the heads whose effect is large enough and significant.
        receivers: how many of the candidates the next group is patched into; None is all.
        drops_at_least: the effect that a head needs without ``candidates``: the answer's
            log-probability falls by this many nats. If the circuit of all groups does not suffice,
            heads with smaller effects join.
        screen: how many heads are path patched alone; None is all of up to 64 possible senders, and one
            in sixteen of more.
    """

    candidates: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    receivers: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    drops_at_least: Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)] = 0.2
    screen: Screen | None = None


class Group(Part):
    """Heads that do one job.

    Attributes:
        heads: layer -> heads.
        at: named position of the task at which they work; of a word of several tokens the last
            one, or ``name.first``.
        into: the group that reads them; None for the group that writes the answer.
        find: how ``pytest-mechanism discover`` looks for them.
    """

    heads: dict[Layer, Annotated[list[HeadIndex], Field(min_length=1)]] = Field(min_length=1)
    at: At
    into: Into | None = None
    find: Find | None = None

    def without_heads(self) -> DiscoveredGroup:
        """The same group without its heads, for discovery to find."""
        return DiscoveredGroup(
            heads="discovered", at=self.at, into=self.into, find=self.find or Find()
        )

    def members(self) -> list[Head]:
        """(layer, head) pairs in order."""
        return sorted((layer, head) for layer, heads in self.heads.items() for head in heads)


class DiscoveredGroup(Part):
    """A group whose heads are found on the model under test: ``heads: discovered``.

    Attributes:
        heads: the word ``discovered``.
        at: named position of the task at which they work.
        into: the group that reads them.
        find: how discovery finds them.
    """

    heads: Literal["discovered"]
    at: At
    into: Into | None = None
    find: Find = Field(default_factory=Find)

    def without_heads(self) -> DiscoveredGroup:
        return self


def by_heads(value: Any, _: Any) -> Group | DiscoveredGroup:
    """``heads: discovered`` or heads by layer, so that errors are about the kind that was meant."""
    is_discovered = isinstance(value, dict) and value.get("heads") == "discovered"
    return (DiscoveredGroup if is_discovered else Group).model_validate(value)


AnyGroup = Annotated[Group | DiscoveredGroup, WrapValidator(by_heads)]
