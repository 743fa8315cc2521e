"""Probes of models in which it is known where the answer is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.decodable import Decodable
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.probing import LinearProbes
from pytest_mechanism.methods.circuits import probing
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.types import Observations, Setting
from recipes.planted_counter import LAYERS, TASK

ContextFactory = Callable[..., MeasurementContext]

ASKED: dict[str, Any] = {
    "asked": "capability", "position": "last", "rows": 100, "stream": "rows", "train": 500,
    "chosen": 60, "seed": 0, "penalty": 1e-3,
}  # fmt: skip


def probed(context: MeasurementContext, **changes: Any) -> Observations:
    """Runs the method; the context caches the result."""
    arguments = ASKED | changes
    return context.remember(
        ("probed", *arguments.values()),
        lambda: probing.measure(context, LinearProbes(**arguments), []),
    )


def share(observations: Observations, column: str) -> float:
    return float(np.mean(observations.values[column]))


def most_common(context: MeasurementContext) -> float:
    """How often somebody is right who always says the same count."""
    rows = context.task.capability(context.vocabulary, 100, "rows")
    answers = [row.base.answer for row in rows]
    return max(answers.count(answer) for answer in answers) / len(answers)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_count_is_read_from_the_layer_that_writes_it_on(
    planted: ContextFactory, layer: int
) -> None:
    """No probe finds it before, every probe finds it afterwards, and the layer is named."""
    context = planted(written_in=layer)
    observed = probed(context)
    for k in range(LAYERS + 1):
        if k <= layer:
            assert share(observed, f"correct@{k}") <= most_common(context) + 0.03, k
        else:
            assert share(observed, f"correct@{k}") >= 0.95, k
    assert observed.layer == layer + 1


def test_shuffled_answers_are_read_nowhere(planted: ContextFactory) -> None:
    """The control is a guess at each layer, also where the count lies open."""
    context = planted()
    observed = probed(context)
    for k in range(LAYERS + 1):
        assert abs(share(observed, f"shuffled@{k}") - most_common(context)) <= 0.08, k


def test_what_hides_the_answer_does_not_hide_it_from_a_probe(planted: ContextFactory) -> None:
    """The hidden counter is read as well as the open one before the unit that hides it."""
    hidden, open_ = probed(planted(hidden_by="neuron")), probed(planted())
    np.testing.assert_array_equal(hidden.values["correct@2"], open_.values["correct@2"])


def test_random_weights_keep_nothing_of_what_the_counter_has(
    planted: ContextFactory, random_counter: ContextFactory
) -> None:
    """Null test: against other random weights as the control, the share is zero."""
    contexts = {
        "ft": random_counter(seed=1, dtype="float32"),
        "control": random_counter(seed=2, dtype="float32"),
        "pretrained": planted(),
    }
    shapes = {role: context.model.shape for role, context in contexts.items()}
    case = ClaimContext(
        "ft", {}, Ablation(), TASK, 0.95, shapes, Setting(0, "float32", "cpu", "branch")
    )
    claim = Decodable(kind="decodable", on="ft", share_at_least=0.5)
    verdict = claim.judge(case, lambda m: probed(contexts[m.on]))
    assert verdict.status == "fail"
    assert verdict.scores[0].value <= 0.3


def test_the_same_numbers_come_out_every_time(
    planted: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the layers are read in one run or in one run each."""
    context = planted()
    first = probed(context)
    monkeypatch.setattr(probing, "MOST_BYTES", 1)
    assert probing.passes(LAYERS, 1000, 64) == [[0], [1], [2], [3]]
    again = probing.measure(context, LinearProbes(**ASKED), [])
    assert (first.layer, first.accuracy) == (again.layer, again.accuracy)
    for name, column in first.values.items():
        np.testing.assert_array_equal(column, again.values[name])


def test_no_row_is_trained_on_that_is_judged(planted: ContextFactory) -> None:
    """Short strings come up in several streams; their rows are left out of the training."""
    context = planted()

    def texts(count: int, stream: str) -> list[str]:
        return [r.base.text for r in context.task.capability(context.vocabulary, count, stream)]

    known = {*texts(100, "rows"), *texts(60, "validation")}
    wanted = sum(text in known for text in texts(500, "probing"))
    assert wanted > 0
    assert probed(context).dropped == wanted


def test_a_fit_is_the_minimum_of_its_loss() -> None:
    """The gradient of mean cross-entropy + penalty |W|^2 vanishes there."""
    torch.manual_seed(0)
    x, labels = torch.randn(200, 5) * torch.tensor([1.0, 1, 1, 1, 9]), torch.randint(0, 3, (200,))
    probe = probing.fit(x, labels, 3, 1e-3)
    weights = probe.weights.double().requires_grad_()
    inputs = probing.prepared(x, probe.mean, probe.size).double()
    loss = torch.nn.functional.cross_entropy(inputs @ weights, labels)
    (loss + 1e-3 * weights[:-1].square().sum()).backward()
    assert weights.grad is not None
    assert float(weights.grad.abs().max()) <= 1e-4


def test_an_answer_that_no_training_row_has_is_never_right(planted: ContextFactory) -> None:
    """The probe's classes are the answers of the training rows."""
    rows = TASK.capability(planted().vocabulary, 50)
    classes = sorted({row.base.answer for row in rows} - {rows[0].base.answer})
    labels = probing.numbered(rows, classes)
    assert int(labels[0]) == -1
    assert [classes[i] for i in labels[labels >= 0]] == [
        row.base.answer for row in rows if row.base.answer in classes
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "letters"}, "has up to 8 tokens, a probe reads one"),
        ({"position": "nowhere"}, "no position 'nowhere'"),
        ({"train": 1}, "two answers to tell apart"),
    ],
)
def test_what_cannot_be_probed_is_said_in_one_line(
    planted: ContextFactory, changes: dict[str, Any], message: str
) -> None:
    """The message names the problem."""
    with pytest.raises(MeasurementError, match=message) as problem:
        probed(planted(), **changes)
    assert "\n" not in str(problem.value)


def test_the_result_has_the_accuracy_of_every_layer(planted: ContextFactory) -> None:
    """On the rows of the choice, of which the named layer has the best."""
    observed = probed(planted())
    assert sorted(observed.accuracy) == [0, 1, 2, 3]
    assert observed.accuracy[observed.layer] == max(observed.accuracy.values())
