"""Path patching on the embedded pair, whose chain of groups is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.methods.circuits import path_patching
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import Observations

ContextFactory = Callable[[str], MeasurementContext]

EVERY = {f"{layer}.{head}": [[layer, head]] for layer in range(4) for head in range(4)}


def sweep(context: MeasurementContext, spec: Spec, group: str, rows: int = 42) -> Observations:
    """Every head as sender into the readers of a group."""
    into = spec.groups[group].into
    return path_patching.measure(
        context,
        PathPatching(
            rows=rows,
            stream="pairs",
            senders=EVERY,
            at=spec.groups[group].at,
            receivers=spec.groups[into.group].members() if into else [],
            via=into.via if into else None,
        ),
        [],
    )


@pytest.mark.parametrize("group", ["pos_transmitter", "pos_detector", "struct_reader"])
def test_the_known_heads_come_first_in_every_group(
    context_of: ContextFactory, spec: Spec, group: str
) -> None:
    """The strongest sender into a group's readers is one of the group; outsiders say nothing."""
    result = sweep(context_of("ft"), spec, group)
    means = {name: float(np.mean(result.values[name])) for name in EVERY}
    members = {f"{layer}.{head}" for layer, head in spec.groups[group].members()}
    assert min(means, key=means.__getitem__) in members
    assert min(means.values()) < -2
    for name in set(EVERY) - members:
        assert abs(means[name]) < 0.1, name


def test_heads_that_cannot_reach_the_readers_have_no_effect(
    context_of: ContextFactory, spec: Spec
) -> None:
    """Into q of layer 3, nothing of layer 3 itself; into v of layer 1, nothing from layer 1 on."""
    transmitter = sweep(context_of("base"), spec, "pos_transmitter", rows=14)
    structure = sweep(context_of("base"), spec, "struct_reader", rows=14)
    for head in range(4):
        np.testing.assert_allclose(transmitter.values[f"3.{head}"], 0, atol=1e-4)
        for layer in (1, 2, 3):
            np.testing.assert_allclose(structure.values[f"{layer}.{head}"], 0, atol=1e-4)


def test_the_published_ratio_is_that_of_the_same_probabilities(
    context_of: ContextFactory, spec: Spec
) -> None:
    """(p_patched - p_clean) / p_clean = exp(change of the log-probability) - 1, row by row."""
    result = sweep(context_of("ft"), spec, "value_fetcher", rows=14)
    np.testing.assert_allclose(
        result.values["ratio 3.0"], np.expm1(result.values["3.0"]), rtol=1e-4, atol=1e-6
    )


def test_random_weights_have_no_path_that_matters(context_of: ContextFactory, spec: Spec) -> None:
    """Null: no head moves the answer's log-probability by a tenth of a nat."""
    result = sweep(context_of("random"), spec, "pos_transmitter")
    assert max(abs(float(np.mean(result.values[name]))) for name in EVERY) < 0.1
