"""The gate on the real model: its rounding is green, and a cut head is red where the head worked. That the GGUF file is
the model itself is in tests/docs/test_quantised_page.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_python

from recipes.real import cut_head, roundings
from recipes.real.folders import write

ROOT = Path(__file__).parents[2]

Claims = dict[str, dict[str, Any]]
"""Claim and role -> its entry in the result file."""
Gate = Callable[..., tuple[int, Claims, str]]


@pytest.fixture(scope="module")
def gate(real_folder: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Gate:
    """The shipped IOI spec on the model and a candidate of this label; all workers share one store, which
    measures the model once."""
    root = tmp_path_factory.getbasetemp()
    shared = root if worker_id == "master" else root.parent
    folder = tmp_path_factory.mktemp("real_gate")
    shutil.copytree(ROOT / "circuits", folder / "circuits")

    def run(label: str, candidate: Path, *more: str) -> tuple[int, Claims, str]:
        result = folder / f"{label}.json"
        found = subprocess.run(
            [
                *(*warm_python.COMMAND, "-m", "pytest", "circuits/real/ioi.yaml", "-n0"),
                *("-p", "no:hypothesispytest", "--mechanism-json", str(result)),
                *("--model-pair", f"smollm2={real_folder},{label}={candidate}"),
                *("--mechanism-store", str(shared / "real_store")),
                *more,
                "--mechanism-no-locate",  # a sweep over 300 heads and MLPs of both models takes minutes
            ],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        content = json.loads(result.read_text()) if result.exists() else {"claims": []}
        claims = {claim["id"].partition("::")[2]: claim for claim in content["claims"]}
        return found.returncode, claims, found.stdout + found.stderr

    return run


def verdicts(claims: Claims, role: str) -> dict[str, str]:
    return {c["claim"]: c["verdict"] for c in claims.values() if c["role"] == role}


def test_an_eight_bit_rounding_is_green(gate: Gate) -> None:
    """Every claim holds of the model and of its 8-bit rounding, and every accepted score is reproduced to
    0.02; a processor that rounds differently may flip two rows of a hundred."""
    rounded = write("smollm2_8bit", roundings.VARIANTS["smollm2_8bit"], "recipes.real.roundings")
    code, claims, output = gate("smollm2_8bit", rounded)
    assert code == 0, output
    assert {c["verdict"] for c in claims.values()} == {"pass"}
    differences = {name: c["drift"] for name, c in claims.items()}
    assert len(differences) >= 10
    assert {name: d for name, d in differences.items() if d is None or abs(d) > 0.02} == {}


def test_a_cut_head_is_red_where_it_worked(gate: Gate) -> None:
    """Without head 20.0 its readers and those that it reads are not heard; what comes before stays green."""
    expected = {
        "inhibition_is_heard": "fail",
        "induction_is_heard": "fail",
        "previous_token_is_heard": "pass",
        "induction_looks_after_s1": "pass",
    }
    cut = write("smollm2_cut", cut_head.make, "recipes.real.cut_head")
    code, claims, output = gate("smollm2_cut", cut, "-k", " or ".join(expected))
    assert code == 1, output
    assert set(verdicts(claims, "base").values()) == {"pass"}
    assert expected.items() <= verdicts(claims, "ft").items()
