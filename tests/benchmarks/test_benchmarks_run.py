"""The benchmark commands work and their contenders agree; nothing is timed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COMMANDS = """
import sys
import torch
from benchmarks import discovery, engines, gpu, lengths, shapes
placed = shapes.make_placed("tiny", 2, 6, "cpu", torch.float32)
with torch.no_grad():
    ids = placed.batch.base.tokens.ids
    torch.testing.assert_close(placed.plain(ids).logits, placed.wrapped.forward(ids))
quick = ["--quick", "--json"]
sys.exit(
    engines.main([*quick, sys.argv[1], "--plot", sys.argv[2], "--shapes", "tiny"])
    or lengths.main([*quick, sys.argv[3], "--plot", sys.argv[4], "--shape", "tiny"])
    or discovery.main(
        ["--device=cpu", "--shape=tiny", "--rows=5", "--tokens=8", "--batch-size=3", "--json"]
        + sys.argv[5:6]
    )
    or gpu.main(["--small", "--json", sys.argv[6], "--plot", sys.argv[7]])
)
"""
"""All in one process, since most of their time goes into imports."""


@pytest.mark.slow
def test_quick_mode_measures_everything_and_numbers_agree(tmp_path: Path) -> None:
    """Every contender gives the reference engine's numbers, also where the wrapped model and the plain
    one share their weights; results and pictures are written."""
    files = [
        tmp_path / name
        for name in (
            "engines.json",
            "e.svg",
            "lengths.json",
            "l.svg",
            "stages.json",
            "gpu.json",
            "g.svg",
        )
    ]
    run = subprocess.run(
        [sys.executable, "-c", COMMANDS, *map(str, files)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    engines, lengths = (json.loads(path.read_text()) for path in files[:3:2])
    assert {result["measure"]: result["agrees"] for result in engines["results"]} == {
        "sweep-last": True,
        "sweep-all": True,
        "path-logits": True,
        "path-q-last": True,
        "path-v-query": True,
        "path-v-previous": True,
        "dcm-step": True,
        "minimality": True,
    }
    assert {1, 4, 12} == {point["heads"] for point in lengths["points"]}
    discovery = json.loads(files[4].read_text())
    assert all(discovery["forward_seconds"][who] > 0 for who in ("plain", "wrapped"))
    stages = discovery["stages"]
    assert [(stage["senders"], stage["forwards"]) for stage in stages] == [
        (12, 12),
        (8, 16),
        (8, 16),
        (4, 8),
    ]
    gpu = json.loads(files[5].read_text())
    assert {each["measure"] for each in gpu["results"]} == {
        "rates",
        "sweep-last",
        "sweep-all",
        "path-logits",
        "discovery",
    }
    differences = [each["difference"] for each in gpu["results"] if "difference" in each]
    assert len(differences) >= 8
    assert max(differences) < 1e-4
    assert gpu["skipped"] == []
    assert all(path.stat().st_size > 0 for path in files)
