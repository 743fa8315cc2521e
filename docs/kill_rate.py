"""The picture of docs/how-good-is-the-gate.md, from the results beside the benchmark: ``python -m docs.kill_rate``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults import rules, tables
from benchmarks.sabotage import RESULTS, Run

ROOT = Path(__file__).parents[1]


def save(path: Path = ROOT / "docs" / "kill-rate") -> None:
    """Writes the picture as SVG."""
    run = Run("release", RESULTS)
    most = rules.limit(run.all_sizes, run.changes)
    tables.draw(path.with_suffix(".svg"), run.outcomes(), most)


if __name__ == "__main__":
    save()
