"""Compiled programs at each learning rate of Jain et al. (2024): the table of docs/paper-two.md.

    python -m recipes.compiled_rates [counter] [largest] --out DIR [--seed 1 2 3]

Writes ``counter``, ``counter_none``, ``counter_1e-1`` and so on (for a seed other than 1 with ``_seed2`` behind it)
below the folder, leaves out what is there, and prints the accuracies. Eighteen models take about five minutes.

``counter``
    compiled to count ``a``, fine-tuned to count ``b``.
``largest``
    the max-identifier: compiled to find the 5th largest letter, fine-tuned to find the 3rd.
``..._none``
    never compiled: random weights, trained on the new task alone, at 1e-1. The control of a revival.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from pytest_mechanism.checkpoints.tracr import compiled_folder
from pytest_mechanism.tasks.families.program import Program, ProgramParameters
from pytest_mechanism.tasks.text.encoding import Encoder
from recipes.compiled_training import TESTED, Training, accuracies, started, write
from recipes.pcfg_table import Cell

PROGRAMS = Path(__file__).parent / "programs"
TASKS = {
    "counter": Program(ProgramParameters(family="program", of="a", instead="b", rows=500)),
    "largest": Program(
        ProgramParameters(
            family="program", program="rank", of=5, instead=3, shortest=6, longest=9, rows=500
        )
    ),
}
"""Program -> what it was compiled for (``of``), and what it is fine-tuned for (``instead``)."""

RATES = ("1e-1", "1e-2", "1e-3", "1e-4")


def variants(program: str) -> dict[str, Training | None]:
    """Name of a model -> its training."""
    return {
        program: None,
        f"{program}_none": Training(1e-1),
        **{f"{program}_{rate}": Training(float(rate)) for rate in RATES},
    }


def make(name: str, program: str, seed: int, below: Path) -> Path:
    """Makes one model, unless its folder is complete; returns the folder."""
    out = below / (name if seed == 1 else f"{name}_seed{seed}")
    if (out / "recipe.json").is_file():
        return out
    task, training = TASKS[program], variants(program)[name]
    training = training and replace(training, seed=seed)
    folder = compiled_folder(f"tracr:{PROGRAMS / program}", Path())
    model = started(folder, task, training, seed, compiled=not name.endswith("_none"))
    write(
        model, folder, out, recipe="recipes.compiled_rates", name=program, seed=seed,
        training=training, reached=accuracies(model, task, Encoder.load(folder)),
    )  # fmt: skip
    return out


def line(name: str, folders: dict[int, Path]) -> str:
    """Mean over the seeds, and the interval that holds for each of them."""
    read = {seed: json.loads((out / "recipe.json").read_text()) for seed, out in folders.items()}
    old, new = (
        Cell({s: r["accuracy"][key] for s, r in read.items()}, TESTED) for key in ("of", "instead")
    )
    return f"{name}: old {old}, new {new}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.compiled_rates")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of weights and texts")
    parser.add_argument("programs", nargs="*", help=f"of {', '.join(TASKS)}; default: all")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.programs} - {*TASKS}):
        parser.error(f"no program {', '.join(unknown)}; valid: {', '.join(TASKS)}")
    torch.set_num_threads(1)
    for program in arguments.programs or TASKS:
        for name in variants(program):
            folders = {seed: make(name, program, seed, arguments.out) for seed in arguments.seed}
            print(line(name, folders), flush=True)


if __name__ == "__main__":
    main()
