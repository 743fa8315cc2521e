"""Runs the gate on the embedded pair and on its sabotaged twin, and draws the output as docs/run.svg.

python docs/picture.py        (needs rich, which transformer-lens brings)
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]


def gate(pair: str) -> str:
    """The command and the table that the plugin prints, with its colours."""
    command = ["pytest", "circuits/entity_tracking.yaml", "--model-pair", pair]
    run = subprocess.run(
        [sys.executable, "-m", *command, "--color=yes", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "mechanism: " in line and "===" in line)
    table = [line for line in lines[start + 1 :] if "entity_tracking." in line or "claim " in line]
    table = [line for line in table if "FAILED" not in line]
    return "\n".join([f"$ {' '.join(command)}", *table, lines[-1], ""])


def main() -> None:
    console = Console(record=True, width=130, file=io.StringIO())
    for pair in ("base,ft", "base,ft_rerouted"):
        console.print(Text.from_ansi(gate(pair)))
    (ROOT / "docs" / "run.svg").write_text(
        console.export_svg(title="pytest-mechanism"), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
