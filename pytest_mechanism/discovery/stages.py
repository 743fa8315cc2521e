"""The stages of circuit discovery: path patching along the chain that a spec's groups describe.

Prakash et al., section 3.1, from the answer back to the input: the group without ``into`` is searched by
its direct path to the logits, and each further group by its path into the heads that the previous stage
found, through their q, k or v. `screening` says which heads are patched alone, `looks` on how many rows, and
`selection` turns the effects into candidates. A group whose ``find`` names them may have MLPs and attention outputs
as well (`nodes.Member`); they are patched as heads are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import Part, parts_of
from pytest_mechanism.claims.patched_alone import SCREEN_ROWS
from pytest_mechanism.discovery.edges import EdgeSearch, search_edges
from pytest_mechanism.discovery.looks import LOOKS, looks, measure_in_looks
from pytest_mechanism.discovery.screening import (
    Screening,
    Together,
    agreement,
    bands,
    layers_of,
    number_kept,
    strongest,
)
from pytest_mechanism.discovery.selection import candidates, chain, receivers_of
from pytest_mechanism.discovery.senders import alone, members_before, senders
from pytest_mechanism.fields.groups import AnyGroup, Find, Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.paths import RANK_STREAM
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.nodes import (
    ATTENTION,
    MLP,
    Member,
    Node,
    in_order,
    readers,
)
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head, Observations

Announce = Callable[[str], None]
"""Is told which step of a search begins."""


def quietly(_: str) -> None:
    """Announces nothing."""


@dataclass(frozen=True)
class Stage:
    """The search for the members of one group.

    Attributes:
        group: name of the group.
        at: named position.
        into: name of the receiving group, or None for the logits.
        via: the input of the receivers that is patched.
        effects: member -> mean change of the answer's log-probability.
        published: member -> mean of (p_patched - p_clean) / p_clean.
        candidates: the selected members, strongest first; of a group that the spec names, these.
        receivers: the candidates that the next stage patches into; of a group that the spec names, its heads
            and MLPs.
        screening: what was estimated by gradient only, if the stage was screened.
        edges: the edges into the receivers, if the group asks for them.
    """

    group: str
    at: str
    into: str | None
    via: str | None
    effects: Mapping[Member, Estimate]
    published: Mapping[Member, float]
    candidates: tuple[Part, ...]
    receivers: tuple[Node, ...]
    screening: Screening = field(default_factory=Screening)
    edges: EdgeSearch | None = None

    @property
    def wholes(self) -> list[Literal["attention", "mlp"]]:
        """The members that a layer has one of, if the stage has some: attention outputs, MLPs."""
        parts = {part for _, part in (*self.effects, *self.screening.left_out)}
        return [part for part in (ATTENTION, MLP) if part in parts]

    def table(self, shape: Shape) -> NDArray[np.float64]:
        """[layers, heads] of effects, and a column for each of `wholes`; estimates for members that were not
        patched alone (``screening.left_out``), NaN for members that cannot reach the receivers."""
        table = np.full((shape.n_layers, shape.n_heads + len(self.wholes)), np.nan)
        known = {member: self.screening.estimates[member] for member in self.screening.left_out}
        known |= {member: effect.value for member, effect in self.effects.items()}
        for member, value in known.items():
            table[self.cell(member, shape)] = value
        return table

    def cell(self, member: Part, shape: Shape) -> tuple[int, int]:
        """The place of a member in `table`, which has a column for it."""
        layer, part, *_ = member
        return layer, part if isinstance(part, int) else shape.n_heads + self.wholes.index(part)

    def cells(self, members: Iterable[Part], shape: Shape) -> list[tuple[int, int]]:
        """The places of those members that `table` has a column for."""
        return [
            self.cell(member, shape)
            for member in members
            if isinstance(member[1], int) or member[1] in self.wholes
        ]


@dataclass(frozen=True)
class StageSearch:
    """Measures the possible senders of one group.

    Attributes:
        context: of the search.
        on: role of the model.
        group: which.
        receivers: heads or MLPs that read the group; None for the logits.
        measure: gives results.
        rows: pairs of prompts at most.
    """

    context: ClaimContext
    on: str
    group: AnyGroup
    receivers: Sequence[Node] | None
    measure: Measure
    rows: int

    def possible(self) -> list[Member]:
        return members_before(self.context.shapes[self.on], self.receivers, self.group.searched)

    def patched(self, together: Together, first: int, rows: int) -> Measurement:
        """Path patching of each set of members; an attention output is all heads of its layer."""
        request = PathPatching(
            senders={
                name: tuple(self.context.nodes(members, self.on))
                for name, members in together.items()
            },
            at=self.group.at,
            receivers=[] if self.receivers is None else sorted(self.receivers, key=in_order),
            via=self.group.into.via if self.group.into else None,
            rows=rows,
            stream=RANK_STREAM,
            first=first,
        )
        return self.context.measurement(request, self.on)

    def patched_alone(self, members: Sequence[Member], first: int, rows: int) -> Observations:
        return self.measure(self.patched(alone(members), first, rows))

    def gradients(self, possible: Sequence[Member]) -> list[Measurement]:
        """The estimates of all possible senders. Heads and MLPs are moved apart from each other: where all MLPs
        come from the source, no head has an effect through them."""
        mlps = [layer for layer, part in possible if part == MLP]
        has_heads = len(mlps) < len(possible)
        heads = senders(self.context.shapes[self.on], self.receivers) if has_heads else []

        def moved(heads: Sequence[Head], mlps: Sequence[int]) -> Measurement:
            request = AttributionPatching(
                heads=heads,
                mlps=mlps,
                at=self.group.at,
                receivers=[] if self.receivers is None else sorted(self.receivers, key=in_order),
                via=self.group.into.via if self.group.into else None,
                rows=min(self.rows, SCREEN_ROWS),
                stream=RANK_STREAM,
            )
            return self.context.measurement(request, self.on)

        return [*([moved(heads, ())] if heads else []), *([moved((), mlps)] if mlps else [])]

    def effects(
        self, heads: Sequence[Member], possible: int
    ) -> tuple[dict[Member, Estimate], dict[Member, float]]:
        """The effect of members that are patched alone, and their published scores."""
        find = self.group.find
        least = None if find is None or find.candidates is not None else find.drops_at_least
        # Bonferroni: the chance that any possible sender is wrongly selected at any look stays small
        confidence = 1 - (1 - self.context.confidence) / (possible * LOOKS)
        return measure_in_looks(
            heads, self.rows, least, confidence, self.context.seed, self.patched_alone
        )

    def run(self) -> tuple[dict[Member, Estimate], dict[Member, float], Screening]:
        """Effects and published scores of the members that are patched alone, and the screening."""
        possible = self.possible()
        count = number_kept(self.group, len(possible))
        if count >= len(possible):
            return *self.effects(possible, len(possible)), Screening()
        estimates = [self.measure(each) for each in self.gradients(possible)]
        kept, estimated = strongest(estimates, self.group, possible, count)
        effects, published = self.effects(kept, len(possible))
        correlation = agreement(estimated, {member: e.value for member, e in effects.items()})
        opened, rest = self.open_rest(
            [member for member in possible if member not in {*kept}], self.least(effects)
        )
        if opened:
            found, scores = self.effects(opened, len(possible))
            effects |= found
            published |= scores
        left_out = tuple(member for member in possible if member not in effects)
        return (
            effects,
            published,
            Screening(estimated, left_out, rest, correlation, tuple(opened)),
        )

    def edges(self) -> EdgeSearch | None:
        """The edges into the receivers, if the group asks for them."""
        find = self.group.find
        if find is None or find.edges is None:
            return None
        return search_edges(
            self.context,
            self.on,
            self.group,
            senders(self.context.shapes[self.on], self.receivers),
            self.receivers,
            self.measure,
            self.rows,
            find.edges.keep,
        )

    def least(self, effects: Mapping[Member, Estimate]) -> float:
        """The effect from which a member is a candidate."""
        find = self.group.find or Find()
        if find.candidates is None:
            return find.drops_at_least
        weakest = candidates(effects, find)[-1]
        return max(-effects[weakest].value, 1e-6)

    def open_rest(
        self, members: Sequence[Member], least: float
    ) -> tuple[list[Member], dict[str, float]]:
        """The members of layers whose joint effect is at least ``least``, and the effect of every other set."""
        rows = looks(self.rows)[0]
        # its heads stand for an attention output
        wholes = {ATTENTION} if "heads" in self.group.searched else set()
        apart = [member for member in members if member[1] not in wholes]

        def effects_of(sets: Together) -> dict[str, float]:
            if not sets:
                return {}
            values = self.measure(self.patched(sets, 0, rows)).values
            return {name: float(np.mean(values[name])) for name in sets}

        all_bands = bands(apart)
        measured = effects_of(all_bands)
        layers: dict[str, tuple[Member, ...]] = {}
        for name, effect in measured.items():
            if effect <= -least:
                layers |= layers_of(all_bands[name])
        # a band of a single layer has been measured
        measured |= effects_of({name: layers[name] for name in layers if name not in measured})
        opened = {m[0] for name in layers if measured[name] <= -least for m in layers[name]}
        rest = {name: effect for name, effect in measured.items() if effect > -least}
        return [member for member in members if member[0] in opened], rest


def search(
    context: ClaimContext, on: str, measure: Measure, rows: int, announce: Announce = quietly
) -> list[Stage]:
    """The stage of every group, from the answer back. A group whose members the spec names is searched
    for its scores; its named members are the candidates and receivers."""
    stages: dict[str, Stage] = {}
    for name in chain(context.groups):
        group = context.groups[name]
        receivers = (
            readers(stages[group.into.group].receivers, group.into.via) if group.into else None
        )
        effects: dict[Member, Estimate] = {}
        published: dict[Member, float] = {}
        screening, edges = Screening(), None
        heard = f"{group.into.via} of {group.into.group}" if group.into else "the logits"
        announce(f"path patching {name} at {group.at} into {heard}")
        stage_search = StageSearch(context, on, group, receivers, measure, rows)
        if (receivers is None or receivers) and stage_search.possible():
            effects, published, screening = stage_search.run()
            edges = stage_search.edges()
        selected: Sequence[Part]
        if isinstance(group, Group):
            selected = parts_of(group)
            passed_on = context.nodes([(layer, part) for layer, part, *_ in selected], on)
        else:
            selected = candidates(effects, group.find)
            passed_on = context.nodes(receivers_of(selected, group.find), on)
        stages[name] = Stage(
            name,
            group.at,
            group.into.group if group.into else None,
            group.into.via if group.into else None,
            effects,
            published,
            tuple(selected),
            tuple(passed_on),
            screening,
            edges,
        )
    return list(stages.values())
