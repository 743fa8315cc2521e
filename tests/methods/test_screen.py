"""Attribution patching as a screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pytest_mechanism.engine.interface import Branch, Edit, Site
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.methods.circuits import path_patching, screen
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probability

ContextFactory = Callable[[str], MeasurementContext]
STEP = 1e-2
HEADS = [[1, 3], [2, 2], [3, 1]]

PATHS: dict[str, dict[str, Any]] = {
    "the logits": {"at": "last", "heads": HEADS},
    "q of two heads": {"at": "last", "heads": HEADS[:2], "receivers": [[3, 0], [3, 3]], "via": "q"},
    "v of a head": {
        "at": "query_label",
        "heads": [[1, 3], [0, 1]],
        "receivers": [[2, 2]],
        "via": "v",
    },
}


@pytest.mark.parametrize("path", PATHS)
def test_the_slope_is_that_of_path_patching_at_the_base(
    context_of: ContextFactory, path: str
) -> None:
    """A small step of one sender from the base's z towards the source's, along the path that path patching
    patches, changes the answer's log-probability by that step times the slope, row by row."""
    context = context_of("ft")
    request = AttributionPatching(rows=14, stream="pairs", **PATHS[path])
    observations = screen.measure(context, request, [])
    batch = context.batch(context.task.pairs(context.vocabulary, 14, "pairs"))
    place = batch.base.at(request.at)
    z = path_patching.source_z(context, batch, request.at)
    inputs = path_patching.receiver_readings(context, request.receivers, request.via, place)
    run = context.engine.run(batch.base.tokens)

    def answered(logits: torch.Tensor) -> torch.Tensor:
        return log_probability(logits.double(), batch.correct_answers)

    clean = answered(run.outcome.logits)
    for layer, head in request.heads:
        edit = Edit(
            Site(layer, "z"), z[layer][:, :, [head]], at=place, heads=(head,),
            keep=torch.tensor(1 - STEP),
        )  # fmt: skip
        first = Branch([edit], inputs, freeze_attention=True, answer=request.via is None)
        (outcome,) = run.branches([first])
        if request.via:
            (outcome,) = run.branches([path_patching.second_run(inputs, outcome)])
        slope = ((answered(outcome.logits) - clean) / STEP).numpy()
        estimate = np.asarray(observations.values[f"slope {layer}.{head}"])
        np.testing.assert_allclose(estimate, slope, atol=0.02 + 0.1 * abs(estimate).max())


def test_the_estimates_add_up_to_the_effect_of_all_senders_together(
    context_of: ContextFactory,
) -> None:
    """Integrated gradients are complete, up to the error of three steps, which is less than that of slopes."""
    context = context_of("base")
    heads = [[layer, head] for layer in range(3) for head in range(4)]
    path = {"at": "last", "receivers": [[3, 0], [3, 1], [3, 2], [3, 3]], "via": "q"}
    rows = {"rows": 28, "stream": "pairs"}
    estimated = screen.measure(context, AttributionPatching(heads=heads, **path, **rows), []).values
    patched = path_patching.measure(
        context, PathPatching(senders={"all": heads}, **path, **rows), []
    )
    together = float(np.mean(patched.values["all"]))
    integrated = sum(float(np.mean(estimated[f"{layer}.{h}"])) for layer, h in heads)
    slopes = sum(float(np.mean(estimated[f"slope {layer}.{h}"])) for layer, h in heads)
    assert abs(integrated - together) < 0.5 * abs(together) < abs(slopes - together)


@pytest.mark.parametrize(
    ("via", "receivers"), [(None, []), ("q", [[3, 0], [3, 3]]), ("input", [[3, "mlp"]])]
)
def test_the_slope_of_an_mlp_is_that_of_path_patching_at_the_base(
    base_context: MeasurementContext, via: Any, receivers: list[Any]
) -> None:
    """As for heads, with each engine: a step of an MLP's output towards that of the source prompt, row by row."""
    path = {"at": "last", "receivers": receivers, "via": via}
    request = AttributionPatching(rows=14, stream="pairs", heads=[], mlps=[1, 2], **path)
    observations = screen.measure(base_context, request, [])
    batch = base_context.batch(base_context.task.pairs(base_context.vocabulary, 14, "pairs"))
    place = batch.base.at("last")
    out = path_patching.source_z(base_context, batch, "last", "mlp_out")
    inputs = path_patching.receiver_readings(base_context, request.receivers, via, place)
    run = base_context.engine.run(batch.base.tokens)

    def answered(logits: torch.Tensor) -> torch.Tensor:
        return log_probability(logits.double(), batch.correct_answers)

    clean = answered(run.outcome.logits)
    for layer in request.mlps:
        edit = Edit(Site(layer, "mlp_out"), out[layer], at=place, keep=torch.tensor(1 - STEP))
        first = Branch([edit], inputs, freeze_attention=True, answer=via is None)
        (outcome,) = run.branches([first])
        if via:
            (outcome,) = run.branches([path_patching.second_run(inputs, outcome)])
        slope = ((answered(outcome.logits) - clean) / STEP).numpy()
        estimate = np.asarray(observations.values[f"slope {layer}.mlp"])
        np.testing.assert_allclose(estimate, slope, atol=0.02 + 0.1 * abs(estimate).max())
        assert abs(estimate).max() > 0.02


def test_results_of_heads_alone_stay_valid() -> None:
    """The key of a stored result has no field of MLPs where none is asked for."""
    request = AttributionPatching(rows=7, stream="pairs", at="last", heads=[[0, 0]])
    assert "mlps" not in request.spelled()


def test_weights_stay_frozen(context_of: ContextFactory) -> None:
    """The gradient is of activations; no weight keeps one, or asks for one afterwards."""
    context = context_of("ft")
    screen.measure(
        context, AttributionPatching(rows=7, stream="pairs", at="last", heads=[[0, 0]]), []
    )
    assert all(p.grad is None and not p.requires_grad for p in context.model.wrapped.parameters())
