"""Attribution patching as a screen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.methods.circuits import screen
from pytest_mechanism.methods.context import MeasurementContext

Benches = Callable[[str], MeasurementContext]
STEP = 1e-2


def test_the_estimate_is_the_slope_at_the_clean_run(bench: Benches) -> None:
    """A small step from the base's z towards the source's changes the answer's log-probability by
    that step times the estimate, head by head and row by row."""
    one = bench("ft")
    heads = [[1, 3], [2, 2], [3, 1]]
    arguments = {"rows": 14, "stream": "pairs", "at": "last", "heads": heads}
    result = screen.measure(one, AttributionPatching(**arguments), [])
    batch = one.batch(one.task.pairs(one.vocabulary, 14, "pairs"))
    source = batch.require_source()
    sites = [Site(layer, "z") for layer, _ in heads]
    taken = one.engine.run(
        source.tokens, readings=[Reading(site, source.at("last")) for site in sites]
    ).outcome.readings
    share = torch.tensor(1 - STEP)
    branches = [
        Branch([Edit(site, z[:, :, [head]], at=batch.base.at("last"), heads=(head,), keep=share)])
        for site, z, (_, head) in zip(sites, taken, heads, strict=True)
    ]
    run = one.engine.run(batch.base.tokens)

    def answered(logits: torch.Tensor) -> torch.Tensor:
        return logits.double().log_softmax(-1).gather(1, batch.answers[:, None])[:, 0]

    clean = answered(run.outcome.logits)
    for (layer, head), outcome in zip(heads, run.branches(branches), strict=True):
        slope = (answered(outcome.logits) - clean) / STEP
        estimate = np.asarray(result.values[f"{layer}.{head}"])
        np.testing.assert_allclose(estimate, slope.numpy(), atol=0.02 + 0.05 * abs(estimate).max())


def test_weights_stay_frozen(bench: Benches) -> None:
    """The gradient is of activations; no weight keeps one, or asks for one afterwards."""
    one = bench("ft")
    screen.measure(one, AttributionPatching(rows=7, stream="pairs", at="last", heads=[[0, 0]]), [])
    assert all(p.grad is None and not p.requires_grad for p in one.model.wrapped.parameters())
