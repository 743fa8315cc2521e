"""A pair whose models differ in depth and heads: each claim that compares parts of two models says that it
cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from configs import random_model, save
from evaluators import open_evaluator

from pytest_mechanism.cli import main
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: unlike
task: {family: counting, letters: abcd, refuse: a, shortest: 6, longest: 7, most: 5, rows: 20}
groups:
  both: {heads: {1: [1]}, at: last}
  deep: {heads: {2: [1]}, at: last}
  wide: {heads: {0: [3]}, at: last}
claims:
  solves: {kind: accuracy, on: [base, ft], at_least: 0.5}
  no_worse: {kind: accuracy, on: ft, not_worse_than: base, margin: 0.1}
  tells: {kind: path, group: both, drops_at_least: 0.1}
  deep_tells: {kind: path, group: deep, drops_at_least: 0.1}
  wide_tells: {kind: path, group: wide, drops_at_least: 0.1}
  own_direction: {kind: direction, ablation_leaves_at_most: 0.1, learn: 10}
  gains: {kind: cmap, group: both, donor: ft, recipient: base, recovers_at_least: 0.1}
  moves: {kind: transfer, from: base, to: ft, beats: {model: base}}
  same: {kind: direction, from: base, to: ft, cosine_at_least: 0.5, learn: 10}
  spares: {kind: spares_safety_weights, ratio_at_most: 1.5}
"""
APART = {
    "gains::pair": "cmap compares the parts of base and ft one by one, so both need the same n_layers (2 and 3)",
    "moves::pair": "transfer compares the parts of base and ft one by one, so both need the same n_layers (2 and 3)",
    "same::pair": "direction compares the parts of ft and base one by one, so both need the same n_layers (3 and 2)",
    "spares::pair": "spares_safety_weights compares the parts of ft and base one by one, so both need the same "
    "n_layers (3 and 2)",
    "deep_tells::base": "group deep names head 1 of layer 2; the model of role base has layers 0 to 1 "
    "with heads 0 to 3",
    "wide_tells::ft": "group wide names head 3 of layer 0; the model of role ft has layers 0 to 2 "
    "with heads 0 to 1",
}
"""Item -> how the one line begins that says why it cannot run."""

RUN = {
    f"{name}::{role}"
    for name in ("solves", "tells", "own_direction")
    for role in ("base", "ft")
} | {"no_worse::ft", "deep_tells::ft", "wide_tells::base"}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``base`` (2 layers of 4 heads) and ``ft`` (3 layers of 2 heads), and a spec."""
    folder = tmp_path_factory.mktemp("pair")
    save(random_model("llama2"), folder / "base")
    save(random_model("llama2", num_hidden_layers=3, num_attention_heads=2), folder / "ft")
    (folder / "spec.yaml").write_text(SPEC)
    return folder


def test_claims_about_one_model_run_and_those_from_part_to_part_say_why_not(pair: Path) -> None:
    """Each in its own item, none in the way of another."""
    gate = open_evaluator(
        "--model-pair", f"base={pair}/base,ft={pair}/ft", "--store", pair / "store"
    )
    spec = load(pair / "spec.yaml")
    result = {
        f"{name}::{role}": gate.judge(spec, claim, role)
        for name, claim in spec.claims.items()
        for role in claim.roles()
    }
    gate.runner.checkpoint.release()
    assert {item for item, verdict in result.items() if verdict.status == "error"} == set(APART)
    assert result.keys() - APART.keys() == RUN
    for item, reason in APART.items():
        assert result[item].reason.startswith(reason)
        assert "\n" not in result[item].reason
    assert all(result[item].scores for item in ("solves::base", "solves::ft"))


def test_doctor_says_the_same(pair: Path, capsys: pytest.CaptureFixture) -> None:
    """Before anything is measured; the exit code is 1."""
    options = ["--model-pair", f"base={pair}/base,ft={pair}/ft", "--store", str(pair / "store")]
    assert main(["doctor", str(pair / "spec.yaml"), *options]) == 1
    lines = {
        line.split()[0]: re.sub(r"\s+", " ", line)
        for line in capsys.readouterr().out.splitlines()
        if "::" in line
    }
    assert lines.keys() == APART.keys() | RUN
    for item, reason in APART.items():
        assert f"{item} CANNOT RUN: {reason}" in lines[item]
    for item in RUN:
        assert "runs, about" in lines[item]
