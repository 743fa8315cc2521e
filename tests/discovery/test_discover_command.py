"""``pytest-mechanism discover`` on a model whose circuit is known, and on one that has none."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_mechanism import cli
from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.commands.discover import Search
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 7, rows: 140, seed: 0}
groups:
  value_fetcher:     {heads: discovered, at: last}
  label_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
  object_reader:
    {heads: discovered, at: previous_query_label, into: {group: value_fetcher, via: v}}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.9}
"""

PLANTED = {
    "value_fetcher": [(3, 1)],
    "label_transmitter": [(2, 6)],
    "object_reader": [(0, 1)],
}


def discover(folder: Path, model: str) -> subprocess.Popen[str]:
    (folder / "planted.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "pytest_mechanism.cli", "discover", "planted.yaml"]
    return subprocess.Popen(
        [*command, "--model", model, "--store", "store", "--out", "found.yaml"],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stored(folder: Path) -> set[str]:
    return {path.name for path in (folder / "store").glob("*.measurement")}


def test_a_killed_search_goes_on_where_it_was_and_finds_the_planted_circuit(
    tmp_path: Path,
) -> None:
    """SIGKILL in the middle, the same command again: nothing is measured twice, and the heads are
    exactly the planted ones."""
    first = discover(tmp_path, "zoo:planted_label")
    patience = time.monotonic() + 300
    while len(stored(tmp_path)) < 3 and first.poll() is None and time.monotonic() < patience:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = stored(tmp_path)
    assert len(before) >= 3
    assert not (tmp_path / "found.yaml").exists()

    second = discover(tmp_path, "zoo:planted_label")
    _, err = second.communicate()

    assert second.returncode == 0, err
    made, taken = map(int, re.findall(r"(\d+) measurements made, (\d+) taken", err)[0])
    assert taken == len(before)
    assert made == len(stored(tmp_path) - before) > 0
    groups = load(tmp_path / "found.yaml").groups
    assert {name: group.members() for name, group in groups.items()} == PLANTED


def test_an_existing_spec_is_not_overwritten(tmp_path: Path) -> None:
    """Unless asked to; nothing is measured before that is known."""
    (tmp_path / "found.yaml").write_text("mine")
    run = discover(tmp_path, "zoo:planted_label")
    _, err = run.communicate()
    assert run.returncode == 2
    assert "found.yaml exists already; --force overwrites it" in err
    assert (tmp_path / "found.yaml").read_text() == "mine"


def test_a_spec_that_could_not_be_written_is_said_before_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output folder is missing, or a folder has the name of the output file."""
    (tmp_path / "planted.yaml").write_text(SPEC)
    for out in ("none/found.yaml", "."):
        command = ["discover", str(tmp_path / "planted.yaml"), "--model", "zoo:planted_label"]
        assert cli.main([*command, "--force", "--out", str(tmp_path / out)]) == 2
        assert "cannot be written: " in capsys.readouterr().err


def test_only_the_pair_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further checkpoint of the run is a control of claims, and its heads are nobody's."""
    (tmp_path / "planted.yaml").write_text(SPEC)
    searched: list[str] = []
    monkeypatch.setattr(Search, "search_role", lambda self, role: searched.append(role))
    options = ["--model", "zoo:planted_label", "--store", str(tmp_path / "store")]
    command = ["discover", str(tmp_path / "planted.yaml"), *options]

    assert cli.main([*command, "--mechanism-model", "control=zoo:planted_base"]) == 1
    assert searched == ["base"]


def test_on_random_weights_nothing_is_found_and_it_says_so(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Exit code 1, a sentence, no spec."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ZOO / "base")).save_pretrained(
        folder
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "base" / name, folder / name)
    run = discover(tmp_path, f"random={folder}")
    _, err = run.communicate()
    assert run.returncode == 1
    assert "answers no better than chance, so there is no circuit to find" in err
    assert not (tmp_path / "found.yaml").exists()
