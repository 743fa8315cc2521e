"""A model that overflows on some rows only, which no self-check sees: nothing is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from configs import WORDS, random_model, save
from opening import opened
from small_requests import DONATED, PATCHED, TASK, TEXT, WEIGHED

from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.measurements.snip import SafetyEntries
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.registry import resolve

LOUD = "d"
"""A letter that not every row has."""

REQUESTS: dict[str, Request] = {
    **PATCHED,
    **WEIGHED,
    "donation": DONATED,
    "text": TEXT,
    "safety entries": SafetyEntries(q=0.1, p=0.05, scored=8),
}


def overflowing(much: float) -> Any:
    """A model with finite weights. A coordinate of the residual stream that only ``LOUD`` sets passes through
    an MLP that multiplies it by ``much`` twice."""
    model = random_model("llama2")
    block = model.model.layers[0]
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[WORDS[LOUD], 0] = 1
        block.self_attn.o_proj.weight[0] = 0
        block.mlp.up_proj.weight[0] = 0
        block.mlp.up_proj.weight[0, 0] = much
        block.mlp.down_proj.weight[:, 0] = much
    return model


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> MeasurementContext:
    """Its self-checks did not see a row with the letter."""
    folder = save(overflowing(1e20), tmp_path_factory.mktemp("loud"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytest_mechanism.methods.context.check", lambda *_: None)
        patch.setattr("pytest_mechanism.methods.context.disagreement", lambda *_: None)
        return opened(folder)


def measured(context: MeasurementContext, method: str) -> Any:
    request = REQUESTS[method]
    context.task = TASK
    return context.run_method(resolve(request.implementation), request, ())


def test_some_rows_are_numbers(context: MeasurementContext) -> None:
    """Only those with the letter are not."""
    rows = TASK.rows(context.vocabulary, 12, "test")
    logits = context.engine.run(context.batch(rows).base.tokens).outcome.logits
    loud = [LOUD in row.base.text.split() for row in rows]
    assert logits.isfinite().all(1).tolist() == [not has_letter for has_letter in loud]
    assert 0 < sum(loud) < len(rows)


@pytest.mark.parametrize("method", REQUESTS)
def test_no_method_gives_a_number(context: MeasurementContext, method: str) -> None:
    """One line that says on which row; never a score, which could be green."""
    with pytest.raises(MeasurementError, match="finite number") as problem:
        measured(context, method)
    assert f" {LOUD} " in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.slow
@pytest.mark.parametrize("method", PATCHED)
def test_nor_does_it_by_the_reference_engine(context: MeasurementContext, method: str) -> None:
    """The engine also checks the outcomes of reference runs and of their branches."""
    other = MeasurementContext(
        context.model,
        ReferenceEngine(context.model.wrapped),
        TASK,
        context.vocabulary,
        context.batch_size,
    )
    with pytest.raises(MeasurementError, match="finite number"):
        measured(other, method)


def test_infinity_is_no_number_either(
    context: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logit that is infinite is the likeliest, and may be the right answer's."""
    right = context.model.wrapped.bridge.unembed.forward

    def most(hidden: torch.Tensor, *args: Any) -> torch.Tensor:
        return right(hidden.nan_to_num(), *args).index_fill(-1, torch.tensor([9]), torch.inf)

    monkeypatch.setitem(context.model.wrapped.bridge.unembed.__dict__, "forward", most)
    with pytest.raises(MeasurementError, match="not a finite number"):
        measured(context, "performance")


def test_what_is_remembered_is_made_of_numbers(context: MeasurementContext) -> None:
    """A second measurement does not reuse the values on which the first one failed."""
    for _ in range(2):
        with pytest.raises(MeasurementError, match="finite number"):
            measured(context, "circuit, positional mean")


def test_a_padding_that_is_no_number_is_nobodys(
    context: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does not check positions behind a row's end."""
    from pytest_mechanism.engine.finite import NonFiniteRows
    from pytest_mechanism.engine.interface import Outcome, Reading, Site, Tokens

    tokens = Tokens(torch.zeros(2, 3, dtype=torch.long), torch.tensor([2, 3]))
    reading = torch.zeros(2, 3, 1, 4)
    reading[0, 2] = torch.nan
    bad_rows, readings = NonFiniteRows(), [Reading(Site(0, "z"))]
    bad_rows.check(tokens, Outcome(torch.zeros(2, 0), (reading,)), readings)
    assert bad_rows.take() == []
    reading[1, 2, 0, 1] = -torch.inf
    bad_rows.check(tokens, Outcome(torch.zeros(2, 0), (reading,)), readings)
    assert bad_rows.take() == [[0, 0, 0]]
