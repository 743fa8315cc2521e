"""The look-ahead: what a measurement would fail on is known from the tokenizers alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluators import open_evaluator

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.resists_revival import ResistsRevival
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.backgrounds import rare_slots, sufficient_prompts
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.probing import LinearProbes
from pytest_mechanism.measurements.request import Request, RowSet
from pytest_mechanism.plugin.hooks import find_obstacles
from pytest_mechanism.runner import preflight_training as ahead_of_training
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.runner.preflight import Preflight
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import Prompt, Row, Vocabulary
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.types import Observations

TEXT = "The apple is in Box F, the book is in Box K. Box F contains the"


def row(number: int, text: str = TEXT, **changes: Any) -> Row:
    at = text.index("Box")
    prompt = Prompt(text, {"box": ((at, at + 3),)}, "apple")
    whole = Row(f"rows-{number}", f"context {number}", prompt, prompt, "apple")
    return replace(whole, **changes)


class FixedTask:
    """A task that writes the rows that it is given."""

    family = "written"
    refusals = ()

    def __init__(self, rows: Sequence[Row], backgrounds: Sequence[Row] = ()) -> None:
        self.given, self.behind = rows, backgrounds

    def row_set(self, name: str, vocabulary: Vocabulary, count: int, stream: str) -> Sequence[Row]:
        return self.given

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str) -> Sequence[Row]:
        return self.given

    def backgrounds(
        self, vocabulary: Vocabulary, count: int, stream: str = "ablation"
    ) -> Sequence[Row]:
        return self.behind[:count]


def measurement_of(kind: type[Request], **arguments: Any) -> Measurement:
    return Measurement(kind(rows=12, stream="rows", **arguments), "base", "settings")


def circuit_measurement(value: str = "positional_mean", prompts: int = 60) -> Measurement:
    ablation = Ablation(value=value, prompts=prompts)
    return measurement_of(CircuitPerformance, alive={"circuit": [[0, 0, "box"]]}, ablation=ablation)


PATCHED = measurement_of(PathPatching, senders={}, at="box", receivers=[], via=None)
PROBED = measurement_of(
    LinearProbes, asked="rows", position="box", chosen=12, train=12, penalty=0.1, seed=0
)


def problem(task: Any, measurement: Measurement) -> str | None:
    encoder = Encoder.load(ZOO / "base")
    ahead = Preflight({"base": encoder}, SharedVocabulary((encoder,)), {"base": ZOO / "base"})
    try:
        ahead.check(measurement, task)
    except MechanismError as found:
        return str(found)
    return None


ROWS = [row(i) for i in range(12)]
SHORT = "The apple is in Box F. Box F contains the"
TWICE = Prompt(TEXT, {"box": ((16, 19), (38, 41))}, "apple")


@pytest.mark.parametrize(
    ("rows", "measurement", "says"),
    [
        (ROWS, measurement_of(Performance), None),
        (ROWS, PATCHED, None),
        (ROWS, PROBED, None),
        ([], measurement_of(Performance), "wrote no rows for stream rows"),
        (
            ROWS[:9],
            measurement_of(Performance),
            "9 rows come from 9 contexts, but a confidence interval needs 10",
        ),
        ([replace(r, source=None) for r in ROWS], PATCHED, "no source prompt to patch from"),
        (
            [*ROWS, row(12, base=replace(ROWS[0].base, spans={}))],
            PATCHED,
            "has no position 'box'; valid:",
        ),
        ([*ROWS, row(12, target="antidisestablishment")], PATCHED, "is not one token here"),
        ([*ROWS, row(12, base=TWICE)], PROBED, "a probe reads one"),
        (5, measurement_of(Performance), "could not be checked: TypeError"),
    ],
)
def test_what_a_row_lacks_is_known_without_a_model(
    rows: Any, measurement: Measurement, says: str | None
) -> None:
    """One row in thirteen is enough to be refused."""
    result = problem(FixedTask(rows), measurement)
    assert result is None if says is None else says in str(result)


def test_every_place_of_the_rows_needs_fifty_prompts() -> None:
    """Fifty of the same form are enough, forty-nine are not, and a longer row needs its own."""
    fifty = [row(i, SHORT) for i in range(50)]
    short = [row(i, SHORT) for i in range(12)]
    assert problem(FixedTask(short, fifty), circuit_measurement()) is None
    assert "fewer than 50 background prompts" in str(
        problem(FixedTask(short, fifty[1:]), circuit_measurement())
    )
    longer = str(problem(FixedTask([*short, row(12)], fifty), circuit_measurement()))
    assert "(0 of 50 have it)" in longer
    assert "there are 50 different ones and not 60" in longer
    assert problem(FixedTask([*short, row(12)], fifty), circuit_measurement("mean")) is None
    assert "fewer than 50 tokens" in str(
        problem(FixedTask(short, fifty[:1]), circuit_measurement("mean"))
    )
    assert problem(FixedTask([*short, row(12)], []), circuit_measurement("zero")) is None


def test_what_is_resampled_has_the_same_anchors() -> None:
    """A replacement prompt that lacks an anchor of the original is refused."""
    others = [row(i) for i in range(12)]
    assert problem(FixedTask(ROWS, others), circuit_measurement("resample")) is None
    anchored = replace(ROWS[0].base, anchors=(("start", 0), ("query", 30)))
    result = problem(
        FixedTask([row(0, base=anchored), *ROWS[1:]], others), circuit_measurement("resample")
    )
    assert "has the anchor 'query'" in str(result)


def test_the_advised_number_of_prompts_suffices() -> None:
    """One prompt in twenty has the rare place: about a thousand give fifty of them. Where no more
    prompts have it, none are advised."""

    def counted(prompts: int) -> tuple[dict[tuple[str, int], int], int]:
        return {("start", 0): prompts, ("rare", 0): prompts // 20}, prompts

    needed = {("start", 0), ("rare", 0)}
    advised = sufficient_prompts(needed, counted, 200)
    assert advised is not None
    assert rare_slots(needed, counted(advised)[0]) == []
    assert 1000 <= advised <= 1500
    assert sufficient_prompts(needed, lambda n: (counted(min(n, 300))[0], min(n, 300)), 200) is None
    assert sufficient_prompts({("never", 0)}, counted, 200) is None


class ForeignRequest(Request):
    """A request of another package."""

    implementation = "foreign.method:measure"

    rows: int
    stream: str
    at: str

    def row_sets(self) -> tuple[RowSet, ...]:
        return (RowSet("rows", self.rows, self.stream, (self.at,)),)


def test_rows_of_another_packages_request_are_checked_too() -> None:
    """At its positions, as those of our own methods; where it names no rows, nothing is checked."""
    assert problem(FixedTask(ROWS), measurement_of(ForeignRequest, at="box")) is None
    assert "no position 'nowhere'" in str(
        problem(FixedTask(ROWS), measurement_of(ForeignRequest, at="nowhere"))
    )
    assert "wrote no rows" in str(problem(FixedTask([]), measurement_of(ForeignRequest, at="box")))


def test_looking_ahead_imports_no_torch() -> None:
    """Tokenizers suffice."""
    code = (
        "import sys, pytest_mechanism.runner.preflight, pytest_mechanism.discovery.preflight\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# -- trainings

WRAPPER = """mechanism: 1
circuit: wrapper
task: {family: counting, refuse: a, rows: 20, seed: 1}
claims:
  back: {kind: resists_revival, on: ft, rates: [1e-4], steps: 2, batch: 4}
  soft: {kind: resists_revival, on: ft, rates: [1e-4], steps: 2, batch: 4, lora: 2}
  third: {kind: accuracy, on: ft, not_worse_than: other, margin: 0.1}
