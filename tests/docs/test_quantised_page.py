"""The page about quantised models, on the real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blocks import ROOT, run_page

from recipes.real import fetch


@pytest.mark.real
@pytest.mark.skipif(not fetch.is_there(), reason=f"no real model; '{fetch.COMMAND}' fetches it")
def test_how_to_gate_a_quantised_model(tmp_path: Path) -> None:
    """`doctor` names the quantisation, and the GGUF file passes every claim beside its folder. Every score of the file
    equals that of the folder, which was converted from it."""
    for name in (fetch.FOLDER, fetch.FILE):
        (tmp_path / name).symlink_to(fetch.cache() / name)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --mechanism-json scores.json\n", "utf-8"
    )
    ran = list(run_page(ROOT / "docs" / "gate-a-quantised-model.md", tmp_path, limit=1800))
    assert [command.status for command in ran] == [0, 0]
    assert "7 passed" in ran[-1].output
    scores: dict[str, dict[str, float]] = {"base": {}, "ft": {}}
    for claim in json.loads((tmp_path / "scores.json").read_text("utf-8"))["claims"]:
        scores[claim["role"]][claim["claim"]] = claim["score"]
    about_one_model = {"finds_the_name", "movers_hold_name", "inhibition_is_heard"}
    assert scores["base"].keys() == about_one_model
    assert {name: scores["ft"][name] for name in about_one_model} == scores["base"]
