"""docs/the-report.md, and the page of the embedded pair that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import ROOT, run_page

PNG = ROOT / "docs" / "the-report.png"


def test_the_screenshot_is_small() -> None:
    """Whoever clones the repository fetches it."""
    assert PNG.stat().st_size < 200_000


@pytest.mark.slow
def test_the_page_of_the_embedded_pair(tmp_path: Path) -> None:
    """On 210 rows, the commands exit as docs/the-report.md says. The page of the run is under 1.5 MB and
    has the map of all heads; the page of the result file says that it lacks it."""
    (tmp_path / "circuits").mkdir()
    shipped = (ROOT / "circuits" / "entity_tracking.yaml").read_text("utf-8")
    fewer = re.sub(r"prompts: \d+", "prompts: 250", re.sub(r"rows: \d+", "rows: 210", shipped))
    (tmp_path / "circuits" / "entity_tracking.yaml").write_text(fewer, "utf-8")
    ran = list(run_page(ROOT / "docs" / "the-report.md", tmp_path, limit=600))
    assert [command.status for command in ran] == [1, 0]
    page, later = ((tmp_path / name).read_text("utf-8") for name in ("report.html", "later.html"))
    assert len(page.encode()) < 1_500_000
    assert "Which heads and MLPs do the work" in page
    assert "head 2.2 of pos_transmitter fell silent" in page
    assert re.search(r"<dt>prompt</dt>", page)
    assert "holds no heat maps, no graph and no curves" in later
    assert "Which heads and MLPs do the work" not in later
