"""How doctor estimates the memory of a run: what the trial measures, and how it adds up."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mechanism.cli import main
from pytest_mechanism.commands import trial
from pytest_mechanism.commands.prompt_work import PromptWork
from pytest_mechanism.commands.trial import MemoryWatch, Trial, memory_in_use
from pytest_mechanism.measurements.cmap import CrossModelPatching
from pytest_mechanism.measurements.curve import TrainingCurve
from pytest_mechanism.measurements.direction import DirectionAblation, RefusalDirection
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.measurements.snip import SafetyEntries

PEAKS = Trial(
    speed=1.0, branching=20.0, weights=100.0, loaded=0, loading=0, work=3.0, kept=2.0, learning=10.0, layers=3,
    bound=500.0, fragmentation=1.5,
)  # fmt: skip


def measurement_of(request: Request) -> Measurement:
    return Measurement(request, "base", "{}")


def performance(rows: int) -> Measurement:
    return measurement_of(Performance(rows=rows, stream="rows"))


def cross_model(rows: int) -> Measurement:
    return measurement_of(CrossModelPatching(heads=[], control=[], rows=rows, stream="rows"))


def curve(rows: int, steps: int, batch: int, lora: int | None = None) -> Measurement:
    recipe = Recipe("capability", 1e-3, steps, every=steps, seed=0, batch=batch, lora=lora)
    return measurement_of(
        TrainingCurve(recipe=recipe, watch="capability", rows=rows, stream="rows")
    )


def test_a_watch_sees_what_was_held_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB that are freed before the watch ends. The numbers are ours: the system may take other
    pages of this process away at the same time."""
    held = 100 << 20
    monkeypatch.setattr(trial, "memory_in_use", lambda device: held)
    with MemoryWatch() as watch:
        held += 64 << 20
        end = time.monotonic() + 60  # a busy machine may not run the watch at once
        while watch.peak == watch.before and time.monotonic() < end:
            time.sleep(0.01)
        held -= 64 << 20
    assert watch.peak - watch.before == 64 << 20


def test_memory_in_use_is_that_of_this_process() -> None:
    """More than an interpreter takes, less than the machine has."""
    assert 5 << 20 < memory_in_use("cpu") < psutil.virtual_memory().total


def test_prompts_are_recorded_once_and_patched_ones_twice() -> None:
    """Two claims on the same rows share records; base and source of an interchange are two."""
    same = [performance(10), cross_model(10)]
    batch = 3.0 * 4
    assert PEAKS.needs(same, 4, 0) == 10 * 2.0 * 1.5 + batch
    patched = measurement_of(
        Interchange(heads=[], control=[], at="last", variable="position", rows=10)
    )
    assert PEAKS.needs([*same, patched], 4, 0) == 30 * 2.0 * 1.5 + batch
    assert PEAKS.needs(same, 4, 100) == 110 * 2.0 * 1.5 + batch


def test_training_holds_a_copy_its_gradient_and_two_moments() -> None:
    """LoRA a copy alone; of all claims the most demanding counts."""
    full = curve(rows=1, steps=1, batch=5)
    adapter = curve(rows=1, steps=1, batch=5, lora=4)
    assert PEAKS.needs([full], 4, 0) == 4 * 100 + 5 * 10.0
    assert PEAKS.needs([adapter], 4, 0) == 100 + 5 * 10.0
    assert PEAKS.needs([full, adapter], 4, 0) == PEAKS.needs([full], 4, 0)
    assert (
        PEAKS.needs([measurement_of(SafetyEntries(q=0.1, p=0.1, scored=3))], 4, 0) == 4 * 100 + 10.0
    )


def test_prompts_are_run_once_and_branches_are_faster() -> None:
    """140 rows through a forward; a second claim on them adds its branches alone. A step of training takes
    three forwards, and the copy is evaluated twice on rows of two kinds."""
    run: set[object] = set()
    assert PEAKS.seconds([performance(140)], run) == 140
    assert PEAKS.seconds([cross_model(140)], run) == 140 / 20
    assert PEAKS.seconds([curve(rows=10, steps=10, batch=8)], run) == 3 * 80 + 2 * (10 + 10)


