"""Draws the pictures of the docs again: result tables of runs of the gate, and what ``show`` draws.

    python -m docs.picture                      all of them
    python -m docs.picture run methods/dcm      these: the name of a picture is its path below docs/
    python -m docs.picture --list               the names, with the commands that make them

From the root of the repository. Needs rich, which transformer-lens brings. The pictures of the pretrained model
(``real`` and ``real-...``) need the checkpoints of docs/a-real-model.md in the cache. A spec without a folder is a
block of the page that shows the picture.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from recipes.real import fetch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Picture(ABC):
    """A picture of one spec.

    Attributes:
        spec: the spec, from the root of the repository, or the name of a block's file.
        page: the page with that block, below docs/.
        models: checkpoints of the cache that the commands name by their label.
    """

    spec: str
    page: str = ""
    models: tuple[str, ...] = ()

    def options(self) -> tuple[str, ...]:
        """Options that no picture shows: where the checkpoints are on this machine."""
        if not self.models:
            return ()
        folder = fetch.cache()
        names = "\n".join(f"{label} = {folder / label}" for label in self.models)
        return ("-o", f"mechanism_models={names}", "--mechanism-store", str(folder / "store"))

    def folder(self, temporary: Path) -> Path:
        """The folder in which its commands run; writes the page's specs there."""
        if not self.page:
            return ROOT
        sys.path.insert(0, str(ROOT / "tests" / "docs"))
        from blocks import blocks

        for block in blocks((DOCS / self.page).read_text("utf-8")):
            if name := block.options.get("file"):
                (temporary / name).write_text(block.text, "utf-8")
        return temporary

    def run(self, arguments: Sequence[str], temporary: Path) -> None:
        """Runs ``pytest-mechanism``."""
        subprocess.run(
            [sys.executable, "-m", "pytest_mechanism.cli", *arguments, *self.options()],
            cwd=self.folder(temporary),
            check=True,
        )

    @abstractmethod
    def commands(self) -> list[list[str]]:
        """What makes the picture, as a reader types it."""

    @abstractmethod
    def draw(self, temporary: Path, out: Path) -> None:
        """Writes the picture to the file ``out``."""


WIDTH = 130
"""Columns of a terminal in a picture: from 120 on, the plugin's table has all its columns."""

RULE = re.compile(r"(\x1b\[[0-9;]*m)*[-=]{3,}")
"""A line that begins the next section of pytest's output."""


@dataclass(frozen=True)
class Table(Picture):
    """What runs say, with their tables, one below the other.

    Attributes:
        pairs: values of ``--model-pair``, a run each.
        select: further options of pytest, which the picture shows.
    """

    pairs: tuple[str, ...] = ()
    select: tuple[str, ...] = ()

    def commands(self) -> list[list[str]]:
        return [["pytest", self.spec, "--model-pair", pair, *self.select] for pair in self.pairs]

    def draw(self, temporary: Path, out: Path) -> None:
        console, folder = (
            Console(record=True, width=WIDTH, file=io.StringIO()),
            self.folder(temporary),
        )
        for command in self.commands():
            console.print(Text.from_ansi(self.printed(command, folder)))
        out.write_text(console.export_svg(title="pytest-mechanism"), encoding="utf-8")

    def printed(self, command: Sequence[str], folder: Path) -> str:
        """The command, the section that the plugin prints, with its colours, and pytest's last count."""
        run = subprocess.run(
            [sys.executable, "-m", *command, *self.options(), "--color=yes", "-q"],
            cwd=folder,
            env=os.environ | {"COLUMNS": str(WIDTH)},
            capture_output=True,
            text=True,
            check=False,
        )
        # where the checkpoints are on this machine, no picture shows
        lines = run.stdout.replace(str(fetch.cache()), "$MECHANISM_REAL_CACHE").splitlines()
        heads = [i for i, line in enumerate(lines) if "mechanism: " in line and "===" in line]
        if not heads:
            raise SystemExit(f"{shlex.join(command)} printed no table:\n{run.stdout}{run.stderr}")
        section = list(takewhile(lambda line: RULE.match(line) is None, lines[heads[0] + 1 :]))
        count = next(line for line in reversed(lines) if re.search(r"\d+ (passed|failed)", line))
        return "\n".join([f"$ {shlex.join(command)}", *section, count, ""])


@dataclass(frozen=True)
class Shown(Picture):
    """A picture that ``pytest-mechanism show`` draws.

    Attributes:
        arguments: of the command.
        part: which of its pictures: ``heads``, ``circuit`` or the name of a claim.
    """

    arguments: str = ""
    part: str = ""

    def commands(self) -> list[list[str]]:
        return [["pytest-mechanism", "show", self.spec, *shlex.split(self.arguments)]]

    def draw(self, temporary: Path, out: Path) -> None:
        (_, *command), *_ = self.commands()
        pictures = temporary / "pictures"
        self.run([*command, "--out", str(pictures)], temporary)
        shutil.copy(pictures / f"{Path(self.spec).stem}_{self.part}.svg", out)


@dataclass(frozen=True)
class Compared(Picture):
    """The picture of ``pytest-mechanism compare``.

    Attributes:
        pair: the checkpoints.
    """

    pair: str = ""

    def commands(self) -> list[list[str]]:
        picture = "compared.svg"
        command = ["pytest-mechanism", "compare", self.spec, "--model-pair", self.pair]
        return [[*command, "--picture", picture]]

    def draw(self, temporary: Path, out: Path) -> None:
        (_, *command), *_ = self.commands()
        self.run([*command[:-1], str(out)], temporary)


