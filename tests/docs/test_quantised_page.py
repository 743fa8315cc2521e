"""The page about quantised models, on the real model."""

from __future__ import annotations

from pathlib import Path

import pytest
from blocks import ROOT, run_page

from recipes.real import fetch


@pytest.mark.real
@pytest.mark.skipif(not fetch.is_there(), reason=f"no real model; '{fetch.COMMAND}' fetches it")
def test_how_to_gate_a_quantised_model(tmp_path: Path) -> None:
    """`doctor` names the quantisation, and the GGUF file passes every claim beside its folder."""
    for name in (fetch.FOLDER, fetch.FILE):
        (tmp_path / name).symlink_to(fetch.cache() / name)
    ran = list(run_page(ROOT / "docs" / "gate-a-quantised-model.md", tmp_path, limit=1800))
    assert [command.status for command in ran] == [0, 0]
    assert "7 passed" in ran[-1].output
