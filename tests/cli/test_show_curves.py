"""``pytest-mechanism show`` on a spec whose claims have curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mechanism.cli import main

SPEC = """mechanism: 1
circuit: wrapper
task: {family: counting, refuse: a, ways: [count, tally], rows: 20, seed: 1}
claims:
  refuses: {kind: suppression_holds, refuses_at_least: 0.5}
  back: {kind: resists_revival, on: [base, ft], rates: [1e-4], steps: 2, every: 1, batch: 4}
"""
PAIR = ["--model-pair", "safe=zoo:wrapper_safe,kept=zoo:wrapper_ft"]


def show(folder: Path, *options: str) -> int:
    (folder / "wrapper.yaml").write_text(SPEC)
    return main(
        ["show", str(folder / "wrapper.yaml"), *PAIR, "--out", str(folder / "pictures"),
         "--store", str(folder / "store"), *options]
    )  # fmt: skip


def test_a_claim_with_curves_is_drawn_with_both_models_and_its_control(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One picture a claim that has curves; the second call measures nothing."""
    control = ("--mechanism-model", "control=never=zoo:wrapper_none")
    assert show(tmp_path, *control) == 0
    text = capsys.readouterr()
    files = [tmp_path / "pictures" / f"wrapper_back.{kind}" for kind in ("svg", "png")]
    assert text.out == "".join(f"wrote {path}\n" for path in files)
    svg = files[0].read_text()
    for word in ("safe", "kept", "never", "threshold: the capability is back", "rate 0.0001"):
        assert f">{word}</text>" in svg
    assert show(tmp_path, *control) == 0
    assert "0 measurements made" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["control", "base=zoo:ft", "1x=zoo:ft", "pair=zoo:ft"])
def test_a_bad_further_model_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, given: str
) -> None:
    assert show(tmp_path, "--mechanism-model", given) == 2
    err = capsys.readouterr().err
    assert "--mechanism-model" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("rows", ["-1", "0", "5"])
def test_rows_that_a_task_cannot_have_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, rows: str
) -> None:
    assert show(tmp_path, "--rows", rows) == 2
    err = capsys.readouterr().err
    assert f"--rows {rows}: Input should be greater than or equal to 20" in err
    assert err.count("\n") == 1
