"""Cross-model activation patching of q, k and v: the inputs of a head's attention in place of its z.

    q of head h at p            <-  the donor's q of h at p
    k, v of head h at t <= p    <-  the donor's, at every token t that p can attend to
    z of head h at t != p       <-  the recipient's own, where k or v is exchanged

Prakash et al. 2024, section 5 (the input variant of CMAP, in the notebook of their experiment 3). Which
of the three carries the gain tells whether the head looks elsewhere (q, k) or reads something else (v).
k and v of a token serve every later query, so exchanging them would also change what the head writes
at other tokens: there its output is held at the recipient's own z. So only what the head computes at p
from the donor's inputs is passed on. With q, k and v together, z of a head at p is the donor's z: for
heads at the last token the result is then that of exchanging z.

q and k are those before the rotary embedding, which is the same in both models for the same tokens.

Grouped-query attention: k and v of a head are those of its key-value head, which other query heads
share. Those keep the recipient's own z at every token, so that they do not hear the exchange.

Other than published: the published code leaves out k and v of p itself (``[:p]``), although p attends
to itself as well. It holds z of all heads at every token but the last, so that an exchange before the
last token has no effect on the exchanged head; here a group at an earlier token works like one at the
last. The notebook exchanges groups at the last token alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Positions, Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.cmap import Part
from pytest_mechanism.methods.circuits.patching import Heads, grouped
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Side

InputPlace = tuple[Part, int, str]
"""(part, layer, named position of the heads)."""

Values = Mapping[InputPlace, Float[Tensor, "_ _ _ d_head"]]
"""q at the position, k and v at every token, of the heads in `input_places` order."""


def input_places(
    part: Part, heads: Heads, shared_by: int
) -> list[tuple[InputPlace, tuple[int, ...]]]:
    """Where a part of some heads is, and of which heads it is: query heads for q, key-value heads for
    k and v, each ``shared_by`` this many query heads."""
    of_part = [(layer, head if part == "q" else head // shared_by, at) for layer, head, at in heads]
    return [((part, layer, name), numbers) for layer, name, numbers in grouped(of_part)]


def shared_by(context: MeasurementContext) -> int:
    """How many query heads share a key-value head."""
    return int(context.model.shape.n_heads // context.model.shape.n_kv_heads)


def input_readings(
    heads: Heads, parts: Sequence[Part], side: Side, query_heads: int
) -> list[tuple[InputPlace, Reading]]:
    """Readings of parts of some heads: q at their position, k and v at every token."""
    return [
        (place, Reading(Site(layer, part), side.at(name) if part == "q" else None, numbers))
        for part in parts
        for (_, layer, name), numbers in input_places(part, heads, query_heads)
        for place in [(part, layer, name)]
    ]


@dataclass(frozen=True, eq=False)
class DonatedInputs:
    """A donor's q, k or v, on the CPU.

    Attributes:
        parts: which of them were recorded.
        heads: place -> the heads that were recorded there.
        values: of all rows; k and v are 0 after the last token of a row.
        tokens: ids of each row, -1 after its last token.
        first: q and k of the first rows, for `methods.circuits.input_codes`.
        placed: the heads, as the request has them.
    """

    parts: tuple[Part, ...]
    heads: Mapping[InputPlace, tuple[int, ...]]
    values: Values
    tokens: Int[Tensor, "rows tokens"]
    first: Values
    placed: Heads


@dataclass
class Recorder:
    """Collects a donor's inputs batch by batch.

    Attributes:
        context: the donor.
        heads: whose inputs.
        parts: which inputs; none records nothing.
    """

    context: MeasurementContext
    heads: Heads
    parts: tuple[Part, ...]
    collected: dict[InputPlace, list[Tensor]] = field(default_factory=dict)
    ids: list[Tensor] = field(default_factory=list)

    def readings(self, side: Side) -> list[Reading]:
        wanted = input_readings(self.heads, self.parts, side, shared_by(self.context))
        return [reading for _, reading in wanted]

    def add(self, side: Side, values: Sequence[Tensor]) -> None:
        """What the readings of a batch gave."""
        if not self.parts:
            return
        wanted = input_readings(self.heads, self.parts, side, shared_by(self.context))
        for (place, _), value in zip(wanted, values, strict=True):
            self.collected.setdefault(place, []).append(value.cpu())
        self.ids.append(row_tokens(side).cpu())

    def donated(self, first: Side) -> DonatedInputs | None:
        """Everything that was recorded; ``first`` are the first rows."""
        if not self.parts:
            return None
        size = shared_by(self.context)
        return DonatedInputs(
            parts=self.parts,
            heads={p: n for part in self.parts for p, n in input_places(part, self.heads, size)},
            values={
                place: torch.cat(values) if place[0] == "q" else joined(values)
                for place, values in self.collected.items()
            },
            tokens=joined(self.ids, -1),
            first={place: v.cpu() for place, v in scored(self.context, self.heads, first).items()},
            placed=self.heads,
        )


def joined(batches: Sequence[Tensor], filler: int = 0) -> Tensor:
    """Batches of rows as one tensor, filled up to the longest row."""
    longest = max(batch.shape[1] for batch in batches)
    whole = [
        torch.cat([b, b.new_full((b.shape[0], longest - b.shape[1], *b.shape[2:]), filler)], dim=1)
        for b in batches
    ]
    return torch.cat(whole)


def row_tokens(side: Side) -> Int[Tensor, "rows tokens"]:
    """Token ids, -1 after the last token of a row."""
    return torch.where(side.tokens.mask.bool(), side.tokens.ids, -1)


def up_to(at: Positions) -> Int[Tensor, "rows tokens"]:
    """Every token at or before the last of some positions; shorter rows repeat their last token."""
    last = at.amax(1, keepdim=True)
    return torch.arange(int(last.max()) + 1, device=at.device)[None].minimum(last)


@dataclass(frozen=True, eq=False)
class Recipient:
    """A batch of the recipient, into which a donor's inputs are put.

    Attributes:
        side: the batch.
        parts: which inputs are exchanged.
        query_heads: how many query heads share a key-value head.
        held: layer -> (heads that could hear the exchanged k and v, their own z at every token).
    """

    side: Side
    parts: tuple[Part, ...]
    query_heads: int
    held: Mapping[int, tuple[tuple[int, ...], Float[Tensor, "rows tokens heads d_head"]]]

    @classmethod
    def of(
        cls, context: MeasurementContext, side: Side, heads: Heads, parts: tuple[Part, ...]
    ) -> Recipient:
        """The recipient of these heads' inputs; runs the batch once if their z has to be held."""
        size = shared_by(context)
        layers = sharing(heads, size) if {"k", "v"} & {*parts} else {}
        readings = [Reading(Site(layer, "z"), None, numbers) for layer, numbers in layers.items()]
        z: Sequence[Tensor] = ()
        if readings:
            run = context.engine.run(side.tokens, readings=readings, answer=False)
            z = run.outcome.readings
        held = {layer: (layers[layer], own) for layer, own in zip(layers, z, strict=True)}
        return cls(side, parts, size, held)

    def check_tokens(self, donated: DonatedInputs, here: slice) -> None:
        """Check that the donor has read the same tokens, of which k and v are exchanged one by one.

        Raises:
            MeasurementError: it has read others.
        """
        own = row_tokens(self.side)
        theirs = donated.tokens[here].to(own.device)
        longest = max(own.shape[1], theirs.shape[1])
        own, theirs = (
            torch.nn.functional.pad(ids, (0, longest - ids.shape[1]), value=-1)
            for ids in (own, theirs)
        )
        if {"k", "v"} & {*self.parts} and not torch.equal(own, theirs):
            raise MeasurementError(
                "donor and recipient split the prompts into other tokens, so k and v cannot be "
                "exchanged token by token; valid here: activations: z or q"
            )

    def edits(self, heads: Heads, donated: DonatedInputs, here: slice) -> list[Edit]:
        """The donor's inputs of some heads in the rows ``here``, and what holds z elsewhere."""
        made = []
        for part in self.parts:
            for place, numbers in input_places(part, heads, self.query_heads):
                _, layer, name = place
                at = self.side.at(name)
                recorded = donated.heads[place]
                columns = [recorded.index(number) for number in numbers]
                value = donated.values[place][here][:, :, columns].to(at.device)
                if part != "q":
                    at = up_to(at)
                    value = value[torch.arange(len(value), device=at.device)[:, None], at]
                made.append(Edit(Site(layer, part), value, at=at, heads=numbers))
        return [*made, *self.holding(heads)]

    def holding(self, heads: Heads) -> Iterator[Edit]:
        """The recipient's own z of every head that could hear the exchange, but where a head of the
        exchange works."""
        if not self.held:
            return
        rows, tokens = self.side.tokens.ids.shape
        for layer, numbers in sharing(heads, self.query_heads).items():
            known, own = self.held[layer]
            free = own.new_zeros(rows, tokens, len(numbers))
            for of_layer, head, name in heads:
                if of_layer == layer:
                    free[:, :, numbers.index(head)].scatter_(1, self.side.at(name), 1.0)
            own = own[:, :, [known.index(number) for number in numbers]]
            yield Edit(Site(layer, "z"), own, heads=numbers, keep=free[..., None])


def sharing(heads: Heads, query_heads: int) -> dict[int, tuple[int, ...]]:
    """Layer -> all query heads that share a key-value head with some of these heads."""
    layers: dict[int, set[int]] = {}
    for layer, head, _ in heads:
        first = head // query_heads * query_heads
        layers.setdefault(layer, set()).update(range(first, first + query_heads))
    return {layer: tuple(sorted(numbers)) for layer, numbers in sorted(layers.items())}


def scored(context: MeasurementContext, heads: Heads, side: Side) -> Values:
    """q of some heads at their position and k at every token."""
    wanted = input_readings(heads, ("q", "k"), side, shared_by(context))
    run = context.engine.run(side.tokens, readings=[r for _, r in wanted], answer=False)
    return dict(zip([place for place, _ in wanted], run.outcome.readings, strict=True))
