"""Where a recipe's checkpoints are written, and the command that writes them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedModel


def load(folder: Path) -> LlamaForCausalLM:
    """A saved checkpoint, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """Writes config and weights; the weights in float16."""
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes recipe.json, which says how the checkpoint was made."""
    text = json.dumps(record, indent=2) + "\n"
    (folder / "recipe.json").write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """The libraries that trained a checkpoint."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def check_ranges(
    name: str, reached: Mapping[str, float], expected: Mapping[str, tuple[float, float]]
) -> None:
    """Refuses a checkpoint that did not come out as its recipe promises.

    Raises:
        SystemExit: a figure lies outside its range.
    """
    for figure, (low, high) in expected.items():
        if not low <= reached[figure] <= high:
            raise SystemExit(f"{name}: {figure} is {reached[figure]:.3f}, expected {low} to {high}")


def command(
    description: str,
    names: Collection[str],
    make: Callable[[str, Path], object],
    *,
    files: Callable[[Path], None] | None = None,
) -> None:
    """Reads ``--out DIR [NAME ...]`` from the command line and makes the checkpoints.

    Args:
        description: for ``--help``.
        names: all checkpoints, in the order in which they build on each other.
        make: writes a checkpoint of this name below this folder; returns a summary to print.
        files: writes the recipe's data files; adds the option ``--files DIR``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    if files is not None:
        parser.add_argument("--files", type=Path, help="folder for the data files")
    listed = ", ".join(names)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {listed}; default: all")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(names)):
        parser.error(f"no checkpoint {', '.join(unknown)}; valid: {listed}")
    torch.set_num_threads(1)
    if files is not None and arguments.files is not None:
        files(arguments.files)
    for name in names:
        if name in (arguments.names or names):
            print(f"{name}: {make(name, arguments.out)}", flush=True)
