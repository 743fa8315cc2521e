"""Unharmed candidates with seeds that no change of a suite has: what they change gives the suite's claims their limits.

`stories`, `wrapper` and `real` have commands that make such candidates and measure them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.faults import gate
from benchmarks.faults.change import Make
from pytest_mechanism.spec.load import load

if TYPE_CHECKING:
    from benchmarks.faults.suites import Suite


def read_folder(description: str) -> Path:
    """The folder on the command line, for candidates and measurements. Pins one thread."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, required=True)
    torch.set_num_threads(1)
    folder: Path = parser.parse_args().folder
    return folder


def candidate(suite: Suite, seed: int, make: Make, folder: Path) -> Path:
    """A candidate's checkpoint, made once."""
    made = folder / f"fresh-{seed}"
    if not made.exists():
        made.mkdir(parents=True)
        make(suite.shop, made)
    return made


def scores(
    suite: Suite, spec: Path, claims: Sequence[str], seed: int, made: Path, folder: Path
) -> Iterator[tuple[str, float, float, float]]:
    """Of each claim its score on a candidate, on rows of this seed, with the ends of the interval; prints them."""
    loaded = load(gate.with_seed(spec, seed, folder))
    names = [claim.partition(".")[0] for claim in claims]
    loaded = loaded.model_copy(update={"claims": {name: loaded.claims[name] for name in names}})
    evaluator = gate.evaluator(suite.references(made), folder / "store")
    _, found = gate.judge(evaluator, loaded, {}, locate=False)
    for claim in claims:
        value, (low, high) = found[claim]["value"], found[claim]["interval"]
        print(f"seed {seed}: {claim} {value:+.5f} [{low:+.5f}, {high:+.5f}]", flush=True)
        yield claim, value, low, high
