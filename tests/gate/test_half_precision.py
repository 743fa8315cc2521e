"""A gate in half precision says how far its numbers hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pytest_mechanism.statistics.rounding_error import advice, moves_score

SPEC = """mechanism: 1
circuit: halves
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 70, seed: 0}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.5, atol: ATOL}
"""


def notes(folder: Path, atol: str, *options: str) -> tuple[list[str], dict[str, Any]]:
    """What the run tells readers of its score; and the result file."""
    (folder / "halves.yaml").write_text(SPEC.replace("ATOL", atol))
    command = [sys.executable, "-m", "pytest", "halves.yaml", "--model-pair=a=zoo:base,b=zoo:ft"]
    subprocess.run(
        [*command, "--mechanism-json=found.json", "--mechanism-store=store", *options],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=False,
    )
    result = json.loads((folder / "found.json").read_text())
    (claim,) = (claim for claim in result["claims"] if claim["role"] == "base")
    assert claim["verdict"] == "pass", result
    return claim["notes"], result["measurements"]


def test_a_score_in_bfloat16_comes_with_its_rounding(tmp_path: Path) -> None:
    """How much batch and engine move a row, also when the score comes from the store; and the ``atol`` that allows
    it, if the claim's is too small. Another batch size is another measurement."""
    first, measured = notes(tmp_path, "1e-6", "--mechanism-dtype=bfloat16")
    again, stored = notes(tmp_path, "0.1", "--mechanism-dtype=bfloat16")
    _, other = notes(tmp_path, "0.1", "--mechanism-dtype=bfloat16", "--mechanism-batch-size=7")
    assert (measured["done"], stored["done"], other["done"]) == (1, 0, 1)
    assert len(first) == 2
    assert again == first[:1]
    assert first[0].startswith(
        "a in bfloat16: batch size and engine move a row's log-probability by "
    )
    assert "write atol: " in first[1]


def test_float32_has_no_such_note(tmp_path: Path) -> None:
    """Nor does the batch size make another measurement."""
    found, measured = notes(tmp_path, "1e-6")
    _, other = notes(tmp_path, "1e-6", "--mechanism-batch-size=7")
    assert found == []
    assert (measured["done"], other["done"]) == (1, 0)


def test_what_is_allowed_covers_what_moves() -> None:
    """Three standard deviations of a mean, or one row that flips; rounded up to one digit. No spec may allow more
    than 0.1."""
    assert moves_score(0.1, 900) == 0.1 * 3 / 30
    assert moves_score(0.0, 50) == 0.02
    written = [advice(moves) for moves in (0.0123, 0.02, 0.0801, 0.1)]
    assert written == [f"write atol: {atol}" for atol in (0.02, 0.02, 0.09, 0.1)]
    assert advice(0.11) == "measure in float32, or on more rows (atol is at most 0.1)"
