"""Whatever is raised inside a measurement is one line for its user, and a traceback on request."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from pytest_mechanism.cli import main
from pytest_mechanism.methods.circuits import circuit, performance

SPEC = """mechanism: 1
circuit: tiny
task: {family: entity_tracking, boxes: 2, rows: 40, seed: 0}
groups:
  some_heads: {heads: {0: [0]}, at: last}
claims:
  knows: {kind: accuracy, on: base, at_least: 0.5}
  heard: {kind: path, group: some_heads, on: base, drops_at_least: 0.1}
"""


def nothing(*_: object) -> None:
    next(iter(()))


def missing(*_: object) -> None:
    raise KeyError("last")


def mismatched_shapes(*_: object) -> None:
    import torch

    torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.fixture(scope="session")
def libraries() -> None:
    """What inner runs import when they load a checkpoint: some of it is written in C, and cannot be
    imported by a second one."""
    for name in ("factories.architecture_adapter_factory", "model_bridge.sources._bridge_builder"):
        importlib.import_module(f"transformer_lens.{name}")


@pytest.fixture
def gate(
    libraries: None,
    pytester: pytest.Pytester,
    tiny_models: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A run whose accuracy cannot be measured."""
    monkeypatch.setenv("COLUMNS", "300")
    (pytester.path / "tiny.yaml").write_text(SPEC)

    def run(*options: str) -> pytest.RunResult:
        pair = f"{tiny_models}/base,{tiny_models}/ft"
        return pytester.runpytest_inprocess(
            "-p", "no:hypothesispytest", "tiny.yaml", "--model-pair", pair,
            "--mechanism-store", "store", *options,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("crash", "says"),
    [
        (nothing, "StopIteration"),
        (missing, "KeyError: 'last'"),
        (
            mismatched_shapes,
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)",
        ),
    ],
)
def test_a_measurement_that_crashes_is_a_line_in_the_gate(
    gate, pytester, monkeypatch, crash, says
) -> None:
    """With the place in the spec, the measurement and the role; the other measurement is kept."""
    monkeypatch.setattr(performance, "measure", crash)
    result = gate()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    line = f"tiny.yaml:7: measurement performance on base failed: {says}"
    assert any(outline.startswith(line) for outline in result.outlines)
    assert "Traceback" not in result.stdout.str()
    assert "test_crashes.py" not in result.stdout.str()
    assert len(list((pytester.path / "store").glob("*.measurement"))) == 1


def test_a_developer_sees_the_traceback(gate, monkeypatch) -> None:
    """With pytest's own --full-trace, or with a variable that works in every command."""
    monkeypatch.setattr(performance, "measure", missing)
    assert "in missing" in gate("--full-trace").stdout.str()
    monkeypatch.setenv("MECHANISM_TRACEBACK", "1")
    assert "in missing" in gate().stdout.str()


PLANTED = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 2, rows: 20, seed: 0}
groups:
  value_fetcher: {heads: discovered, at: last}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.9}
"""


def test_a_search_that_crashes_is_a_line_and_keeps_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracy and path patching are in the store when the circuit cannot be measured."""
    monkeypatch.setattr(circuit, "measure", nothing)
    (tmp_path / "planted.yaml").write_text(PLANTED)
    command = ["discover", "-q", str(tmp_path / "planted.yaml"), "--model", "base=zoo:planted_base"]
    store = ["--store", str(tmp_path / "store")]
    assert main([*command, *store]) == 2
    counted, text = capsys.readouterr().err.splitlines()
    assert counted == "3 measurements made, 0 taken from the store"
    assert text.startswith(
        f"pytest-mechanism: {tmp_path}/planted.yaml:4: measurement circuit on base failed: "
        "StopIteration"
    )
    assert len(list((tmp_path / "store").glob("*.measurement"))) == 3
    assert not (tmp_path / "planted_base.yaml").exists()

    monkeypatch.setenv("MECHANISM_TRACEBACK", "1")
    assert main([*command, *store]) == 2
    err = capsys.readouterr().err
    assert "0 measurements made, " not in err
    assert "in nothing" in err


def test_a_bug_of_a_command_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3, as pytest has it; the variable lets it through."""
    from pytest_mechanism.commands import discover

    monkeypatch.setattr(discover, "check_writable", missing)
    (tmp_path / "planted.yaml").write_text(PLANTED)
    command = ["discover", "-q", str(tmp_path / "planted.yaml"), "--model", "base=zoo:planted_base"]
    assert main([*command, "--store", str(tmp_path / "store")]) == 3
    assert capsys.readouterr().err == (
        "pytest-mechanism: discover failed: KeyError: 'last' (MECHANISM_TRACEBACK=1 shows the "
        "traceback)\n"
    )
    monkeypatch.setenv("MECHANISM_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main([*command, "--store", str(tmp_path / "store")])
