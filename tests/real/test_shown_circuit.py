"""The pictures on the page about the real model."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import warm_python

from pytest_mechanism.spec.load import load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "a-real-model.md"


def test_the_command_on_the_page_draws_the_circuit(real_folder: Path, tmp_path: Path) -> None:
    """Every head of the spec is outlined, and heads that gradients left out are marked as estimates."""
    (line,) = re.findall(
        r"^pytest-mechanism show .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    command = shlex.split(line.replace("$R/smollm2", str(real_folder)))[1:]
    ran = subprocess.run(
        [*warm_python.COMMAND, "-m", "pytest_mechanism.cli", *command, "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    heads = (tmp_path / "ioi_heads.svg").read_text(encoding="utf-8")
    spec = load(ROOT / "circuits" / "real" / "ioi.yaml")
    expected = {f"{name}-{a}.{b}" for name, g in spec.groups.items() for a, b in g.members()}
    assert {*re.findall(r'id="chosen-(\S+-\d+\.\d+)-smollm2"', heads)} == expected
    assert 'id="estimated-name_movers-' in heads
    assert (tmp_path / "ioi_circuit.png").stat().st_size > 10_000
