"""Heads, MLPs and layers of one model in another, one at a time: on models whose difference is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.grafting import BEFORE, MemberGraft
from pytest_mechanism.measurements.member_weights import WeightDonation
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import grafting, performance
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights import member_weights
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Observations

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = {"rows": 14, "stream": "rows"}
Load = Callable[[Path, Task], MeasurementContext]


@pytest.fixture(scope="module")
def planted(load_context: Load, spec: Spec) -> dict[str, MeasurementContext]:
    """``planted_ft`` is ``planted_base`` with W_V of head 2.6, the transmitter, doubled."""
    return {name: load_context(ZOO / f"planted_{name}", spec.task) for name in ("base", "ft")}


def grafted(
    donor: MeasurementContext, recipient: MeasurementContext, members: dict[str, list]
) -> Observations:
    donation = member_weights.donate(donor, WeightDonation(), [])
    return grafting.measure(recipient, MemberGraft(**ROWS, members=members), [donation])


def log_probability(context: MeasurementContext) -> np.ndarray:
    return np.asarray(
        performance.measure(context, Performance(**ROWS), []).values["log_probability"]
    )


def test_the_changed_head_alone_brings_the_other_model_back(
    planted: dict[str, MeasurementContext],
) -> None:
    """Known answer: head 2.6 of the base in the fine-tune is the base, row by row. Heads that read from it or write to
    it, and an MLP, are the same in both, so their grafts change nothing."""
    members: dict[str, list] = {
        "2.6": [(2, 6)], "2.5": [(2, 5)], "1.3": [(1, 3)], "3.0": [(3, 0)], "2.mlp": [(2, "mlp")],
        "layer 2": [*((2, head) for head in range(8)), (2, "mlp")], "layer 3": [*((3, head) for head in range(8))],
    }  # fmt: skip
    found = grafted(planted["base"], planted["ft"], members)
    base, now = (log_probability(planted[name]) for name in ("base", "ft"))
    np.testing.assert_allclose(found.values[BEFORE], now, atol=1e-5)
    assert float(np.abs(base - now).max()) > 0.05
    for name in members:
        expected = base if name in ("2.6", "layer 2") else now
        np.testing.assert_allclose(found.values[name], expected, rtol=0, atol=1e-4, err_msg=name)


def test_a_model_grafted_with_itself_is_itself(planted: dict[str, MeasurementContext]) -> None:
    """Null: no row changes; and a graft leaves every weight as it was, to the last bit."""
    model = planted["ft"]
    before = [parameter.clone() for parameter in model.model.wrapped.parameters()]
    found = grafted(model, model, {"2.6": [(2, 6)], "1.mlp": [(1, "mlp")]})
    for name in ("2.6", "1.mlp"):
        np.testing.assert_allclose(found.values[name], found.values[BEFORE], rtol=0, atol=1e-5)
    grafted(planted["base"], model, {"2.6": [(2, 6)]})
    after = model.model.wrapped.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_graft_of_two_layers_is_refused(planted: dict[str, MeasurementContext]) -> None:
    """The later member would read what the recipient's own earlier one wrote."""
    with pytest.raises(MeasurementError, match=r"a graft is of one layer, and both has 2"):
        grafted(planted["base"], planted["ft"], {"both": [(1, 0), (2, 0)]})
