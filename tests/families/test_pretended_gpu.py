"""Every measurement on a simulated GPU: no tensor of the host is combined with a tensor of the GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pretended_gpu import PretendedGPU
from small_requests import CROSSED, DONATED, PATCHED, SENDERS, WEIGHED
from test_matrix import measured

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.methods.circuits import dcm
from pytest_mechanism.methods.context import MeasurementContext

ContextFactory = Callable[..., MeasurementContext]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows to learn a mask on; weights that are read again are on the GPU."""
    few = partial(dcm.DcmSettings, batch=4, train=8, validation=4)
    monkeypatch.setattr(dcm, "DcmSettings", few)
    original = LoadedModel.read_plain_model

    def read_plain_model(model: LoadedModel, dtype: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PretendedGPU, "elsewhere", True)
            return original(model, dtype)

    monkeypatch.setattr(LoadedModel, "read_plain_model", read_plain_model)


@pytest.mark.parametrize(
    ("engine", "method"),
    [
        *(("branch", method) for method in (*PATCHED, *WEIGHED)),
        *(("reference", w) for w in PATCHED),
    ],
)
def test_every_measurement_keeps_to_its_device(
    context_of: ContextFactory, engine: str, method: str
) -> None:
    """New tensors are created on the model's device, and results are copied to the host."""
    request = {**PATCHED, **WEIGHED}[method]
    context = context_of("llama3", engine)
    context.cache.clear()
    with PretendedGPU():
        result = measured(context, request)
    assert result.values


@pytest.mark.parametrize("engine", ["branch", "reference"])
def test_what_a_model_donates_reaches_the_other(context_of: ContextFactory, engine: str) -> None:
    """By way of the host, where it waits until the other is loaded."""
    context = context_of("llama3", engine)
    with PretendedGPU():
        donation = measured(context, DONATED)
        result = measured(context, CROSSED, donation)
    assert result.values


def test_scores_are_brought_over_when_all_are_there(context_of: ContextFactory) -> None:
    """At the end, all columns are copied to the host together: the number of waits does not depend on the
    number of heads."""
    context = context_of("llama3")
    request = PATCHED["path to the logits"]

    def waits(senders: dict[str, Any]) -> int:
        with PretendedGPU() as gpu:
            measured(context, request.model_validate(request.model_dump() | {"senders": senders}))
        return gpu.waits

    some = dict([*SENDERS.items()][::2])  # of all layers: each that is read waits for itself
    waits(SENDERS), waits(some)  # numbers of heads are carried over once and for all
    assert waits(SENDERS) == waits(some)
