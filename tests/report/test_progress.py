"""Progress of a search in a log: one line per minute, and silence on request."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.curve import TrainingCurve
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.progress import Silent
from pytest_mechanism.report.progress import (
    Bar,
    InSteps,
    Log,
    command_progress,
    duration_text,
    terminal_progress,
)


def test_a_duration_is_rounded_for_people() -> None:
    """Seconds, then minutes, then hours with minutes."""
    assert [duration_text(s) for s in (0.4, 89, 90, 59 * 60, 59.7 * 60, 312 * 60)] == [
        "0 s",
        "89 s",
        "2 min",
        "59 min",
        "1 h 0 min",
        "5 h 12 min",
    ]


def test_a_log_says_stage_heads_and_time_left_a_line_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A thousand rows in 100 seconds, reported every second: a single line, after sixty seconds."""
    now = [0.0]
    log = Log(clock=lambda: now[0])
    log.start("m on cpu", 1000, ("path patching at last", 144, "heads"))
    for _ in range(100):
        now[0] += 1
        log.advance(10)
    log.finish()
    log.advance(10)
    assert capsys.readouterr().err == (
        "mechanism: m on cpu, path patching at last: 86 of 144 heads, about 40 s left\n"
    )


def test_loading_is_no_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    """Two minutes of loading, then 10 of 1,000 rows a second: the time left is that of the rows alone."""
    now = [0.0]
    log = Log(clock=lambda: now[0])
    log.start("m on cpu", 1000)
    now[0] += 120
    log.advance(10)
    for _ in range(60):
        now[0] += 1
        log.advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "mechanism: m on cpu, 1%, just begun",
        "mechanism: m on cpu, 61%, about 39 s left",
    ]


def test_a_line_of_progress_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """pytest's dots end first."""
    now = [0.0]
    ended: list[float] = []
    log = Log(clock=lambda: now[0], own_line=lambda: ended.append(now[0]))
    log.start("m on cpu", 100)
    for _ in range(2):
        now[0] += 45
        log.advance(40)
    assert (ended, capsys.readouterr().err.count("\n")) == ([90.0], 1)


def test_several_measurements_together_are_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    """The minute continues from one measurement to the next, and more rows than planned do not show as 100 %."""
    now = [0.0]
    log = Log(clock=lambda: now[0])
    for _ in range(3):
        log.start("m on cpu", 100)
        log.advance(50)
        now[0] += 30
        log.advance(100)
        log.finish()
    assert capsys.readouterr().err == "mechanism: m on cpu, 99%, about 0 s left\n"


def test_what_a_stage_is_called_and_what_is_counted() -> None:
    """Heads of path patching, circuits, steps of a training; nothing of a plain run."""
    senders = {"0.0": [[0, 0]], "0.1": [[0, 1]]}
    rows = {"rows": 3, "stream": "rows"}
    recipe = Recipe("capability", 1e-3, steps=30, every=10, seed=0, batch=4)
    requests = {
        PathPatching(senders=senders, at="S2", via="v", **rows): (
            "path patching at S2 into v", 2, "heads",
        ),
        CircuitPerformance(ablation=Ablation(), alive={"a": [], "b": []}, **rows): (
            "circuits of some heads alone", 2, "circuits",
        ),
        TrainingCurve(recipe=recipe, watch="forbidden", **rows): ("training", 30, "steps"),
        Performance(**rows): None,
    }  # fmt: skip
    assert {request: request.cost({"family": "ioi"}).parts for request in requests} == requests


def test_who_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar on a terminal, a log elsewhere, silence with -q and in workers of xdist."""
    assert isinstance(command_progress(quiet=True), Silent)
    for terminal, kind in ((True, Bar), (False, Log)):
        monkeypatch.setattr(
            sys, "stderr", SimpleNamespace(isatty=lambda terminal=terminal: terminal)
        )
        assert isinstance(command_progress(quiet=False), kind)

    def run(isatty: bool, verbosity: int = 0, **more: object) -> type:
        plugins = {"terminalreporter": SimpleNamespace(isatty=isatty)}
        config = SimpleNamespace(
            pluginmanager=SimpleNamespace(get_plugin=plugins.get),
            get_verbosity=lambda: verbosity,
            **more,
        )
        return type(terminal_progress(config))

    assert run(True) is Bar
    assert run(False) is Log
    assert run(False, -1) is Silent
    assert run(True, workerinput={}) is Silent


def test_a_search_says_which_step_begins_and_how_long_it_has_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line as each step begins, and the step in the lines between; nothing where nothing is shown."""
    now = [0.0]
    log = Log(clock=lambda: now[0])
    steps = InSteps(log, clock=lambda: now[0])
    steps.begin(3)
    steps.step("the model on the task")
    now[0] += 95
    steps.step("path patching movers at last into the logits")
    steps.start("base on cpu", 100, ("path patching at last", 144, "heads"))
    steps.advance(0)
    now[0] += 60
    steps.advance(50)
    steps.finish()
    assert capsys.readouterr().err.splitlines() == [
        "mechanism: step 1 of 3: the model on the task",
        "mechanism: step 2 of 3: path patching movers at last into the logits (2 min gone)",
        "mechanism: base on cpu, step 2 of 3, path patching at last: 0 of 144 heads, just begun",
        "mechanism: base on cpu, step 2 of 3, path patching at last: 72 of 144 heads, about 60 s left",
    ]
    silent = InSteps(Silent())
    silent.begin(1)
    silent.step("the model on the task")
    assert capsys.readouterr().err == ""
