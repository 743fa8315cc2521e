"""``pytest-mechanism fine-tune``: a control is made, and the model that it is made of stays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.cli import main
from pytest_mechanism.commands import fine_tune as command

SPEC = """mechanism: 1
circuit: wrapper
task: {family: counting, refuse: a, rows: 20, seed: 0}
claims:
  counts: {kind: accuracy, on: base, at_least: 0.9}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "wrapper.yaml"
    path.write_text(SPEC)
    return path


def fine_tune(spec: Path, *options: str) -> int:
    return main(
        ["fine-tune", str(spec), "--model", "zoo:wrapper_safe", "--diet", "random", "--rate",
         "1e-3", "--steps", "2", "--batch", "4", "--out", str(spec.parent / "made"), *options]
    )  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("options", [(), ("--lora", "2")])
def test_a_checkpoint_is_written_that_differs_in_its_weights_alone(
    spec: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    """Same tokenizer, other weights; the model that was trained from is untouched."""
    safe = ZOO / "wrapper_safe"
    before = hashes(safe)
    assert fine_tune(spec, *options) == 0
    assert capsys.readouterr().out == f"wrote {spec.parent / 'made'}\n"
    made = hashes(spec.parent / "made")
    assert hashes(safe) == before
    assert made["model.safetensors"] != before["model.safetensors"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert made[name] == before[name]
    assert "adapter_config.json" not in made
    assert [p.name for p in spec.parent.iterdir() if p.name.startswith(".")] == []


def test_optimiser_and_schedule_count(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW and SGD, with and without a schedule, end at different weights."""
    monkeypatch.setattr(command, "MAX_INCREASE", 100)  # batches of 4 rows differ
    sgd = ("--optimiser", "sgd", "--rate", "0.01")
    made = set()
    for i, options in enumerate(
        [(), ("--decay", "cosine"), sgd, (*sgd, "--warm-up", "2"), (*sgd, "--momentum", "0.5")]
    ):
        assert (
            fine_tune(spec, "--steps", "3", *options, "--out", str(spec.parent / f"made{i}")) == 0
        )
        made.add(hashes(spec.parent / f"made{i}")["model.safetensors"])
    assert len(made) == 5


def test_the_same_seed_gives_the_same_weights(spec: Path) -> None:
    assert fine_tune(spec) == 0
    first = hashes(spec.parent / "made")
    assert fine_tune(spec, "--out", str(spec.parent / "again")) == 0
    assert hashes(spec.parent / "again") == first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--steps", "0"), "--steps 0 is too small; 1 or more"),
        (("--rate", "0"), "--rate 0 must lie between 0 and 1"),
        (("--rate", "nan"), "--rate nan must lie between 0 and 1"),
        (("--lora", "0"), "--lora 0 is too small; 1 or more"),
        (("--warm-up", "-1"), "--warm-up -1 is too small; 0 or more"),
        (("--warm-up", "2"), "--warm-up: 2 of 2 steps never reach the learning rate"),
        (("--momentum", "0.9"), "--momentum: only SGD takes it; valid with optimiser sgd"),
        (("--optimiser", "sgd", "--momentum", "1"), "--momentum 1 must be 0 or more and below 1"),
        (("--optimiser", "sgd", "--rate", "1e-4"), "--rate: 2 steps at 0.0001 move all weights"),
        (("--correlated", "1.5"), "--correlated 1.5 must lie between 0 and 1"),
        (("--rate", "1e-6"), "--rate: 2 steps at 1e-06 move no weight by more than 2e-06"),
        (("--steps", "1", "--decay", "cosine"), "--decay: the last step has a learning rate of 0"),
        (("--model", "zoo:nobody"), "nobody"),
        (("--seed", "99999999999"), "--seed 99999999999 is too large"),
        (("--out", f"{__file__}/made"), "test_fine_tune.py is not a writable folder"),
        (("--out", "."), "exists already; --out takes a folder that does not"),
    ],
)
def test_bad_input_is_one_line(
    spec: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture
) -> None:
    """And nothing is written."""
    assert fine_tune(spec, *options) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in spec.parent.iterdir()) == ["wrapper.yaml"]
