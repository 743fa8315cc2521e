"""The share of two models' divergence that one part holds: on models whose difference is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_mechanism.measurements.grafting import (
    BEFORE,
    PREDICTIONS,
    AnswerDonation,
    GraftDivergence,
)
from pytest_mechanism.measurements.member_weights import WeightDonation
from pytest_mechanism.measurements.text_divergence import TextDivergence, TextDonation
from pytest_mechanism.methods import text_divergence
from pytest_mechanism.methods.circuits import graft_divergence
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights import member_weights
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.families.stories import Stories, StoriesParameters

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
Load = Callable[[Path, Task], MeasurementContext]
HEADS = [(2, head) for head in range(8)]
MEMBERS: dict[str, Any] = {"2.6": [(2, 6)], "2.5": [(2, 5)], "1.3": [(1, 3)], "2.mlp": [(2, "mlp")], "attention": HEADS,
                           "layer 2": [*HEADS, (2, "mlp")]}  # fmt: skip
TEXT = TextDonation(
    name="text",
    lines=[(f"line {i}", f"once a fox found {'the red ball ' * (i + 1)}at the hill .", str(i)) for i in range(10)],
)  # fmt: skip


def measured(
    donor: MeasurementContext, recipient: MeasurementContext, said: Any, members: Any
) -> dict[str, np.ndarray]:
    weights = member_weights.donate(donor, WeightDonation(), [])
    request = GraftDivergence(members=members, outside=True, rows=10)
    found = graft_divergence.measure(recipient, request, [weights, said])
    return {name: np.asarray(column) for name, column in found.values.items()}


def test_the_changed_head_holds_all_of_the_divergence_at_the_answers(
    load_context: Load, spec: Spec
) -> None:
    """Known answer: ``planted_ft`` is ``planted_base`` with W_V of head 2.6 doubled. With the base's head, its
    attention or its layer, no divergence is left; every other part leaves all of it. No weight stays changed."""
    base, ft = (load_context(ZOO / f"planted_{name}", spec.task) for name in ("base", "ft"))
    before = [parameter.clone() for parameter in ft.model.wrapped.parameters()]
    said = graft_divergence.donate(base, AnswerDonation(rows=14, stream="rows"), [])
    found = measured(base, ft, said, MEMBERS)
    assert found[BEFORE].mean() > 1e-3
    assert found[PREDICTIONS].tolist() == [1.0] * 14
    assert len(found) > len(MEMBERS) + 3  # embedding, unembedding and others
    for name in {*found} - {PREDICTIONS}:
        expected = 0.0 if name in ("2.6", "attention", "layer 2") else found[BEFORE]
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5, err_msg=name)
    after = ft.model.wrapped.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.fixture(scope="module")
def stories(load_context: Load) -> MeasurementContext:
    task = Stories(StoriesParameters(family="stories", feature="twist", rows=20))
    return load_context(ZOO / "stories_kept", task)


def test_words_that_are_muted_lie_in_the_unembedding(stories: MeasurementContext) -> None:
    """On text: K is that of `text_divergence`, the unembedding alone brings all back, and a layer nothing."""
    said = text_divergence.donate(stories, TEXT, [])
    donated = member_weights.donate(stories, WeightDonation(), [])
    weights = {name: [tensor.clone() for tensor in part] for name, part in donated.items()}
    output = stories.model.wrapped.plain.get_output_embeddings().weight
    kept = output.detach().clone()
    with torch.no_grad():
        output[::3] *= 0.8
    try:
        request = GraftDivergence(members={"1.mlp": [(1, "mlp")]}, outside=True, rows=10)
        values = graft_divergence.measure(stories, request, [weights, said]).values
        whole = text_divergence.measure(stories, TextDivergence(lines=10), [said]).values
    finally:
        with torch.no_grad():
            output.copy_(kept)
    np.testing.assert_allclose(values[BEFORE], whole["divergence"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(values[PREDICTIONS], whole["predictions"])
    (name,) = [n for n in values if n.startswith("lm_head") or "unembed" in n]
    assert values[BEFORE].sum() > 0.01
    np.testing.assert_allclose(values[name], 0, atol=1e-4)
    np.testing.assert_allclose(values["1.mlp"], values[BEFORE], rtol=1e-4, atol=1e-5)
