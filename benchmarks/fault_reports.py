"""The reports of red runs on planted faults, for somebody who does not know the faults.

    python -m benchmarks.fault_reports --folder results --out reports [--count 10] [--seed 17]

Draws faults among those that a run of `benchmarks.sabotage` judged red, and runs pytest on each: what a release
engineer sees in CI, 80 columns wide. ``01.txt`` ... hold the reports without a hint of the fault; ``truth.json`` has
the faults.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.faults.change import Change
from benchmarks.sabotage import Run

SEED = 17
"""Of the draw."""


def drawn(run: Run, count: int, seed: int) -> list[Change]:
    """Faults that were judged red, at random."""
    red = [o.change for o in run.outcomes() if o.change.fault and o.seed == 0 and o.seen()]
    names = random.Random(seed).sample(sorted(change.name for change in red), count)
    by_name = {change.name: change for change in red}
    return [by_name[name] for name in names]


def command(reference: str, label: str, store: Path) -> list[str]:
    """The run of the gate on the folder ``./candidate``."""
    pair = f"--model-pair={reference},{label}=./candidate"
    store_option = f"--mechanism-store={store.resolve()}"
    return [sys.executable, "-m", "pytest", "gate", pair, store_option, "-p", "no:cacheprovider"]


def called(arguments: Sequence[str], where: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CI": "true", "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    return subprocess.run(  # noqa: S603 - this interpreter
        arguments, cwd=where, env=environment, capture_output=True, text=True, check=False
    )


def truth(change: Change) -> Mapping[str, str | None]:
    """What was done."""
    return {
        "fault": change.name,
        "kind": change.kind,
        "strength": change.strength,
        "hurt": change.hurt,
        "taker": change.taker,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Reports of planted faults, to be read blindly.")
    parser.add_argument(
        "--folder", type=Path, required=True, help="of a run of benchmarks.sabotage"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--count", type=int, default=10, help="how many faults")
    parser.add_argument("--seed", type=int, default=SEED, help="of the draw")
    typed = parser.parse_args(arguments)
    run = Run("release", typed.folder)
    store = typed.folder / "store"
    typed.out.mkdir(parents=True, exist_ok=True)
    faults = drawn(run, typed.count, typed.seed)
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        (here / "gate").mkdir()
        for spec in run.suite.specs:
            shutil.copy(spec, here / "gate")
        for number, change in enumerate([None, *faults]):
            candidate = here / "candidate"
            shutil.rmtree(candidate, ignore_errors=True)
            made = run.suite.shop.release if change is None else run.made(change)
            shutil.copytree(made, candidate, ignore=shutil.ignore_patterns("done"))
            line = command(run.suite.reference, run.suite.label, store)
            if change is None:  # accept the scores of the release
                called([*line, "--snapshot-update"], here)
                continue
            report = called(line, here).stdout.replace(str(here), "/release")
            (typed.out / f"{number:02}.txt").write_text(report, encoding="utf-8")
            print(f"{number:02}.txt", flush=True)
    content = {f"{i:02}": truth(change) for i, change in enumerate(faults, 1)}
    (typed.out / "truth.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