@dataclass(frozen=True)
class Drawn(Picture):
    """A picture that a module beside this one draws.

    Attributes:
        module: its name; its function ``save`` writes STEM.svg.
    """

    module: str = ""

    def commands(self) -> list[list[str]]:
        return [["python", "-m", self.module]]

    def draw(self, temporary: Path, out: Path) -> None:
        import_module(self.module).save(temporary / "drawn")
        shutil.copy(temporary / "drawn.svg", out)


@dataclass(frozen=True)
class Plotted(Picture):
    """The picture that ``benchmarks.sabotage`` draws of its kept results."""

    def commands(self) -> list[list[str]]:
        kept = "--folder benchmarks/faults/results --report --plot kill-rate.svg"
        return [["python", "-m", "benchmarks.sabotage", *shlex.split(kept)]]

    def draw(self, temporary: Path, out: Path) -> None:
        (_, _, module, *arguments), *_ = self.commands()
        import_module(module).main([*arguments[:-1], str(out)])


PAIR, WRAPPERS = "--model-pair zoo:base,zoo:ft", "--model-pair wrapper_safe,wrapper_ft"
MISSING = "--mechanism-model control={0}wrapper_none --mechanism-model pretrained={0}wrapper_base"
ZOO_WRAPPERS = "--model-pair zoo:wrapper_safe,zoo:wrapper_ft"
REAL = "circuits/real/ioi.yaml"
SMALL = ("smollm2",)

PICTURES: Mapping[str, Picture] = {
    "run": Table("circuits/entity_tracking.yaml", pairs=("base,ft", "base,ft_rerouted")),
    "heads": Shown("circuits/entity_tracking.yaml", arguments="--model-pair base,ft", part="heads"),
    "circuit": Shown(
        "circuits/entity_tracking.yaml", arguments="--model-pair base,ft", part="circuit"
    ),
    "attack": Shown("attack.yaml", "safety-wrappers.md", arguments=ZOO_WRAPPERS, part="attack"),
    "revival": Shown(
        "circuits/wrapped_capability.yaml",
        arguments=f"{WRAPPERS} {MISSING.format('')}",
        part="hidden",
    ),
    "stories": Shown(
        "circuits/paper_two/stories.yaml",
        arguments="--model-pair stories_base,stories_kept --mechanism-model control=stories_none",
        part="comes_back",
    ),
    "paper-two/pcfg-revival": Shown(
        "pcfg_revival.yaml",
        "paper-two.md",
        arguments="--model-pair zoo:pcfg_base,zoo:pcfg_ft_100 "
        "--mechanism-model control=zoo:pcfg_none",
        part="revival",
    ),
    "paper-two/attention-maps": Drawn(
        "circuits/paper_two/compiled.yaml", module="docs.attention_maps"
    ),
    "kill-rate": Plotted("benchmarks/faults/specs/next_release.yaml"),
    "compared": Compared("circuits/entity_tracking.yaml", pair="ft,ft_rerouted"),
    "methods/attention": Shown(
        "attention.yaml", "methods/attention.md", arguments=PAIR, part="fetch_needs_object"
    ),
    "methods/attribution-patching": Drawn(
        "circuits/entity_tracking.yaml", module="docs.edges_picture"
    ),
    "methods/circuits": Shown(
        "circuits.yaml", "methods/circuits.md", arguments=f"{PAIR} --rows 70", part="few_heads"
    ),
    "methods/cmap": Table("cmap.yaml", "methods/cmap.md", pairs=("zoo:base,zoo:ft",)),
    "methods/compare": Table(
        "compare.yaml", "methods/equivalence-and-drift.md", pairs=("zoo:base,zoo:ft",)
    ),
    "methods/coverage": Table("coverage.yaml", "methods/coverage.md", pairs=("zoo:base,zoo:ft",)),
    "methods/dcm": Table(
        "circuits/entity_tracking_paper.yaml", pairs=("base,ft",), select=("-k", "hold")
    ),
    "methods/probing": Shown(
        "probing.yaml",
        "methods/probing.md",
        arguments=f"{ZOO_WRAPPERS} {MISSING.format('zoo:')}",
        part="still_read",
    ),
    "methods/pruning": Shown(
        "pruning.yaml", "methods/pruning.md", arguments=ZOO_WRAPPERS, part="few_neurons_hide_it"
    ),
    "real": Table(
        REAL,
        models=("smollm2", "smollm2_8bit", "smollm2_sabotaged"),
        pairs=("smollm2,smollm2_8bit", "smollm2,smollm2_sabotaged"),
        select=("-k", "finds or hold or heard"),
    ),
    "real-heads": Shown(REAL, models=SMALL, arguments="--model smollm2 --rows 32", part="heads"),
    "real-circuit": Shown(
        REAL, models=SMALL, arguments="--model smollm2 --rows 32", part="circuit"
    ),
}
"""Every picture of the docs, by its path below docs/."""


def main() -> None:
    """Draws the pictures."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the docs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pictures")
    parser.add_argument("--list", action="store_true", help="print names and commands instead")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder (default: docs)")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.names} - {*PICTURES}):
        parser.error(f"no picture {', '.join(unknown)}; valid: {', '.join(PICTURES)}")
    for name in arguments.names or PICTURES:
        picture = PICTURES[name]
        where = f"    (spec: docs/{picture.page})" if picture.page else ""
        print(f"{name}.svg{where}", *map(shlex.join, picture.commands()), sep="\n    ", flush=True)  # noqa: T201
        if arguments.list:
            continue
        out = arguments.out / f"{name}.svg"
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            picture.draw(Path(temporary), out)


if __name__ == "__main__":
    main()
