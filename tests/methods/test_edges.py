"""Attribution patching of edges."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_mechanism.discovery.edges import verified
from pytest_mechanism.measurements.edges import EdgeAttribution, edge_name
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.methods.circuits import edges, path_patching, screen
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.nodes import Node
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.tasks.base import Task
from recipes.planted import CONTROLS, MODELS

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = 14
PLANTED = MODELS | CONTROLS
PATHS: Mapping[str, Mapping[str, Any]] = {
    "the logits": {"at": "last"},
    "q of heads": {"at": "last", "receivers": [[3, 0], [3, 3], [2, 1]], "via": "q"},
    "v of heads": {"at": "query_label", "receivers": [[2, 2], [1, 0]], "via": "v"},
    "the input of MLPs": {"at": "last", "receivers": [[3, "mlp"], [1, "mlp"]], "via": "input"},
}
HEADS = [[0, 1], [1, 3], [2, 2]]


@pytest.mark.parametrize("path", PATHS)
def test_a_senders_edges_add_up_to_its_estimate_as_a_node(
    base_context: MeasurementContext, path: str
) -> None:
    """Row by row within 1e-5 on both engines: the product rule of the derivative through all receivers at once.
    With gradients at the base both are first-order estimates."""
    how = {"rows": ROWS, "stream": "pairs", **PATHS[path]}
    found = edges.measure(base_context, EdgeAttribution(senders=HEADS, **how), []).values
    node = screen.measure(base_context, AttributionPatching(heads=HEADS, **how), []).values
    for layer, head in HEADS:
        receivers = PATHS[path].get("receivers", [None])
        own = [found[f"slope {edge_name((layer, head), receiver)}"] for receiver in receivers]
        np.testing.assert_allclose(
            np.sum(own, axis=0), node[f"slope {layer}.{head}"], rtol=1e-5, atol=1e-5
        )


def test_a_sender_that_cannot_reach_a_receiver_has_no_edge(
    base_context: MeasurementContext,
) -> None:
    """Exactly 0 from a head into q of its own layer, and from an MLP into an MLP below it."""
    how: dict[str, Any] = {"at": "last", "rows": ROWS, "stream": "pairs"}
    request = EdgeAttribution(
        senders=[[3, "mlp"], [2, 2]], receivers=[[1, "mlp"], [2, "mlp"]], via="input", **how
    )
    found = edges.measure(base_context, request, []).values
    for edge in ("3.mlp -> 2.mlp", "3.mlp -> 1.mlp", "2.2 -> 1.mlp"):
        assert not np.any(found[edge])
    assert np.any(found["2.2 -> 2.mlp"])


def sizes(
    context: MeasurementContext, at: str, receivers: list[Node], via: str | None
) -> dict[tuple[Node, Node | None], float]:
    """EAP-IG of every edge from a head into the receivers, or into the logits if there are none."""
    every = context.model.shape.heads()
    how: dict[str, Any] = {"at": at, "via": via, "rows": ROWS, "stream": "pairs"}
    request = EdgeAttribution(senders=every, receivers=receivers, **how)
    found = edges.measure(context, request, []).values
    ends: list[Node | None] = [*receivers] or [None]
    return {
        (head, end): abs(float(np.mean(found[edge_name(head, end)])))
        for head in every
        for end in ends
    }


@pytest.mark.parametrize(
    ("model", "group"),
    [
        pytest.param(model, group, marks=() if model == "planted_ft" else pytest.mark.slow)
        for model, circuit in PLANTED.items()
        for group in circuit
    ],
)
def test_the_first_edges_of_a_planted_model_begin_at_the_planted_heads(
    load_context: Callable[[Path, Task], MeasurementContext], spec: Spec, model: str, group: str
) -> None:
    """EAP-IG over all 32 heads: the largest estimates are those of the group's heads, in every planted model and
    each of its groups."""
    planted = PLANTED[model][group]
    reader, via = planted.into or ("", None)
    receivers = [*PLANTED[model][reader].heads] if reader else []
    found = sizes(load_context(ZOO / model, spec.task), planted.at, receivers, via)
    largest = {head: max(found[edge] for edge in found if edge[0] == head) for head, _ in found}
    first = sorted(largest, key=lambda head: -largest[head])[: len(planted.heads)]
    assert {*first} == {*planted.heads}, largest


def saturated(model: str, folder: Path) -> Path:
    """A planted model whose fetchers attend so sharply that no gradient sees another key: their queries are 64
    times as long."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(ZOO / model, folder)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    (name,) = [name for name in weights if name.endswith("h.3.attn.c_attn.weight")]
    d_head = weights[name].shape[0] // 8
    for _, head in PLANTED[model]["value_fetcher"].heads:
        for tensor in (weights[name], weights[name.replace("weight", "bias")]):
            tensor[..., head * d_head : (head + 1) * d_head] *= 64
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "model",
    [
        "planted_ft",
        *(pytest.param(m, marks=pytest.mark.slow) for m in PLANTED if m != "planted_ft"),
    ],
)
def test_patching_finds_the_edges_that_a_saturated_softmax_hides_from_the_gradient(
    load_context: Callable[[Path, Task], MeasurementContext],
    spec: Spec,
    tmp_path: Path,
    model: str,
) -> None:
    """The transmitter's edges into the fetchers are not among the first by gradient, at the base and integrated.
    The senders that are left out are patched together, have an effect, and are patched alone then: the
    transmitter comes first."""
    context = load_context(saturated(model, tmp_path / "model"), spec.task)
    senders = [head for head in context.model.shape.heads() if head[0] < 3]
    circuit = PLANTED[model]
    (transmitter,) = next(g for g in circuit.values() if g.into == ("value_fetcher", "q")).heads
    receivers = [*circuit["value_fetcher"].heads]
    how: dict[str, Any] = {"at": "last", "via": "q", "rows": 35, "stream": "pairs"}
    request = EdgeAttribution(senders=senders, receivers=receivers, **how)
    found = edges.measure(context, request, []).values
    every = [(sender, receiver) for sender in senders for receiver in receivers]
    estimated = {edge: float(np.mean(found[edge_name(*edge)])) for edge in every}
    size = {
        edge: max(abs(estimated[edge]), abs(float(np.mean(found[f"slope {edge_name(*edge)}"]))))
        for edge in every
    }
    own = [(transmitter, receiver) for receiver in receivers]
    kept = sorted((edge for edge in every if edge not in own), key=lambda edge: -size[edge])[:6]
    assert max(size[edge] for edge in own) < 0.05, size

    def patched(sets: Any, end: Any) -> Any:
        exact = PathPatching(senders=sets, receivers=[end], **how)
        observations = path_patching.measure(context, exact, [])
        sampling = estimates.Sampling(observations.clusters, 0.95, 0)
        return {name: estimates.mean(observations.values[name], sampling) for name in sets}

    result = verified(every, kept, estimated, patched, 0.2)
    assert {*own} <= {*result.opened}
    assert {*result.strongest()[: len(own)]} == {*own}
    assert max(result.effects[edge].value for edge in own) < -1
    assert (result.left_out, result.rest) == (0, {})


