"""Models that read strings of a grammar: a capability, and the fine-tunings that hide it.

    python -m recipes.pcfg --out DIR [NAME ...] [--seed N] [--size small|small_low_rate|paper] [--device cuda]
    python -m recipes.pcfg --out DIR --table --seed 1 2 3

After Jain et al., ICLR 2024 (arXiv 2311.12786), section 5. A name is a model of a seed:

pcfg_base
    Pre-trained to count, asked about ``a`` in 999 of 1,000 questions and about ``b`` else (the
    paper's prior L).

pcfg_none
    The same, but always asked about ``c``: it never had the capability. The control.

pcfg_ft_0, pcfg_ft_50, pcfg_ft_80, pcfg_ft_100
    The base, fine-tuned to count ``b``; in 0, 50, 80 or 100 % of the strings (C_Tr), the count of
    ``b`` is one more than that of ``a``.

A killed command that is started again goes on where it was. One kind of machine with one thread
writes the same bytes each time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recipes.folders import load, save_half, versions, write_record
from recipes.pcfg_data import NEVER, DataMix
from recipes.pcfg_rates import BATCH, ROWS, rates
from recipes.pcfg_table import as_data, markdown, table
from recipes.pcfg_training import SIZES, Size, Stage, train
from recipes.trainer import OPTIMISER, new_model
from recipes.word_level import save_tokenizer

SHARES = (0.0, 0.5, 0.8, 1.0)
"""The paper's values of C_Tr."""

BASE, NONE = "pcfg_base", "pcfg_none"


def fine_tuned(share: float) -> str:
    """The name of the model that was fine-tuned at this C_Tr."""
    return f"pcfg_ft_{100 * share:.0f}"


NAMES = (BASE, NONE, *map(fine_tuned, SHARES))


def stages(size: Size, seed: int) -> dict[str, Stage]:
    """The training of each model. Models of one seed have initial weights in common."""

    def pretrained(prior: str) -> Stage:
        mix = DataMix(seed=seed, prior=prior, rows=size.rows)
        return Stage(mix, seed=seed, **size.pretraining)

    tuned = {
        fine_tuned(share): Stage(
            DataMix(seed=1000 + seed, correlated=share, rows=size.rows),
            seed=seed,
            start=BASE,
            **size.fine_tuning,
        )
        for share in SHARES
    }
    return {BASE: pretrained("L"), NONE: pretrained(NEVER), **tuned}


def folder_of(out: Path, name: str, seed: int) -> Path:
    """The model's folder: its name, with the seed where that is not 1."""
    return out / (name if seed == 1 else f"{name}_seed{seed}")


def make(
    name: str,
    out: Path,
    *,
    seed: int = 1,
    size: str = "small",
    device: str = "cpu",
    steps: int | None = None,
) -> Path:
    """Trains a model, and the one from which it starts, unless their folders are finished.

    Args:
        name: of the model.
        out: folder for the models.
        seed: of weights and rows.
        size: a key of `SIZES`.
        device: of the training.
        steps: ends each training early; for trying a size out.

    Raises:
        SystemExit: a folder holds the same model, made with other settings.
    """
    folder, of = folder_of(out, name, seed), SIZES[size]
    stage = stages(of, seed)[name]
    made_of = {"stage": asdict(stage), "shape": asdict(of.shape), "world": asdict(of.world)}
    if (folder / "recipe.json").exists():
        check_made(folder, {**made_of, "stopped_after": steps})
        return folder
    if stage.start:
        model = load(
            make(stage.start, out, seed=seed, size=size, device=device, steps=steps)
        ).train()
    else:
        model = new_model(of.shape, of.world.ids, stage.seed)
    model.to(device)
    train(
        model,
        stage,
        of.world,
        out / "unfinished" / f"{folder.name}.pt",
        stop_after=steps,
        after_step=lambda done, loss: report(folder.name, done, loss),
    )
    save_half(model.cpu(), folder)
    save_tokenizer(folder, of.world.ids, of.shape.longest)
    asked = ROWS if steps is None else BATCH
    record: dict[str, Any] = {
        "made_by": f"python -m recipes.pcfg --size {size} --seed {seed} {name}",
        **made_of,
        "optimiser": asdict(OPTIMISER),
        "accuracy": {**rates(load(folder), of.world, asked), "rows": asked},
        "versions": versions(),
    }
    if steps is not None:
        record["stopped_after"] = steps
    write_record(folder, record)
    return folder


def check_made(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Check that a finished model was made of the same settings.

    Raises:
        SystemExit: it was not.
    """
    record = json.loads((folder / "recipe.json").read_text("utf-8"))
    for key, value in made_of.items():
        if record.get(key) != json.loads(json.dumps(value)):
            raise SystemExit(
                f"{folder} was made with another {key}; remove it or name another --out"
            )


def report(name: str, done: int, loss: float) -> None:
    if done % 100 == 0:
        print(f"{name}: step {done}, loss {loss:.3f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the models that read strings of a grammar.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--size", choices=[*SIZES], default="small", help="of models and strings")
    parser.add_argument("--device", default="cpu", help="where models are trained, as in cuda")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of weights and rows")
    parser.add_argument("--steps", type=int, help="end each training early, to try a size out")
    parser.add_argument(
        "--table",
        action="store_true",
        help="print the paper's table, and write it to DIR/table.json",
    )
    listed = ", ".join(NAMES)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {listed}; default: all")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"no model {', '.join(unknown)}; valid: {listed}")
    if given.steps is not None and given.steps < 1:
        parser.error("--steps: at least 1")
    torch.set_num_threads(1)
    folders: dict[tuple[str, int], Path] = {}
    for seed in given.seed:
        for name in given.names or NAMES:
            folders[name, seed] = make(
                name, given.out, seed=seed, size=given.size, device=given.device, steps=given.steps
            )
    if given.table:
        accuracies = table(folders)
        (given.out / "table.json").write_text(as_data(accuracies), encoding="utf-8")
        print(markdown(accuracies))


if __name__ == "__main__":
    main()
