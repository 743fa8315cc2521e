"""``pytest-mechanism show`` on a spec whose claims have curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mechanism.cli import main
from pytest_mechanism.report.pictures import MARK

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
    printed = capsys.readouterr()
    files = [tmp_path / "pictures" / f"wrapper_back.{kind}" for kind in ("svg", "png")]
    assert printed.out == "".join(f"wrote {path}\n" for path in files)
    svg = files[0].read_text()
    for word in ("safe", "kept", "never", "threshold: the capability is back", "rate 0.0001"):
        assert f">{word}</text>" in svg
    assert show(tmp_path, *control) == 0
    assert "0 measurements made" in capsys.readouterr().err


@pytest.mark.parametrize("reference", ["control", "base=zoo:ft", "1x=zoo:ft", "pair=zoo:ft"])
def test_a_bad_further_model_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, reference: str
) -> None:
    assert show(tmp_path, "--mechanism-model", reference) == 2
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


@pytest.mark.parametrize("out", ["/proc/pictures", "wrapper.yaml/pictures", "x" * 300])
def test_pictures_that_cannot_be_written_are_one_line_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture, out: str
) -> None:
    """A folder that nobody can write to, a file, a name that is too long."""
    assert show(tmp_path, "--out", str(tmp_path / out)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert str(tmp_path / out)[:40] in printed.err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("mine", [False, True], ids=["ours", "mine"])
def test_no_picture_of_an_earlier_call_stands_for_one_that_failed(
    tmp_path: Path, mine: bool
) -> None:
    """Pictures of the spec's claims go; those of somebody else, and of another spec, stay."""
    pictures = [tmp_path / "pictures" / name for name in ("wrapper_back.svg", "wrapper_b_back.svg")]
    pictures[0].parent.mkdir()
    for path in pictures:
        path.write_text("<svg/>" if mine else f"<svg><!-- {MARK} --></svg>")
    assert show(tmp_path, "--rows", "5") == 2
    assert [path.exists() for path in pictures] == [mine, True]


CIRCUIT = """mechanism: 1
circuit: boxes
task: {family: entity_tracking, boxes: 7, fillers: 0, rows: 70}
ablation: {value: positional_mean, prompts: 200}
claims:
  blocked: {kind: knockout, from: last, to: query_label, drops_at_least: 0.5}
  grows: {kind: curve, on: ft, axis: logarithmic, cpr_at_least: 0.2}
"""


@pytest.mark.slow
def test_curves_over_layers_and_sizes_are_drawn_with_their_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The knockout of both models from each layer on and without any, and the faithfulness of
    circuits of each size."""
    (tmp_path / "boxes.yaml").write_text(CIRCUIT)
    pair = "one=zoo:planted_ft,two=zoo:planted_label"
    assert (
        main(
            ["show", str(tmp_path / "boxes.yaml"), "--model-pair", pair,
             "--out", str(tmp_path), "--store", str(tmp_path / "store")]
        ) == 0
    )  # fmt: skip
    assert capsys.readouterr().out.count("wrote ") == 4
    layers = (tmp_path / "boxes_blocked.svg").read_text()
    for word in ("one, last -&gt; query_label", "two, as many random pairs of tokens", "none"):
        assert f">{word}</text>" in layers
    sizes = (tmp_path / "boxes_grows.svg").read_text()
    for word in (
        "two, signed ranking by ablation",
        "two, 3 random rankings of all heads",
        "0.1",
        "100",
    ):
        assert f">{word}</text>" in sizes
