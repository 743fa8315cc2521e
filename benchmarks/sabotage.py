"""How good is the gate? Faults that it should see, and benign changes that it should let pass.

    python -m benchmarks.sabotage --folder DIR [--suite release] [--seeds 5] [--minutes M]
    python -m benchmarks.sabotage --folder DIR --report [--json FILE] [--plot FILE]

Each change of the embedded release is written as a checkpoint, measured (`faults.sizes`) and judged by the gate in
this process. The order is drawn once, so that a run that ends early has judged a random sample of the changes. DIR
keeps the results: the same command continues a run that was stopped. First every change with the first seed of rows;
then the benign changes with the other seeds. `faults.rules` says what is counted.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.faults import gate, rules, sizes, tables
from benchmarks.faults.book import Book
from benchmarks.faults.change import Change
from benchmarks.faults.suites import SUITES, Suite

QUICK = ("two labels read alike, 1 (0)", "Hugo said at 0.3", "heads of layer 2 permuted")
"""The changes of ``--quick``: of each suite a fault and a benign change."""


RESULTS = Path(__file__).parent / "faults" / "results"
"""Of the runs in docs/how-good-is-the-gate.md; a copy of this folder continues it."""


class Run:
    """One suite in a folder.

    Attributes:
        suite: what is tested.
        changes: in the order in which they are judged.
    """

    def __init__(self, name: str, folder: Path, *, only: Sequence[str] = ()) -> None:
        self.suite: Suite = SUITES[name]
        self.folder = folder
        (folder / name).mkdir(parents=True, exist_ok=True)
        self.specs_folder = folder / name
        self.results = Book(folder / name / "results.jsonl")
        self.release = Path(self.suite.release).name  # an embedded model has a name alone
        self.sizes = Book(folder / f"sizes-{self.release}.jsonl")
        self.changes = self.suite.changes()
        random.Random("order").shuffle(self.changes)
        if only:
            self.changes = [change for change in self.changes if change.name in only]
        self._scale: sizes.Scale | None = None

    # -- one change

    def made(self, change: Change) -> Path:
        """The changed checkpoint, made once."""
        name = hashlib.sha256(change.name.encode()).hexdigest()[:12]
        folder = self.folder / "changed" / self.release / name
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            change.make(self.suite.shop, folder)
            (folder / "done").touch()
        return folder

    def measure_size(self, change: Change) -> None:
        """Measure the size of a change, once."""
        if change.name in self.sizes:
            return
        if self._scale is None:
            self._scale = sizes.Scale(self.suite.shop.load(), self.suite.texts())
            release = self._scale.size(self.suite.shop.load())
            self.sizes.add("", asdict(release))
        model = sizes.load(self.made(change))
        self.sizes.add(change.name, asdict(self._scale.size(model)))

    def key(self, spec: Path, name: str, seed: int) -> str:
        """Of a change that a spec judged; a changed spec judges again."""
        version = hashlib.sha256(spec.read_bytes()).hexdigest()[:8]
        return f"{spec.stem} {version}/{seed}/{name}"

    def judge(self, name: str, folder: Path, seed: int) -> None:
        """Run the gate on a candidate with a seed of rows, once for each spec."""
        for spec in self.suite.specs:
            if (key := self.key(spec, name, seed)) in self.results:
                continue
            accepted = self.results[self.key(spec, "", seed)]["scores"] if name else {}
            found, scores, seconds = gate.run(
                gate.with_seed(spec, seed, self.specs_folder),
                self.suite.references(folder),
                self.folder / "store",
                accepted,
                self.suite.locate,
            )
            kept = {} if name else scores
            entry = {"judgements": gate.as_data(found), "scores": kept, "seconds": seconds}
            self.results.add(key, entry)

    def is_judged(self, name: str, seed: int) -> bool:
        """Whether every spec has judged a change."""
        return all(self.key(spec, name, seed) in self.results for spec in self.suite.specs)

    def judgements(self, name: str, seed: int) -> list[gate.Judgement]:
        """Of all specs on a change."""
        return [
            gate.Judgement(**data)
            for spec in self.suite.specs
            if (key := self.key(spec, name, seed)) in self.results
            for data in self.results[key]["judgements"]
        ]

    # -- all of them

    def work(self, seeds: int) -> Iterator[tuple[Change, int]]:
        """What is to be judged, in its order."""
        for seed in range(seeds):
            yield from ((c, seed) for c in self.changes if seed == 0 or not c.fault)

    def go(self, seeds: int, until: float, *, judged: bool = True) -> None:
        """Judge changes until a point in time."""
        for change, seed in self.work(seeds):
            if time.time() > until:
                return
            if self.is_judged(change.name, seed) and change.name in self.sizes:
                continue
            self.measure_size(change)
            if judged:
                self.judge("", self.suite.shop.release, seed)
                self.judge(change.name, self.made(change), seed)
            shown = self.sizes[change.name]
            red = [
                judgement.claim for judgement in self.judgements(change.name, seed) if judgement.red
            ]
            print(
                f"{'fault ' if change.fault else 'benign'} seed {seed} {change.name:44} KL {shown['rows']:.4f} "
                f"accuracy {shown['accuracy']:.3f} red: {', '.join(red) or '-'}",
                flush=True,
            )

    def outcomes(self) -> list[rules.Outcome]:
        """What every spec has judged."""
        found = []
        for change, seed in self.work(100):
            if not self.is_judged(change.name, seed):
                continue
            already = rules.unharmed_red(self.judgements("", seed))
            judged = [j for j in self.judgements(change.name, seed) if j.claim not in already]
            found.append(rules.Outcome(change, seed, sizes.Size(**self.sizes[change.name]), judged))
        return found

    @property
    def all_sizes(self) -> dict[str, sizes.Size]:
        return {name: sizes.Size(**entry) for name, entry in self.sizes.entries.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Test the gate with faults and benign changes.")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--suite", action="append", choices=sorted(SUITES), help="the gate; several times"
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds of rows for benign changes")
    parser.add_argument("--minutes", type=float, default=1e6, help="end after so many minutes")
    parser.add_argument("--quick", action="store_true", help="two changes and one seed")
    parser.add_argument("--sizes", action="store_true", help="measure sizes alone, no gate")
    parser.add_argument("--report", action="store_true", help="measure nothing, print the tables")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="file for the picture, SVG")
    typed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    until = time.time() + 60 * typed.minutes
    runs = {
        name: Run(name, typed.folder, only=QUICK if typed.quick else ())
        for name in typed.suite or ["release"]
    }
    if not typed.report:
        for run in runs.values():
            run.go(1 if typed.quick else typed.seeds, until, judged=not typed.sizes)
    for name, run in runs.items():
        print(tables.text(name, run.outcomes(), run.all_sizes, run.changes, run.suite.curve_on))
    tables.write(runs, typed.json, typed.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
