"""``groups``: heads, MLPs and attention outputs that do one job, named in the spec; or heads that are found on
the model under test."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt, StrictStr, WrapValidator, model_validator

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.part import Part
from pytest_mechanism.nodes import ATTENTION, KINDS, MLP, PlacedMember, in_order
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
        via: through which of the receivers' inputs: q, k or v of heads, or the input of MLPs. Of a group of heads
            and MLPs, those members read that have this input.
    """

    group: StrictStr
    via: Literal["q", "k", "v", "input"]


class Screen(Part):
    """Attribution patching before path patching: gradients estimate every head, only the heads with the
    largest estimates are path patched alone, and the others together.

    Attributes:
        keep: how many heads are path patched alone.
    """

    keep: Annotated[StrictInt, Field(ge=1, le=100_000)]


class Edges(Part):
    """A look at edges: gradients estimate every edge from a head or MLP into the group's readers (edge attribution
    patching with integrated gradients), and only the edges with the largest estimates are path patched alone.

    Attributes:
        keep: how many edges are path patched alone.
    """

    keep: Annotated[StrictInt, Field(ge=1, le=100_000)]


Key = Literal["heads", "mlps", "attention_outputs"]
"""A kind of members, by the key of a group that names them."""


def heads_alone() -> list[Key]:
    """The members that discovery chooses among unless a spec says otherwise."""
    return ["heads"]


def each_once(keys: list[Key]) -> list[Key]:
    """The keys of members in their order; none twice."""
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"names {key} twice")
    return sorted(keys, key=list(KINDS).index)


Offered = Annotated[
    list[Key],
    Field(min_length=1),
    AfterValidator(each_once),
]
"""Kinds of members that discovery may choose among."""


class Find(Part):
    """How discovery finds the members of a group.

    Attributes:
        members: what it chooses among: ``heads``, ``mlps``, ``attention_outputs``. All compete by the same effect
            and against the same threshold. An attention output is not taken beside a head of its layer.
        candidates: take this many members with the strongest path-patching effect (the published
            rule); None takes those whose effect is large enough and significant.
        receivers: how many of the candidates the next group is patched into; None is all.
        drops_at_least: the effect that a member needs without ``candidates``: the answer's
            log-probability falls by this many nats. If the circuit of all groups does not suffice,
            members with smaller effects join.
        screen: how many heads are path patched alone; None is all of up to 64 possible senders, and one
            in sixteen of more.
        edges: whether edges into the group's readers are estimated and patched too, for the report; they choose
            no heads.
    """

    # left out of data while it has heads alone, so that groups without it keep their definition
    members: Annotated[Offered, Field(exclude_if=lambda keys: keys == ["heads"])] = Field(
        default_factory=heads_alone
    )
    candidates: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    receivers: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    drops_at_least: Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)] = 0.2
    screen: Screen | None = None
    # left out of data while None, so that groups without it keep their definition
    edges: Annotated[Edges | None, Field(exclude_if=lambda edges: edges is None)] = None


Places = Annotated[At | Annotated[list[At], Field(min_length=1)], Field(union_mode="smart")]
"""A named position, several of them, or ``everywhere``: every token."""

ByPlace = Annotated[
    dict[Layer, Places],
    # left out of data while empty, so that groups of heads alone keep their definition
    Field(min_length=1, exclude_if=lambda named: not named),
]


class Group(Part):
    """Heads, MLPs and attention outputs that do one job.

    Attributes:
        heads: layer -> heads.
        mlps: layer -> where the output of its MLP counts: a named position, several, or ``everywhere``.
        attention_outputs: layer -> where the output of its attention counts. It is that of all heads of
            the layer, as one member.
        at: named position of the task at which the heads work, and from which path patching sends; of a
            word of several tokens the last one, or ``name.first``.
        into: the group that reads them; None for the group that writes the answer.
        find: how ``pytest-mechanism discover`` looks for them.
    """

    heads: dict[Layer, Annotated[list[HeadIndex], Field(min_length=1)]] = Field(
        min_length=1, default_factory=dict
    )
    mlps: ByPlace = Field(default_factory=dict)
    attention_outputs: ByPlace = Field(default_factory=dict)
    at: At
    into: Into | None = None
    find: Find | None = None

    def without_heads(self) -> DiscoveredGroup:
        """The same group without its heads, for discovery to find."""
        return DiscoveredGroup(
            heads="discovered", at=self.at, into=self.into, find=self.find or Find()
        )

    @model_validator(mode="after")
    def names_something(self) -> Group:
        if not (self.heads or self.mlps or self.attention_outputs):
            raise ValueError("key 'heads' is missing (or mlps, or attention_outputs)")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The keys under which the group names members."""
        return tuple(key for key in KINDS if getattr(self, key))

    @property
    def searched(self) -> tuple[str, ...]:
        """The kinds of members whose paths a search patches: heads, and what the group names or may find."""
        searched = {"heads", *self.kinds, *(self.find.members if self.find else ())}
        return tuple(key for key in KINDS if key in searched)

    def members(self) -> list[Head]:
        """(layer, head) pairs in order, of a group of heads alone.

        Raises:
            MechanismError: the group has other members; code that handles these calls `placed`.
        """
        if others := [key for key in self.kinds if key != "heads"]:
            raise MechanismError(f"needs a group of heads alone, and this group has {others[0]}")
        return self.named_heads()

    def named_heads(self) -> list[Head]:
        """The members that are heads, as (layer, head) pairs in order."""
        return sorted((layer, head) for layer, heads in self.heads.items() for head in heads)

    def placed(self) -> list[PlacedMember]:
        """All members with their positions; a member at several positions comes once for each."""
        placed: list[PlacedMember] = [(*head, self.at) for head in self.named_heads()]
        for part, named in ((ATTENTION, self.attention_outputs), (MLP, self.mlps)):
            for layer, at in named.items():
                placed += [(layer, part, each) for each in ([at] if isinstance(at, str) else at)]
        return sorted(placed, key=in_order)


class DiscoveredGroup(Part):
    """A group whose members are found on the model under test: ``heads: discovered``.

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

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of members that a search chooses among."""
        return tuple(self.find.members)

    @property
    def searched(self) -> tuple[str, ...]:
        """The same: a search patches the paths of those that it chooses among."""
        return self.kinds

    def without_heads(self) -> DiscoveredGroup:
        return self


def by_heads(value: Any, _: Any) -> Group | DiscoveredGroup:
    """``heads: discovered`` or heads by layer, so that errors are about the kind that was meant."""
    is_discovered = isinstance(value, dict) and value.get("heads") == "discovered"
    if is_discovered and (named := sorted({*value} & {*KINDS} - {"heads"})):
        raise ValueError(
            f"heads: discovered finds the group's members; for {named[0]} among them write "
            f"find: {{members: [heads, {named[0]}]}}, or name them in a group of their own"
        )
    return (DiscoveredGroup if is_discovered else Group).model_validate(value)


AnyGroup = Annotated[Group | DiscoveredGroup, WrapValidator(by_heads)]
