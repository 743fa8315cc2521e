"""Two workers on the embedded pair give the results of a serial run, and measure nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SPEC = """mechanism: 1
circuit: workers
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 70, seed: 0}
groups:
  value_fetcher:   {heads: {3: [0, 1, 2, 3]}, at: last}
  pos_transmitter: {heads: {2: [2]}, at: last, into: {group: value_fetcher, via: q}}
ablation: {value: mean, prompts: 70}
claims:
  solves: {kind: accuracy, at_least: 0.5}
  holds: {kind: encodes, on: ft, group: pos_transmitter, variable: position, at_least: 0.1}
  gains: {kind: cmap, group: value_fetcher, donor: ft, recipient: base, recovers_at_least: 0.1}
  gains_more: {kind: cmap, group: value_fetcher, donor: ft, recipient: base, recovers_at_least: 0.2}
  loses: {kind: cmap, group: value_fetcher, donor: base, recipient: ft, recovers_at_least: 0.1, carries: loss}
"""


CONFTEST = """
import pathlib, sys

def pytest_unconfigure(config):
    if "torch" in sys.modules or "transformers" in sys.modules:
        pathlib.Path("by_worker" if hasattr(config, "workerinput") else "by_main").touch()
"""
"""Who has imported torch."""


def run(folder: Path, *options: str) -> tuple[dict[str, Any], bytes]:
    """The result file, and the accepted scores."""
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "workers.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "pytest", "workers.yaml", "--model-pair=a=zoo:base,b=zoo:ft"]
    files = ["--mechanism-json=found.json", "--mechanism-store=store", "--snapshot-update"]
    done = subprocess.run(
        [*command, *files, *options],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    result = json.loads((folder / "found.json").read_text())
    return result, (folder / "__scores__" / "a+b" / "workers.json").read_bytes()


@pytest.mark.slow
def test_two_workers_come_to_the_serial_run_and_do_nothing_twice(tmp_path: Path) -> None:
    """The verdicts, the bytes of the score file and the number of measurements are the same. The process that
    distributes the work does not import torch."""
    serial, scores = run(tmp_path / "serial")
    parallel, parallel_scores = run(tmp_path / "parallel", "-n", "2")

    def verdicts(content: dict[str, Any]) -> dict[str, tuple[str, str]]:
        return {c["id"]: (c["verdict"], c["reason"]) for c in content["claims"]}

    assert verdicts(parallel) == verdicts(serial)
    assert len(serial["claims"]) == 6
    assert parallel_scores == scores
    assert parallel["measurements"]["done"] == serial["measurements"]["done"]
    stores = [
        {p.name for p in (tmp_path / n / "store").glob("*.measurement")}
        for n in ("serial", "parallel")
    ]
    assert stores[0] == stores[1]
    who = [{p.name for p in (tmp_path / n).glob("by_*")} for n in ("serial", "parallel")]
    assert who == [{"by_main"}, {"by_worker"}]