"""


@pytest.fixture
def gate(tmp_path: Path) -> ClaimEvaluator:
    pair = "base=zoo:wrapper_safe,ft=zoo:wrapper_ft"
    return open_evaluator("--model-pair", pair, "--store", tmp_path / "store")


def test_a_disk_too_small_for_a_training_is_known_before_it(
    gate: ClaimEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and both moments in float32, twice: 24 bytes a weight. LoRA keeps next to nothing."""
    (tmp_path / "wrapper.yaml").write_text(WRAPPER)
    spec = load(tmp_path / "wrapper.yaml")
    many = ahead_of_training.weights(ZOO / "wrapper_ft")
    assert 0.9 < 2 * many / (ZOO / "wrapper_ft" / "model.safetensors").stat().st_size <= 1
    monkeypatch.setattr(
        ahead_of_training.shutil, "disk_usage", lambda _: SimpleNamespace(free=24 * many - 1)
    )
    refused = gate.obstacle(spec, spec.claims["back"], "ft")
    assert "GB free, training this checkpoint takes up to" in str(refused)
    assert str(refused).startswith(f"{tmp_path}/wrapper.yaml:5: ")
    assert gate.obstacle(spec, spec.claims["soft"], "ft") is None


def test_models_to_compare_with_are_missed_before_anything_is_loaded(
    gate: ClaimEvaluator, tmp_path: Path
) -> None:
    """One line for each claim that cannot pass or cannot be measured, and no checkpoint is loaded."""
    (tmp_path / "wrapper.yaml").write_text(WRAPPER.replace("  soft", "  # soft"))
    spec = load(tmp_path / "wrapper.yaml")
    items = [
        SimpleNamespace(spec=spec, claim=claim, name="ft", title=f"{name} on ft", path=spec.path)
        for name, claim in spec.claims.items()
    ]
    assert list(find_obstacles(gate, items)) == [
        "back on ft: it cannot pass without control and pretrained: add "
        "--mechanism-model control=REFERENCE --mechanism-model pretrained=REFERENCE",
        f"third on ft cannot be measured: {tmp_path}/wrapper.yaml:7: needs a checkpoint for the role "
        "'other', this run has base, ft: add --mechanism-model other=REFERENCE",
    ]
    assert (gate.runner.checkpoint.loaded, gate.runner.done) == (0, 0)


