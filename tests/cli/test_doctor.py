"""``pytest-mechanism doctor``: what will run on a pair, what will not, and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.cli import main
from pytest_mechanism.commands.doctor import with_inputs
from pytest_mechanism.measurements.direction import DirectionComparison, RefusalDirection
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.counting import Counting

SPEC = """mechanism: 1
circuit: wrapper
task: {family: counting, refuse: a, ways: [count, tally], rows: 20, seed: 1}
claims:
  refuses: {kind: suppression_holds, refuses_at_least: 0.5}
  back: {kind: resists_revival, on: ft, rates: [1e-4], steps: 2, batch: 4}
  against_a_third: {kind: accuracy, on: ft, not_worse_than: other, margin: 0.1}
"""
PAIR = ["--model-pair", "safe=zoo:wrapper_safe,kept=zoo:wrapper_ft"]


def doctor(folder: Path, *options: str, spec: str = SPEC) -> int:
    (folder / "wrapper.yaml").write_text(spec)
    return main(
        ["doctor", str(folder / "wrapper.yaml"), "--store", str(folder / "store"), *options]
    )


def test_what_runs_what_lacks_a_control_and_what_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A line each; a claim that cannot run makes the exit code 1; nothing is remembered."""
    assert doctor(tmp_path, *PAIR) == 1
    out = capsys.readouterr().out
    assert out.count("passes its self-checks; engine: branch") == 2
    lines = {line.split()[0]: line for line in out.splitlines() if "::" in line}
    assert "runs, about" in lines["refuses::base"]
    assert "it cannot pass without control and pretrained: add" in lines["back::ft"]
    assert "CANNOT RUN" in lines["against_a_third::ft"]
    assert "--mechanism-model other=REFERENCE" in lines["against_a_third::ft"]
    assert not list((tmp_path / "store").glob("*.measurement"))


def test_a_pair_that_can_be_tested_is_0(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ("--mechanism-model", "other=zoo:wrapper_base")
    assert doctor(tmp_path, *PAIR, *options) == 0
    out = capsys.readouterr().out
    assert "CANNOT RUN" not in out
    assert "in total" in out


def test_each_step_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """On standard error, with the size of what is read; not with -q."""
    doctor(tmp_path, *PAIR)
    lines = capsys.readouterr().err.splitlines()
    titles = [line.partition(": step ")[2].partition(" of 9: ") for line in lines]
    assert [number for number, _, _ in titles] == [str(n) for n in range(1, 10)]
    assert titles[0][2] == "read safe (0.8 MB) for its fingerprint"
    assert [title.split()[0] for _, _, title in titles] == [
        "read", "load", "time", "ask", "read", "load", "time", "ask", "write",
    ]  # fmt: skip
    doctor(tmp_path, *PAIR, "-q")
    assert capsys.readouterr().err == ""


def test_what_another_model_donates_counts_on_that_model() -> None:
    """The input of a measurement is announced too: here the search on the base model."""
    search = Measurement(RefusalDirection(learn=6, validate_on=4, kl_at_most=0.1), "base", "{}")
    compared = Measurement(DirectionComparison(learn=6), "ft", "{}", (search,))
    assert list(with_inputs([compared])) == [search, compared]


def test_a_device_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Before anything is looked at, with the devices that there are."""
    assert doctor(tmp_path, *PAIR, "--device", "cuda:99") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pytest-mechanism: --mechanism-device: no device 'cuda:99', torch sees ")
    assert "valid: auto, cpu" in err


def test_a_damaged_checkpoint_is_named_and_so_is_every_claim_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Truncated weights: the reason once, and which claims it takes along."""
    shutil.copytree(ZOO / "wrapper_ft", tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    spec = SPEC.replace(
        "accuracy, on: ft, not_worse_than: other", "accuracy, on: base, not_worse_than: ft"
    )
    pair = ["--model-pair", f"safe=zoo:wrapper_safe,broken={tmp_path}/broken"]
    assert doctor(tmp_path, *pair, spec=spec) == 1
    out = capsys.readouterr().out
    assert "cannot be loaded" in out
    lines = {line.split()[0]: line for line in out.splitlines() if "::" in line}
    assert "runs" in lines["refuses::base"]
    for name in ("refuses::ft", "back::ft", "against_a_third::base"):
        assert "CANNOT RUN: ft cannot be loaded" in lines[name]


def test_a_spec_about_others_is_skipped_and_a_task_for_others_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The words of a task that the tokenizers do not know; a label that the spec does not want."""
    skipped = SPEC.replace("circuit: wrapper\n", "circuit: wrapper\napplies_to: {labels: [x*]}\n")
    assert doctor(tmp_path, *PAIR, spec=skipped) == 0
    assert "skipped: spec applies to labels x*" in capsys.readouterr().out
    assert doctor(tmp_path, "--model-pair", "zoo:base,zoo:ft") == 1
    assert "the tokenizers split these words" in capsys.readouterr().out


def test_rows_are_written_once_for_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be refused, what must not, and the answers: three sets, not for each claim and role."""
    written: list[str] = []
    right = Counting.rows

    def rows(self, vocabulary, count, stream="rows"):
        if not isinstance(vocabulary, AnyWord):  # lint looks at the text before
            written.append(stream)
        return right(self, vocabulary, count, stream)

    answers = Counting.capability

    def capability(self, vocabulary, count, stream="rows"):
        if not isinstance(vocabulary, AnyWord):
            written.append(stream)
        return answers(self, vocabulary, count, stream)

    monkeypatch.setattr(Counting, "rows", rows)
    monkeypatch.setattr(Counting, "capability", capability)
    doctor(tmp_path, *PAIR)
    assert written.count("rows") == 3


def test_where_no_measurement_can_be_kept_doctor_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As in a read-only folder, where the gate has the same line. With a store that pytest is given, all is well."""
    (tmp_path / "pytest.ini").touch()
    (tmp_path / ".pytest_cache").touch()
    monkeypatch.chdir(tmp_path)
    codes = [main(["doctor", "--model", "zoo:ft", *more]) for more in ((), ("--store", "store"))]
    out = capsys.readouterr().out.splitlines()
    assert codes == [1, 0]
    assert out[0].startswith("the gate CANNOT RUN in this folder: pytest's cache, in which")
    assert out[0].endswith("choose another folder with --mechanism-store, or --mechanism-no-store")
    assert out[1].startswith("base: ft, ")
    assert out[1:3] == out[-3:-1]


def test_without_a_spec_the_checkpoints_are_described(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["doctor", *PAIR, "--store", str(tmp_path / "store")]) == 0
    assert "6 layers, 4 heads, width 80, vocabulary 33" in capsys.readouterr().out