def test_a_reply_costs_its_prompt_and_a_share_of_it_for_each_further_token() -> None:
    """30 prompts twice as long as those of the trial, with replies of 6 tokens. Where each further token takes
    a tenth of a forward, a reply takes 1.5 forwards instead of 6; after an ablation too."""
    task = json.dumps({"reply_tokens": 6})
    cached = replace(PEAKS, prompts={task: PromptWork(length=2, next_token=0.1)})
    rate = Measurement(RefusalRate(rows=30, stream="rows", asked="forbidden"), "base", task)
    fields = {"rows": 30, "stream": "rows", "search": None, "random": 1, "seed": 0}
    ablated = Measurement(DirectionAblation(**fields), "base", task)
    assert [each.seconds([rate], set()) for each in (PEAKS, cached)] == [180, 2 * 30 * 1.5]
    assert cached.seconds([ablated], set()) == 3 * 2 * 30 * 1.5


def test_memory_grows_with_the_length_of_prompts() -> None:
    """Records, batches at work and gradients of prompts twice as long as those of the trial."""
    long = replace(PEAKS, prompts={"{}": PromptWork(length=2)})
    assert long.needs([performance(10)], 4, 0) == 2 * (10 * 2.0 * 1.5 + 3.0 * 4)
    assert long.needs([curve(rows=1, steps=1, batch=5)], 4, 0) == 4 * 100 + 2 * 5 * 10.0


def test_a_search_for_a_direction_takes_longer_in_a_deeper_model() -> None:
    """Two kinds of 6 and 4 instructions, then 8 prompts for each candidate of three layers (80 %)."""
    search = measurement_of(RefusalDirection(learn=6, validate_on=4, kl_at_most=0.1))
    assert PEAKS.seconds([search], set()) == 2 * 6 + 4 + 3 * round(0.8 * 8)


@given(rows=st.integers(1, 10_000), batch=st.integers(1, 512), more=st.integers(0, 5_000))
def test_records_are_bounded_and_more_never_takes_less(rows: int, batch: int, more: int) -> None:
    """The engine keeps at most its limit of records, and more rows never need less memory."""
    needed = PEAKS.needs([performance(rows)], batch, 0)
    needed_with_more = PEAKS.needs([performance(rows + more)], batch, 0)
    assert needed <= needed_with_more <= 500 * 1.5 + 3 * batch


@given(rows=st.integers(1, 1_000), batch=st.integers(1, 512), more=st.integers(0, 512))
def test_larger_batches_never_take_less_memory(rows: int, batch: int, more: int) -> None:
    """Whether the engine's records or a forward pass decide."""
    assert PEAKS.needs([performance(rows)], batch, 0) <= PEAKS.needs(
        [performance(rows)], batch + more, 0
    )


@pytest.mark.parametrize("batch_size", [4, 4000])
def test_doctor_says_what_a_gate_will_hold(
    batch_size: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The parts add up to the total, whichever of loading and measuring takes more memory."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "mechanism: 1\ncircuit: memory\n"
        "task: {family: entity_tracking, boxes: 7, rows: 70, seed: 0}\n"
        "claims:\n  solves: {kind: accuracy, on: base, at_least: 0.5}\n"
    )
    arguments = ["doctor", str(spec), "--model", "base=zoo:base"]
    store = ["--store", str(tmp_path / "store"), "--batch-size", str(batch_size)]
    assert main([*arguments, *store]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    total, *parts = (float(number) for number in re.findall(r"([\d.]+) GB", line))
    assert total > 0.1
    assert len(parts) == 3
    assert total == pytest.approx(sum(parts), abs=0.03)  # each is rounded to 0.01
