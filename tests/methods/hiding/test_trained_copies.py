"""Copies that are trained before they are probed or revived: a capability that training takes away is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.curve import TrainingCurve
from pytest_mechanism.measurements.probing import LinearProbes
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.methods.circuits import probing
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.weights import curve
from pytest_mechanism.methods.weights.trained_copies import copy_residuals, trained_copy
from pytest_mechanism.methods.weights.training import Training
from pytest_mechanism.types import Observations

ContextFactory = Callable[..., MeasurementContext]

REMOVAL = Recipe("removal", 3e-2, steps=20, every=5, seed=1, batch=32)
REVIVAL = Recipe("capability", 1e-3, steps=4, every=2, seed=0, batch=8, first=REMOVAL)


def probed(context: MeasurementContext, after: Recipe | None) -> Observations:
    request = LinearProbes(
        asked="capability", position="last", rows=60, stream="rows", train=300, chosen=40, seed=0,
        penalty=1e-3, after=after,
    )  # fmt: skip
    return probing.measure(context, request, [])


def revived(context: MeasurementContext, recipe: Recipe) -> Observations:
    request = TrainingCurve(recipe=recipe, watch="capability", rows=40, stream="rows")
    return curve.measure(context, request, [])


def best(observed: Observations) -> float:
    """Accuracy of the best probe."""
    return max(float(np.mean(v)) for k, v in observed.values.items() if k.startswith("correct@"))


def test_a_copys_residual_stream_is_that_of_the_engine(family: MeasurementContext) -> None:
    """After every layer, at the token that is asked for, on rows of different lengths."""
    rows = family.task.capability(family.vocabulary, 30, "rows")
    layers = range(family.model.shape.n_layers + 1)
    copy = family.model.read_plain_model(family.model.dtype)
    for position in ("last", "operand"):
        copied = copy_residuals(family, copy, rows, position, layers)
        engines = probing.residuals(family, rows, position, layers)
        assert copied.shape == engines.shape
        assert torch.allclose(copied, engines, atol=1e-4, rtol=1e-4)
    with pytest.raises(MeasurementError, match="a probe reads one"):
        copy_residuals(family, copy, rows, "letters", layers)


def test_training_on_wrong_answers_removes_what_a_probe_reads(planted: ContextFactory) -> None:
    """Of a counter made by hand: its own probe reads every count, that of its copy does not; and the model
    itself stays as it was."""
    context = replace(planted(), cache={})
    before, copys = probed(context, None), probed(context, REMOVAL)
    assert best(before) > 0.95
    assert best(copys) < 0.75
    assert list(copys.example_ids) == list(before.example_ids)
    again = probed(context, None)
    assert all(np.array_equal(again.values[n], before.values[n]) for n in before.values)


def test_a_training_of_no_effect_removes_nothing(planted: ContextFactory) -> None:
    """The null: at the lowest rate, the probe of the copy reads the same."""
    gentle = replace(REMOVAL, rate=1e-7, steps=1, every=1)
    context = replace(planted(), cache={})
    assert best(probed(context, gentle)) > 0.95


def test_a_revival_begins_at_the_trained_copy(
    planted: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first evaluation is that of the copy, which is trained once for the probe and for all revivals."""
    context = replace(planted(), cache={})
    own = revived(context, replace(REVIVAL, first=None))
    trained: list[Recipe] = []
    step = Training.step

    def counted(self: Training, at: int) -> float:
        trained.append(self.recipe)
        return step(self, at)

    monkeypatch.setattr(Training, "step", counted)
    probed(context, REMOVAL)
    copys, again = revived(context, REVIVAL), revived(context, replace(REVIVAL, seed=5))
    assert trained.count(REMOVAL) == REMOVAL.steps
    assert np.array_equal(copys.values["correct@0"], again.values["correct@0"])
    assert np.mean(own.values["correct@0"]) > 0.95
    assert np.mean(copys.values["correct@0"]) < 0.75
    assert trained_copy(context, REMOVAL).training is False


def test_an_interrupted_copy_goes_on_and_gives_the_same_numbers(
    planted: ContextFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first training, and in the second: the rest is trained, and only the rest."""
    done: list[tuple[bool, int]] = []
    step, kills = Training.step, [(True, 12), (False, 3)]

    def killed(self: Training, at: int) -> float:
        here = (self.recipe.first is None, at)
        if kills and here == kills[0]:
            kills.pop(0)
            raise KeyboardInterrupt
        done.append(here)
        return step(self, at)

    whole = revived(replace(planted(), cache={}), REVIVAL)
    monkeypatch.setattr(Training, "step", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            revived(replace(planted(), cache={}, scratch=tmp_path / "key"), REVIVAL)
    resumed = revived(replace(planted(), cache={}, scratch=tmp_path / "key"), REVIVAL)
    assert all(np.array_equal(resumed.values[n], whole.values[n]) for n in whole.values)
    assert [at for first, at in done if first] == [*range(1, 12), *range(11, 21)]
    assert [at for first, at in done if not first] == [1, 2, 3, 4]


def test_a_copy_whose_training_breaks_down_is_one_line(planted: ContextFactory) -> None:
    broken: Any = replace(REMOVAL, rate=1e25)
    with pytest.raises(
        MeasurementError, match=r"the training of its copy diverged .*lower the rate"
    ):
        probed(replace(planted(), cache={}), broken)


def test_lora_is_merged_before_the_copy_is_used(planted: ContextFactory) -> None:
    """The copy has the weights' own names, and other values."""
    context = replace(planted(), cache={})
    lora = replace(REMOVAL, lora=2, steps=2, every=1)
    copy = trained_copy(context, lora).state_dict()
    plain = context.model.read_plain_model(torch.float32).state_dict()
    assert list(copy) == list(plain)
    assert any(not torch.equal(copy[name], plain[name]) for name in plain)
