"""The stages of circuit discovery: path patching along the chain that a spec's groups describe.

Prakash et al., section 3.1, from the answer back to the input: the group without ``into`` is searched by
its direct path to the logits, and each further group by its path into the heads that the previous stage
found, through their q, k or v. `screening` says which heads are patched alone, `looks` on how many rows, and
`selection` turns the effects into candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.discovery.edges import EdgeSearch, search_edges
from pytest_mechanism.discovery.looks import LOOKS, looks, measure_in_looks
from pytest_mechanism.discovery.screening import (
    SCREEN_ROWS,
    Screening,
    Together,
    agreement,
    bands,
    layers_of,
    number_kept,
    strongest,
)
from pytest_mechanism.discovery.selection import candidates, chain, ranked, receivers_of
from pytest_mechanism.fields.groups import AnyGroup, Find, Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.paths import RANK_STREAM
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.nodes import MLP, Node, in_order
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head, Observations

Announce = Callable[[str], None]
"""Is told which step of a search begins."""


def quietly(_: str) -> None:
    """Announces nothing."""


@dataclass(frozen=True)
class Stage:
    """The search for the heads of one group.

    Attributes:
        group: name of the group.
        at: named position.
        into: name of the receiving group, or None for the logits.
        via: the input of the receivers that is patched.
        effects: head -> mean change of the answer's log-probability.
        published: head -> mean of (p_patched - p_clean) / p_clean.
        candidates: the selected heads, strongest first.
        receivers: the candidates that the next stage patches into; of a group that the spec names, its heads
            and MLPs.
        screening: what was estimated by gradient only, if the stage was screened.
        edges: the edges into the receivers, if the group asks for them.
    """

    group: str
    at: str
    into: str | None
    via: str | None
    effects: Mapping[Head, Estimate]
    published: Mapping[Head, float]
    candidates: tuple[Head, ...]
    receivers: tuple[Node, ...]
    screening: Screening = field(default_factory=Screening)
    edges: EdgeSearch | None = None

    def table(self, shape: Shape) -> NDArray[np.float64]:
        """[layers, heads] of effects; estimates for heads that were not patched alone
        (``screening.left_out``), NaN for heads that cannot reach the receivers."""
        table = np.full((shape.n_layers, shape.n_heads), np.nan)
        for head in self.screening.left_out:
            table[head] = self.screening.estimates[head]
        for head, effect in self.effects.items():
            table[head] = effect.value
        return table


def senders(shape: Shape, receivers: Sequence[Node] | None) -> list[Head]:
    """Heads that can reach the receivers: those of lower layers, and of an MLP's own layer, or all heads for
    the logits."""
    if receivers is None:
        return shape.heads()
    end = max(layer + (part == MLP) for layer, part in receivers)
    return [(layer, head) for layer, head in shape.heads() if layer < end]


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

    def possible(self) -> list[Head]:
        return senders(self.context.shapes[self.on], self.receivers)

    def patched(self, together: Together, first: int, rows: int) -> Measurement:
        """Path patching of each set of heads."""
        request = PathPatching(
            senders=dict(together),
            at=self.group.at,
            receivers=[] if self.receivers is None else sorted(self.receivers, key=in_order),
            via=self.group.into.via if self.group.into else None,
            rows=rows,
            stream=RANK_STREAM,
            first=first,
        )
        return self.context.measurement(request, self.on)

    def patched_alone(self, heads: Sequence[Head], first: int, rows: int) -> Observations:
        return self.measure(self.patched(alone(heads), first, rows))

    def gradients(self, possible: Sequence[Head]) -> Measurement:
        """The estimates of all possible senders."""
        request = AttributionPatching(
            heads=possible,
            at=self.group.at,
            receivers=[] if self.receivers is None else sorted(self.receivers, key=in_order),
            via=self.group.into.via if self.group.into else None,
            rows=min(self.rows, SCREEN_ROWS),
            stream=RANK_STREAM,
        )
        return self.context.measurement(request, self.on)

    def effects(
        self, heads: Sequence[Head], possible: int
    ) -> tuple[dict[Head, Estimate], dict[Head, float]]:
        """The effect of heads that are patched alone, and their published scores."""
        find = self.group.find
        least = None if find is None or find.candidates is not None else find.drops_at_least
        # Bonferroni: the chance that any possible sender is wrongly selected at any look stays small
        confidence = 1 - (1 - self.context.confidence) / (possible * LOOKS)
        return measure_in_looks(
            heads, self.rows, least, confidence, self.context.seed, self.patched_alone
        )

    def run(self) -> tuple[dict[Head, Estimate], dict[Head, float], Screening]:
        """Effects and published scores of the heads that are patched alone, and the screening."""
        possible = self.possible()
        count = number_kept(self.group, len(possible))
        if count >= len(possible):
            return *self.effects(possible, len(possible)), Screening()
        kept, estimated = strongest(
            self.measure(self.gradients(possible)), self.group, possible, count
        )
        effects, published = self.effects(kept, len(possible))
        correlation = agreement(estimated, {head: e.value for head, e in effects.items()})
        opened, rest = self.open_rest(
            [head for head in possible if head not in {*kept}], self.least(effects)
        )
        if opened:
            found, scores = self.effects(opened, len(possible))
            effects |= found
            published |= scores
        left_out = tuple(head for head in possible if head not in effects)
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
            self.possible(),
            self.receivers,
            self.measure,
            self.rows,
            find.edges.keep,
        )

    def least(self, effects: Mapping[Head, Estimate]) -> float:
        """The effect from which a head is a candidate."""
        find = self.group.find or Find()
        if find.candidates is None:
            return find.drops_at_least
        weakest = ranked(effects)[: find.candidates][-1]
        return max(-effects[weakest].value, 1e-6)

    def open_rest(self, heads: Sequence[Head], least: float) -> tuple[list[Head], dict[str, float]]:
        """The heads of layers whose joint effect is at least ``least``, and the effect of every other set."""
        rows = looks(self.rows)[0]

        def effects_of(sets: Together) -> dict[str, float]:
            if not sets:
                return {}
            values = self.measure(self.patched(sets, 0, rows)).values
            return {name: float(np.mean(values[name])) for name in sets}

        all_bands = bands(heads)
        measured = effects_of(all_bands)
        layers: dict[str, tuple[Head, ...]] = {}
        for name, effect in measured.items():
            if effect <= -least:
                layers |= layers_of(all_bands[name])
        # a band of a single layer has been measured
        measured |= effects_of({name: layers[name] for name in layers if name not in measured})
        opened = [head for name in layers if measured[name] <= -least for head in layers[name]]
        rest = {name: effect for name, effect in measured.items() if effect > -least}
        return sorted(opened), rest


def alone(heads: Sequence[Head]) -> dict[str, tuple[Head, ...]]:
    """A set for each head, named ``layer.head``."""
    return {f"{layer}.{head}": ((layer, head),) for layer, head in heads}


def search(
    context: ClaimContext, on: str, measure: Measure, rows: int, announce: Announce = quietly
) -> list[Stage]:
    """The stage of every group, from the answer back. A group whose heads the spec names is searched
    for its scores; its named heads are the candidates and receivers."""
    stages: dict[str, Stage] = {}
    for name in chain(context.groups):
        group = context.groups[name]
        receivers = stages[group.into.group].receivers if group.into else None
        effects: dict[Head, Estimate] = {}
        published: dict[Head, float] = {}
        screening, edges = Screening(), None
        heard = f"{group.into.via} of {group.into.group}" if group.into else "the logits"
        announce(f"path patching {name} at {group.at} into {heard}")
        stage_search = StageSearch(context, on, group, receivers, measure, rows)
        if (receivers is None or receivers) and stage_search.possible():
            effects, published, screening = stage_search.run()
            edges = stage_search.edges()
        passed_on: list[Node]
        if isinstance(group, Group):
            selected = group.named_heads()
            passed_on = context.nodes([(layer, part) for layer, part, _ in group.placed()], on)
        else:
            selected = candidates(effects, group.find)
            passed_on = [*receivers_of(selected, group.find)]
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