def test_a_report_says_what_was_left_out_and_how_well_the_orders_agree() -> None:
    """Three edges patched alone in the order of their estimates, and one that was left out."""
    ends = [((0, head), None) for head in range(3)] + [((0, "mlp"), None)]
    values = {name: Estimate(value, (value - 0.1, value + 0.1), 0.05, 35, 5) for name, value in (
        ("0.0 -> logits", -3.0), ("0.1 -> logits", -2.0), ("0.2 -> logits", -1.0), ("rest", -0.01),
    )}  # fmt: skip
    estimated = dict(zip(ends, (-0.9, -0.5, -0.1, 0.0), strict=True))
    result = verified(ends, ends[:3], estimated, lambda sets, _: {n: values[n] for n in sets}, 0.2)
    assert [*result.lines()] == [
        "edges: 3 of 4 path patched alone, 1 left out by gradient (EAP-IG)",
        "edges: those left out, patched together into each reader, have -0.01 nats at most (into the logits)",
        "edges: rank correlation of EAP-IG and path patching 1.00 (n = 3)",
        "edges: 0.0 -> logits: -3.000 nats [-3.100, -2.900]",
        "edges: 0.1 -> logits: -2.000 nats [-2.100, -1.900]",
        "edges: 0.2 -> logits: -1.000 nats [-1.100, -0.900]",
    ]
