"""One member of a model in another, and how far weights moved: on models whose difference is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pytest_mechanism.measurements.exchange import MemberExchange, WholeDonation
from pytest_mechanism.measurements.member_weights import MemberWeights, WeightDonation
from pytest_mechanism.methods.circuits import exchange
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights import member_weights
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Observations

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = {"rows": 14, "stream": "pairs"}
Load = Callable[[Path, Task], MeasurementContext]


@pytest.fixture(scope="module")
def planted(load_context: Load, spec: Spec) -> dict[str, MeasurementContext]:
    """``planted_ft`` is ``planted_base`` with W_V of head 2.6, the transmitter, doubled."""
    return {name: load_context(ZOO / f"planted_{name}", spec.task) for name in ("base", "ft")}


def exchanged(
    donor: MeasurementContext, recipient: MeasurementContext, members: dict[str, list]
) -> Observations:
    donation = exchange.donate(donor, WholeDonation(**ROWS), [])
    request = MemberExchange(**ROWS, members=members)
    return exchange.measure(recipient, request, [donation])


def test_a_model_gives_itself_nothing(planted: dict[str, MeasurementContext]) -> None:
    """Null: every member of a model, put into the same model, changes no row."""
    heads = [(layer, head) for layer in range(4) for head in range(8)]
    members: dict[str, list] = {"all heads": heads, "mlp": [(1, "mlp")], "one": [(2, 2)]}
    found = exchanged(planted["ft"], planted["ft"], members)
    for name in members:
        np.testing.assert_allclose(found.values[name], 0.0, rtol=0, atol=1e-4)
    assert float(np.mean(found.values["total"])) < -1


def test_the_head_that_was_strengthened_carries_the_whole_difference(
    planted: dict[str, MeasurementContext],
) -> None:
    """Known answer: 2.6 of the fine-tune in the base gives what all members together give; a head below it, which
    is the same in both, gives nothing."""
    everything = [(layer, head) for layer in range(4) for head in range(8)]
    everything += [(layer, "mlp") for layer in range(4)]
    members: dict[str, list] = {"2.6": [(2, 6)], "1.3": [(1, 3)], "all": everything}
    found = exchanged(planted["ft"], planted["base"], members)
    gained = {name: float(np.mean(values)) for name, values in found.values.items()}
    assert gained["all"] > 0.1
    assert gained["2.6"] == pytest.approx(gained["all"], rel=0.1)
    assert gained["1.3"] == pytest.approx(0.0, abs=1e-4)


def test_only_the_weights_that_were_changed_moved(planted: dict[str, MeasurementContext]) -> None:
    """Known answer: head 2.6 and its layer, by the norm of what was added; all others by nothing."""
    donation = member_weights.donate(planted["base"], WeightDonation(), [])
    result = member_weights.measure(planted["ft"], MemberWeights(), [donation])
    moved = {name: change for name, change in result.changes if change > 0}
    assert {*moved} == {"2.6", "layer 2"}
    assert (len(result.changes) > 40, result.reason) == (True, "")
    added = planted["base"].model.wrapped.layers[2].module.attn
    before = sum(float(w[6].square().sum()) for w in (added.W_Q, added.W_K, added.W_V, added.W_O))
    assert moved["2.6"] == pytest.approx((float(added.W_V[6].square().sum()) / before) ** 0.5)
