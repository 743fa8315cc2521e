"""Rotary frequencies that depend on length: a row's numbers are those of a freshly loaded model
that is given the row alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import BY_LENGTH, SHORT, random_model
from opening import opened
from small_requests import PATCHED, WEIGHED
from test_matrix import measured

from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Branch, Edit, Site, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.errors import MechanismError, SelfCheckError
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.greedy import greedy_replies
from pytest_mechanism.methods.refusal.refusal_score import HookedModel
from pytest_mechanism.methods.weights.batches import TrainingBatch
from pytest_mechanism.model_families import rotary
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters

ContextFactory = Callable[..., MeasurementContext]

IDS = torch.randint(5, 60, (6, 28), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([SHORT + 14, 4, SHORT, SHORT + 1, 7, SHORT + 5])
"""Below, at and above the length where frequencies change; the longest row comes first."""

ROWS = Tokens(IDS, LENGTHS)


def row_alone(row: int) -> torch.Tensor:
    return IDS[row : row + 1, : LENGTHS[row]]


@pytest.mark.parametrize("name", BY_LENGTH)
def test_a_row_in_a_batch_is_a_row_of_a_fresh_model(context_of: ContextFactory, name: str) -> None:
    """By both engines, in runs and in branches, and again after longer rows."""
    context = context_of(name)
    site, last = Site(0, "z"), ROWS.last[:, None]
    for engine in (ReferenceEngine(context.model.wrapped), BranchEngine(context.model.wrapped)):
        run = engine.run(ROWS)
        nothing = Edit(site, torch.zeros(()), at=last, keep=torch.ones(()))
        (branch,) = run.branches([Branch([nothing])])
        for row in range(len(IDS)):
            with torch.no_grad():
                wanted = random_model(name)(row_alone(row)).logits[0, -1]
            single = engine.run(Tokens(row_alone(row), LENGTHS[row : row + 1])).outcome
            for result in (run.outcome.logits[row], branch.logits[row], single.logits[0]):
                torch.testing.assert_close(result, wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize("name", BY_LENGTH)
def test_a_reply_is_what_generate_gives_after_the_row_alone(
    context_of: ContextFactory, name: str, hooked: bool
) -> None:
    """Also where it grows beyond the length at which frequencies change, and keys of other
    frequencies are in the cache."""
    context = context_of(name)
    model = HookedModel(context) if hooked else rotary.by_row(random_model(name))
    text = greedy_replies(model, ROWS, 9).ids
    for row in range(len(IDS)):
        fresh, ids = random_model(name), row_alone(row)
        wanted = fresh.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False
        )
        assert text[row].tolist() == wanted[0, ids.shape[1] :].tolist(), row


@pytest.mark.parametrize("name", BY_LENGTH)
def test_a_loss_is_that_of_its_rows_alone(name: str) -> None:
    """What is trained, pruned and ranked by gradients does not depend on how rows are batched."""
    model = rotary.by_row(random_model(name))
    labels = torch.full_like(IDS, -100)
    for row, length in enumerate(LENGTHS.tolist()):
        labels[row, length - 3 : length] = IDS[row, length - 3 : length]
    with torch.no_grad():
        result = TrainingBatch(IDS, labels, LENGTHS).loss(model)
        single = [
            random_model(name)(row_alone(row), labels=labels[row : row + 1, : LENGTHS[row]]).loss
            for row in range(len(IDS))
        ]
    torch.testing.assert_close(result, torch.stack(single).mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BY_LENGTH)
def test_without_it_the_self_check_stops_the_model(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Loading a checkpoint compares a short row alone with the same row next to a long one."""
    monkeypatch.setattr("pytest_mechanism.checkpoints.loading.weights.by_row", lambda model: model)
    with pytest.raises(SelfCheckError, match=r"a row of \d+ tokens beside or after one of \d+"):
        opened(folder(name))


def test_frequencies_that_nobody_knows_are_refused() -> None:
    """A model's own code may take them from a batch, too."""
    model = random_model("longrope")
    for module in model.modules():
        if hasattr(module, "rope_type"):
            module.rope_type = "its own"
    with pytest.raises(MechanismError, match="from the longest row of a batch in code of its own"):
        rotary.by_row(model)


LONGER = Counting(
    CountingParameters(
        family="counting", letters="abcd", refuse="a", shortest=3, longest=12, most=9, rows=20
    )
)
"""Prompts on both sides of the length."""


@pytest.mark.parametrize(
    "method", ["performance", "circuit, resample", "path through q", "screen", "refusal", "curve"]
)
def test_a_measurement_does_not_depend_on_the_batch_size(
    context_of: ContextFactory, method: str
) -> None:
    """Row by row, with all rows at once and with each in a batch of its own."""
    request = {**PATCHED, **WEIGHED}[method]
    context = context_of("dynamic")
    lengths = [
        len(context.model.encoder.encode(row.base).ids)
        for row in LONGER.rows(context.vocabulary, 12, "test")
    ]
    assert min(lengths) < SHORT < max(lengths)
    result, wanted = (
        measured(replace(context, task=LONGER, batch_size=size, cache={}), request)
        for size in (12, 1)
    )
    for name, column in wanted.values.items():
        np.testing.assert_allclose(result.values[name], column, atol=2e-3, rtol=1e-3)
