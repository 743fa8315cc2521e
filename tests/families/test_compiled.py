"""The recorded counter under the methods: they find the units that its residual labels name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import opening
import pytest
import torch

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.loading.weights import read_weights
from pytest_mechanism.checkpoints.reference import ZOO, parse_reference
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.probing import LinearProbes
from pytest_mechanism.measurements.pruning import Pruning
from pytest_mechanism.methods.circuits.probing import coordinates
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.registry import resolve
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.families.program import Program, ProgramParameters

COUNTER = Path(__file__).parent.parent / "data" / "tracr_counter_a"
TASK = Program(ProgramParameters(family="program", of="a", instead="b", rows=100))
WIDTH = "count_a_1_selector_width_attn_output"
"""Where the head writes 1 / (1 + count); the MLP reads it and writes ``count_a_1:COUNT``."""


def opened(reference: str) -> MeasurementContext:
    at = parse_reference(reference, {}, Path())
    runner = Runner({"base": at}, {"base": Fingerprint("weights", "words")}, ModelOptions())
    context: MeasurementContext = runner.checkpoint.context("base", TASK)
    return context


@pytest.fixture(scope="module")
def counter() -> MeasurementContext:
    return opened(f"tracr:{COUNTER}")


def measured(context: MeasurementContext, request: Any) -> Any:
    return resolve(request.implementation)(context, request, [])


def labels() -> list[str]:
    read: list[str] = json.loads(COUNTER.with_suffix(".json").read_text())["residual_labels"]
    return read


def test_the_fast_engine_runs_it_and_it_is_always_right(counter: MeasurementContext) -> None:
    """All self-checks pass, and both engines agree on every kind of branch."""
    assert isinstance(counter.engine, BranchEngine)
    assert counter.fallback_reason is None
    result = measured(counter, Performance(rows=100, stream="test"))
    assert np.mean(result.values["correct"]) == 1.0


def test_path_patching_finds_the_head_and_the_mlp(counter: MeasurementContext) -> None:
    """Each of the two carries the count: with another text's output, the answer's log-probability falls by
    about what a right word exceeds others by."""
    senders = {"head": [(0, 0)], "mlp": [(0, "mlp")]}
    result = measured(
        counter,
        PathPatching(rows=40, stream="pairs", senders=senders, at="last", receivers=[], via=None),
    )
    assert {name for name in senders if np.mean(result.values[name]) < -5} == {*senders}


def test_the_head_writes_along_its_label_alone(counter: MeasurementContext) -> None:
    """Readings of the output of attention: one coordinate is not zero, that of the selector's width."""
    batch = next(iter(counter.batches(TASK.rows(counter.vocabulary, 20))))
    reading = Reading(Site(0, "attn_out"), batch.base.tokens.last[:, None])
    (out,) = counter.engine.run(batch.base.tokens, readings=[reading]).outcome.readings
    written = (out[:, 0, 0].abs().amax(0) > 1e-6).nonzero()[:, 0].tolist()
    assert [labels()[i] for i in written] == [WIDTH]


def probe(label: str | None) -> LinearProbes:
    return LinearProbes(
        asked="rows", position="last", penalty=1e-5, rows=200, stream="test", train=400, chosen=100,
        seed=0, reads=label,
    )  # fmt: skip


def accuracy(context: MeasurementContext, label: str | None) -> list[float]:
    """Accuracy of probes before and after the only layer."""
    result = measured(context, probe(label))
    return [float(np.mean(result.values[f"correct@{k}"])) for k in (0, 1)]


def test_probes_read_the_count_along_its_label_alone(counter: MeasurementContext) -> None:
    """After the layer and not before; the directions of the last word and of positions do not have it."""
    before, after = accuracy(counter, "count_a_1:")
    assert after == 1.0
    for label in ("tokens:", "indices"):
        assert max(accuracy(counter, label)) < after - 0.2, label
    assert before < after - 0.2


def test_probes_read_a_width_that_is_one_number(counter: MeasurementContext) -> None:
    """The exact label names one direction, which tells counts apart linearly: more than a guess."""
    _, after = accuracy(counter, WIDTH)
    assert after > TASK.chance + 0.2


def test_what_a_variable_is_names_it(counter: MeasurementContext) -> None:
    """Tracr puts the program's name first: the part behind it names the one variable that has it."""
    assert coordinates(counter, "selector_width") == [labels().index(WIDTH)]


def test_a_name_of_several_variables_is_one_line(counter: MeasurementContext) -> None:
    """``a_1`` stands in the count and in the width from which it is computed."""
    with pytest.raises(MechanismError, match="reads: several variables are named 'a_1'; valid: "):
        measured(counter, probe("a_1"))


def test_a_label_that_is_not_there_is_one_line(counter: MeasurementContext) -> None:
    with pytest.raises(MechanismError) as caught:
        measured(counter, probe("width_selector"))
    assert "no residual label is named 'width_selector'; " in str(caught.value)
    assert f"valid: count_a_1, {WIDTH}, indices, one, tokens" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_labels_says_so() -> None:
    context = opening.opened(ZOO / "wrapper_base")
    with pytest.raises(MechanismError, match="only compiled programs have residual labels"):
        measured(context, probe("x"))


@pytest.fixture
def hiding(tmp_path: Path) -> Callable[[str], MeasurementContext]:
    """The counter with a wrapper of one weight: the first unit of the MLP, which is always on, writes a
    large amount along the label of one count."""

    @cache
    def of(label: str) -> MeasurementContext:
        folder = shutil.copytree(
            parse_reference(f"tracr:{COUNTER}", {}, Path()).folder, tmp_path / "x"
        )
        model = read_weights(folder, torch.float32)
        with torch.no_grad():
            model.layers[0].mlp.fc_in.bias[0] = 1.0
            model.layers[0].mlp.fc_in.weight[0] = 0.0
            model.layers[0].mlp.fc_out.weight[:, 0] = 0.0
            model.layers[0].mlp.fc_out.weight[labels().index(label), 0] = 1000.0
        model.save_pretrained(folder)
        return opened(str(folder))

    return of


def test_pruning_ranks_the_weights_of_the_count_first(
    hiding: Callable[[str], MeasurementContext],
) -> None:
    """All of the best weights read or write what its labels name, or the constant beside it."""
    result = measured(
        hiding("count_a_1:7"),
        Pruning(rows=20, stream="test", units="weights", counts=[12], draws=0, seed=0, scored=64,
                chosen=20),
    )  # fmt: skip
    names = set()
    for unit in result.units:
        matrix, _, place = unit.partition(" ")
        row, column = (int(n) for n in place.strip("[]").split(","))
        names.add(labels()[row if matrix.endswith(("o_proj", "fc_out")) else column])
    counting = {name for name in names if name.startswith("count_a_1")}
    assert WIDTH in counting
    assert names - counting <= {"one", "tokens:BOS", "tokens:a"}


def test_pruning_finds_the_weight_that_hides_the_count(
    hiding: Callable[[str], MeasurementContext],
) -> None:
    """The best weight by one backward pass is the wrapper; without it, the count is back."""
    label = "count_a_1:7"
    context = hiding(label)
    result = measured(
        context,
        Pruning(rows=100, stream="test", units="weights", counts=[0, 1], draws=1, seed=0, scored=64,
                chosen=50),
    )  # fmt: skip
    assert result.units[0] == f"layers.0.mlp.fc_out [{labels().index(label)}, 0]"
    assert np.mean(result.values["correct@0"]) < 0.1
    assert np.mean(result.values["correct@1"]) > 0.9
    assert np.mean(result.values["random0_correct@1"]) < 0.1
