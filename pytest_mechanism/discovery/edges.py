"""Which edges into a group's readers matter: a screen by gradient over nodes and edges, verified by path patching.

Edge attribution patching with integrated gradients (`methods.circuits.edges`) estimates every edge from a head or MLP
that can reach a reader. Those with the largest estimates are path patched alone. The gradient can miss an edge, for
example where a softmax is saturated, so the other senders of each reader are patched too, all at once; if they
have the effect of a candidate together, they are patched alone after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.patched_alone import SCREEN_ROWS
from pytest_mechanism.discovery.looks import looks
from pytest_mechanism.discovery.screening import agreement
from pytest_mechanism.fields.groups import AnyGroup, Find
from pytest_mechanism.measurements.edges import EdgeAttribution, edge_name
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.paths import RANK_STREAM
from pytest_mechanism.nodes import MLP, Node, in_order, layers_before
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head

REST = "rest"
"""Name of the senders that are patched into a reader all at once; no node has it."""

SHOWN = 5
"""Edges that a report names."""

Ends = tuple[Node, Node | None]
"""Sender and receiver of an edge; None stands for the logits."""


@dataclass(frozen=True)
class EdgeSearch:
    """Edges into the readers of a group.

    Attributes:
        effects: edge that was patched alone -> its effect, in nats.
        estimates: edge -> its estimate by EAP-IG, in nats.
        left_out: how many edges were not patched alone.
        rest: receiver -> effect of all senders whose edges into it were left out, patched together.
        opened: edges that the screen had left out, and that such a joint effect brought back.
    """

    effects: Mapping[Ends, Estimate]
    estimates: Mapping[Ends, float]
    left_out: int
    rest: Mapping[str, float]
    opened: tuple[Ends, ...] = ()

    def agreement(self) -> tuple[float | None, int]:
        """Spearman's rank correlation of estimate and effect, and the number of edges behind it: all that were
        patched alone. None where fewer than three were, or where all are equal."""
        exact = {edge: effect.value for edge, effect in self.effects.items()}
        return agreement(self.estimates, exact), len(exact)

    def strongest(self) -> list[Ends]:
        """The edges that were patched alone, the most negative effect first."""
        return sorted(self.effects, key=lambda edge: self.effects[edge].value)

    def lines(self) -> Iterable[str]:
        """What was found, what was left out, and how good the estimates were."""
        total = len(self.effects) + self.left_out
        yield (
            f"edges: {len(self.effects)} of {total} path patched alone, {self.left_out} left out by gradient "
            "(EAP-IG)"
        )
        if self.rest:
            end = min(self.rest, key=lambda receiver: self.rest[receiver])
            yield (
                f"edges: those left out, patched together into each reader, have {self.rest[end]:+.2g} nats at "
                f"most (into {end})"
            )
        if self.opened:
            yield (
                f"edges: {len(self.opened)} of those that the gradient left out were patched alone after all, "
                "since together they have an effect"
            )
        correlation, n = self.agreement()
        if correlation is not None:
            yield f"edges: rank correlation of EAP-IG and path patching {correlation:.2f} (n = {n})"
        for edge in self.strongest()[:SHOWN]:
            effect = self.effects[edge]
            low, high = effect.interval
            yield f"edges: {edge_name(*edge)}: {effect.value:+.3f} nats [{low:+.3f}, {high:+.3f}]"


def edge_gradients(
    context: ClaimContext,
    on: str,
    group: AnyGroup,
    heads: Sequence[Head],
    receivers: Sequence[Node] | None,
    rows: int,
) -> EdgeAttribution:
    """The estimates of all edges from heads and MLPs into the readers of a group (arguments as in `search_edges`)."""
    shape = context.shapes[on]
    end = shape.n_layers if receivers is None else layers_before(receivers, "mlps")
    return EdgeAttribution(
        senders=[*heads, *((layer, MLP) for layer in range(end))],
        at=group.at,
        receivers=sorted(receivers or (), key=in_order),
        via=group.into.via if group.into else None,
        rows=min(rows, SCREEN_ROWS),
        stream=RANK_STREAM,
    )


def search_edges(
    context: ClaimContext,
    on: str,
    group: AnyGroup,
    heads: Sequence[Head],
    receivers: Sequence[Node] | None,
    measure: Measure,
    rows: int,
    keep: int,
) -> EdgeSearch:
    """Estimate all edges from heads and MLPs into the readers of a group, and patch the largest.

    Args:
        context: of the search.
        on: role of the model.
        group: the senders' group, for their position and input of the readers.
        heads: that can reach the readers.
        receivers: the readers; None for the logits.
        measure: gives results.
        rows: pairs of prompts at most.
        keep: how many edges are patched alone.
    """
    request = edge_gradients(context, on, group, heads, receivers, rows)
    found = measure(context.measurement(request, on)).values
    all_ends: list[Node | None] = [*request.receivers] or [None]
    edges: list[Ends] = [(sender, end) for sender in request.senders for end in all_ends]

    def mean(edge: Ends, kind: str = "") -> float:
        return float(np.mean(found[f"{kind}{edge_name(*edge)}"]))

    estimated = {edge: mean(edge) for edge in edges}
    # as in `screening`, the larger of both estimates counts
    size = {edge: max(abs(estimated[edge]), abs(mean(edge, "slope "))) for edge in edges}
    kept = sorted(edges, key=lambda edge: -size[edge])[:keep]

    def patched(sets: Mapping[str, Sequence[Node]], end: Node | None) -> Mapping[str, Estimate]:
        if not sets:
            return {}
        exact = PathPatching(
            senders={name: tuple(nodes) for name, nodes in sets.items()},
            at=group.at,
            receivers=[] if end is None else [end],
            via=request.via,
            rows=looks(rows)[0],
            stream=RANK_STREAM,
        )
        observations = measure(context.measurement(exact, on))
        how = context.sampling(observations)
        return {name: estimates.mean(observations.values[name], how) for name in sets}

    return verified(edges, kept, estimated, patched, (group.find or Find()).drops_at_least)


def verified(
    edges: Sequence[Ends],
    kept: Sequence[Ends],
    estimated: Mapping[Ends, float],
    patched: Callable[[Mapping[str, Sequence[Node]], Node | None], Mapping[str, Estimate]],
    least: float,
) -> EdgeSearch:
    """Path patch the kept edges alone and the others of each receiver together.

    Args:
        edges: all of them.
        kept: the edges that are patched alone.
        estimated: edge -> its estimate.
        patched: gives the effects of named sets of senders on a receiver.
        least: the joint effect from which a receiver's other edges are patched alone too.
    """
    effects: dict[Ends, Estimate] = {}
    rest: dict[str, float] = {}
    opened: list[Ends] = []
    for end in dict.fromkeys(end for _, end in edges):
        own = [edge for edge in kept if edge[1] == end]
        others = [edge for edge in edges if edge[1] == end and edge not in own]
        sets = {edge_name(*edge): [edge[0]] for edge in own}
        sets |= {REST: [sender for sender, _ in others]} if others else {}
        measured = patched(sets, end)
        if others and measured[REST].value <= -least:
            opened += others
            measured = {**measured, **patched({edge_name(*e): [e[0]] for e in others}, end)}
            own = own + others
        elif others:
            rest["the logits" if end is None else f"{end[0]}.{end[1]}"] = measured[REST].value
        effects |= {edge: measured[edge_name(*edge)] for edge in own}
    return EdgeSearch(effects, estimated, len(edges) - len(effects), rest, tuple(opened))
