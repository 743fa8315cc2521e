"""A gate in half precision says how far its numbers hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.statistics.rounding_error import advice, moves_score

SPEC = """mechanism: 1
circuit: halves
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 70, seed: 0}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.5, atol: ATOL}
"""


Notes = Callable[..., tuple[list[str], dict[str, Any]]]


@pytest.fixture
def notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Notes:
    """What the run tells readers of its score; and the result file. Runs in this process, which has imported torch."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("GITHUB_", "PYTEST_XDIST"))]:
        monkeypatch.delenv(name)

    def of(atol: str, *options: str) -> tuple[list[str], dict[str, Any]]:
        Path("halves.yaml").write_text(SPEC.replace("ATOL", atol))
        plain = [
            "-p",
            "no:hypothesispytest",
            "--capture=no",
            f"--rootdir={tmp_path}",
            "halves.yaml",
        ]
        ours = ["--model-pair=a=zoo:base,b=zoo:ft", "--mechanism-store=store"]
        pytest.main([*plain, *ours, "--mechanism-json=found.json", *options])
        result = json.loads(Path("found.json").read_text())
        (claim,) = (claim for claim in result["claims"] if claim["role"] == "base")
        assert claim["verdict"] == "pass", result
        return claim["notes"], result["measurements"]

    return of


@pytest.mark.slow
def test_a_score_in_bfloat16_comes_with_its_rounding(notes: Notes) -> None:
    """How much batch and engine move a row, also when the score comes from the store; and the ``atol`` that allows
    it, if the claim's is too small. Another batch size is another measurement."""
    first, measured = notes("1e-6", "--mechanism-dtype=bfloat16")
    again, stored = notes("0.1", "--mechanism-dtype=bfloat16")
    _, other = notes("0.1", "--mechanism-dtype=bfloat16", "--mechanism-batch-size=7")
    assert (measured["done"], stored["done"], other["done"]) == (1, 0, 1)
    assert len(first) == 2
    assert again == first[:1]
    assert first[0].startswith(
        "a in bfloat16: batch size and engine move a row's log-probability by "
    )
    assert "write atol: " in first[1]


def test_float32_has_no_such_note(notes: Notes) -> None:
    """Nor does the batch size make another measurement."""
    found, measured = notes("1e-6")
    _, other = notes("1e-6", "--mechanism-batch-size=7")
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
