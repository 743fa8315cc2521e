"""Commands and the gate refuse at once what they could not finish: nothing is measured before."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.cli import main
from pytest_mechanism.spec.feasible import Feasible

SHORT = "fewer than 50 background prompts have token 0 after the anchor"
ADVICE = re.compile(r"raise ablation\.prompts from 60 to (\d+)")


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``new --task ioi`` writes, with sixty background prompts for sixteen texts. Lint refuses
    it for every tokenizer; here the tokenizers are asked, as for a spec that lint cannot refuse."""
    monkeypatch.setattr(Feasible, "mean_problem", None)
    spec = tmp_path / "circuits" / "ioi.yaml"
    assert main(["new", str(spec), "--task", "ioi"]) == 0
    text = re.sub(r"prompts: \d+", "prompts: 60", spec.read_text())
    spec.write_text(text)
    return spec


def measured(folder: Path) -> list[Path]:
    return list(folder.rglob("*.measurement"))


Command = Callable[[Path, Path], list[str]]


@pytest.mark.parametrize(
    "command",
    [
        lambda spec, models: ["discover", str(spec), "--model", str(models / "base")],
        lambda spec, models: [
            "discover", str(spec), "--model-pair", f"{models}/base,{models}/ft",
        ],
        lambda spec, models: [
            "show", str(spec), "--model", str(models / "base"), "--out", str(spec.parent / "out"),
        ],
    ],
    ids=["discover", "discover a pair", "show"],
)  # fmt: skip
def test_too_few_background_prompts_are_one_line_before_the_first_measurement(
    short: Path, ioi_pair: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number that would do, and the place in the spec; nothing is written."""
    capsys.readouterr()
    store = ["--store", str(short.parent / "store")]
    assert main([*command(short, ioi_pair), *store]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"pytest-mechanism: {short}:5: {SHORT}")
    assert ADVICE.search(err)
    assert measured(short.parent) == []
    assert sorted(p.name for p in short.parent.iterdir()) == ["ioi.yaml", "store"]


def test_the_advised_number_of_prompts_is_not_refused(
    short: Path, ioi_pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With it, the search begins; these models know nothing, which is the next thing to say."""
    command = ["discover", str(short), "--model", str(ioi_pair / "base"), "--store"]
    assert main([*command, str(short.parent / "store")]) == 2
    advised = ADVICE.search(capsys.readouterr().err)
    assert advised is not None
    short.write_text(short.read_text().replace("prompts: 60", f"prompts: {advised[1]}"))
    assert main([*command, str(short.parent / "store")]) == 1
    assert "answers no better than chance" in capsys.readouterr().err
    assert len(measured(short.parent)) == 1


def test_doctor_names_each_claim_that_cannot_be_measured(
    short: Path, ioi_pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Claims about heads cannot run, with the reason; claims about answers can."""
    pair = ["--model-pair", f"{ioi_pair}/base,{ioi_pair}/ft"]
    assert main(["doctor", str(short), *pair, "--store", str(short.parent / "store")]) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "::" in line]
    cannot = {line[0] for line in lines if line[1:3] == ["CANNOT", "RUN:"]}
    assert {line[0] for line in lines} - cannot == {
        "solves_task::base", "solves_task::ft", "no_worse::ft",
    }  # fmt: skip
    assert cannot == {"circuit_suffices::base", "same_circuit::pair"}


def test_the_gate_says_it_after_collecting_and_measures_nothing_for_it(
    short: Path, ioi_pair: Path, pytester: pytest.Pytester
) -> None:
    """The gate prints a line before the first item, gives an error for each such claim, and loads no
    checkpoint."""
    run = pytester.runpytest_inprocess(
        "-p", "no:hypothesispytest", short, "--model-pair", f"{ioi_pair}/base,{ioi_pair}/ft",
        "--mechanism-store", short.parent / "store", "-m",
        'kind(name="faithfulness") or kind(name="transfer")',
        "--tb=line",
        "--mechanism-json", "out.json",
    )  # fmt: skip
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    output = run.stdout.str()
    assert output.count("cannot be measured: ") == 2
    assert output.index("cannot be measured: ") < output.index("FAILURES")
    run.stdout.fnmatch_lines(
        [f"mechanism: circuit_suffices on base cannot be measured: *ioi.yaml:*: {SHORT}*"]
    )
    run.stdout.fnmatch_lines(["circuit_suffices on base: *", "same_circuit on pair: *"])
    assert measured(short.parent) == []
    assert '"checkpoints_loaded": 0' in (pytester.path / "out.json").read_text()
    assert "Traceback" not in output


def test_fine_tune_draws_its_questions_before_it_loads_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task without requests to refuse, and a full disk: one line each, and no training."""
    import pytest_mechanism.checkpoints.loading.model as loading

    def load_model(*_: object, **__: object) -> None:
        raise AssertionError("a checkpoint was loaded")

    monkeypatch.setattr(loading, "load_model", load_model)
    spec = tmp_path / "tracking.yaml"
    spec.write_text(
        "mechanism: 1\ncircuit: x\ntask: {family: entity_tracking, rows: 140}\n"
        "claims:\n  solves: {kind: accuracy, at_least: 0.5}\n"
    )
    options = ["--diet", "random", "--rate", "1e-3", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main(["fine-tune", str(spec), "--model", "zoo:base", *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"pytest-mechanism: {spec}:3: task entity_tracking has no ")

    from types import SimpleNamespace

    from pytest_mechanism.runner import preflight_training as ahead_of_training

    monkeypatch.setattr(
        ahead_of_training.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000)
    )
    spec.write_text(spec.read_text().replace("entity_tracking", "counting, refuse: a"))
    assert main(["fine-tune", str(spec), "--model", f"{ZOO}/wrapper_safe", *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "GB free" in err
    assert "--out takes another folder" in err
    assert not (tmp_path / "out").exists()