def test_rows_to_train_on_are_drawn_before_a_checkpoint_is_loaded(
    gate: ClaimEvaluator, tmp_path: Path
) -> None:
    """A task without answers to what must be refused cannot revive anything."""
    (tmp_path / "wrapper.yaml").write_text(WRAPPER)
    spec = load(tmp_path / "wrapper.yaml")
    claim = spec.claims["back"]
    assert isinstance(claim, ResistsRevival)
    case = gate.model_context(spec, "ft")
    (curve, *_) = claim.required_measurements(case)
    assert gate.first_obstacle([curve]) is None
    recipe = replace(curve.request.recipe, data_mix="x")
    broken = replace(curve, request=curve.request.model_copy(update={"recipe": recipe}))
    assert "could not be checked: KeyError" in str(gate.first_obstacle([broken]))
    assert gate.runner.checkpoint.loaded == 0


def test_what_is_in_the_store_needs_no_look(gate: ClaimEvaluator, tmp_path: Path) -> None:
    """A warm run reads no tokenizer."""
    (tmp_path / "wrapper.yaml").write_text(WRAPPER)
    spec = load(tmp_path / "wrapper.yaml")
    claim = Accuracy(kind="accuracy", on="ft", at_least=0.5)
    needed = claim.required_measurements(gate.context(spec, claim, "ft"))
    assert gate.runner.store is not None
    for measurement in needed:
        observed = Observations(("a",), ("x",), {"correct": [1.0]})
        gate.runner.store.put(gate.runner.key(measurement), observed)
    fresh = open_evaluator(
        "--model-pair", "base=zoo:wrapper_safe,ft=zoo:wrapper_ft", "--store", tmp_path / "store"
    )
    assert fresh.first_obstacle(needed) is None
    assert fresh.runner.checkpoint._encoders == {}
