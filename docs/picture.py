"""Runs the gate, and draws its output: docs/run.svg (embedded pair) and docs/real.svg (a pretrained model).

    python -m docs.picture [run] [real]

From the root of the repository. Needs rich, which transformer-lens brings. ``real`` needs the checkpoints of
docs/a-real-model.md in the cache.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from recipes.real import fetch

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Picture:
    """Runs of one spec, one below the other.

    Attributes:
        spec: the spec, from the root of the repository.
        pairs: values of ``--model-pair``.
        options: further options of pytest, which the picture shows.
        hidden: options that it does not show: where the checkpoints are on this machine.
    """

    spec: str
    pairs: tuple[str, ...]
    options: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


def models(*labels: str) -> tuple[str, ...]:
    """The options that name checkpoints of the cache."""
    folder = fetch.cache()
    names = "\n".join(f"{label} = {folder / label}" for label in labels)
    return ("-o", f"mechanism_models={names}", "--mechanism-store", str(folder / "store"))


def gate(picture: Picture, pair: str) -> str:
    """The command and the table that the plugin prints, with its colours."""
    command = ["pytest", picture.spec, "--model-pair", pair, *picture.options]
    run = subprocess.run(
        [sys.executable, "-m", *command, *picture.hidden, "--color=yes", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "mechanism: " in line and "===" in line)
    name = f"{Path(picture.spec).stem}."
    table = [line for line in lines[start + 1 :] if name in line or "claim " in line]
    table = [line for line in table if "FAILED" not in line]
    return "\n".join([f"$ {shlex.join(command)}", *table, lines[-1], ""])


def draw(name: str, picture: Picture) -> None:
    console = Console(record=True, width=130, file=io.StringIO())
    for pair in picture.pairs:
        console.print(Text.from_ansi(gate(picture, pair)))
    svg = console.export_svg(title="pytest-mechanism")
    (ROOT / "docs" / f"{name}.svg").write_text(svg, encoding="utf-8")


def main(names: Sequence[str]) -> None:
    pictures = {
        "run": Picture("circuits/entity_tracking.yaml", ("base,ft", "base,ft_rerouted")),
        "real": Picture(
            "circuits/real/ioi.yaml",
            ("smollm2,smollm2_8bit", "smollm2,smollm2_sabotaged"),
            ("-k", "finds or hold or heard"),
            models("smollm2", "smollm2_8bit", "smollm2_sabotaged"),
        ),
    }
    for name in names or pictures:
        draw(name, pictures[name])


if __name__ == "__main__":
    main(sys.argv[1:])
