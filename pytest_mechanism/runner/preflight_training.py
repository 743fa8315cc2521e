"""What a training will need, checked before a checkpoint is loaded: lessons and disk space."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.recipe import Recipe, training_rows
from pytest_mechanism.tasks.base import Task, Vocabulary
from pytest_mechanism.tasks.text.encoding import Encoder

KEPT = 2 * 3 * 4
"""Bytes a weight that an unfinished training keeps: itself and AdamW's two moments in float32, and
the same again while one file replaces another."""

FLOAT32 = 4
"""Bytes a weight of a checkpoint that training writes."""


def check_lessons(task: Task, vocabulary: Vocabulary, encoder: Encoder, recipe: Recipe) -> None:
    """The first step's rows can be written, and their replies have tokens.

    Raises:
        MechanismError: they cannot, or LoRA is asked for without its library.
    """
    if recipe.lora is not None and importlib.util.find_spec("peft") is None:
        raise MeasurementError("lora needs the library PEFT: pip install 'pytest-mechanism[peft]'")
    rows = training_rows(task, vocabulary, recipe, 1)
    if not rows:
        raise MeasurementError(f"task {task.family} wrote no rows to train on")
    for row in rows:
        encoder.reply_ids(row.base)


def check_disk(folder: Path, checkpoint: Path, bytes_a_weight: int = KEPT, flag: str = "") -> None:
    """The folder's disk can hold what a full training of the checkpoint writes.

    Raises:
        MeasurementError: it cannot.
    """
    above = next((p for p in (folder, *folder.absolute().parents) if p.exists()), None)
    if above is None:
        return
    free, wanted = shutil.disk_usage(above).free, weights(checkpoint) * bytes_a_weight
    if free < wanted:
        what = flag or (
            "an interrupted training goes on from what it keeps there; choose another place with "
            "--mechanism-store, or --mechanism-no-store"
        )
        raise MeasurementError(
            f"{folder} has {free / 1e9:.1f} GB free, training this checkpoint takes up to "
            f"{wanted / 1e9:.1f} GB: {what}"
        )


def weights(checkpoint: Path) -> int:
    """How many weights a checkpoint's safetensors hold, from their headers; 0 where none says."""
    return sum(held(path) for path in checkpoint.glob("*.safetensors"))


def held(path: Path) -> int:
    """How many numbers are in one file; 0 where it is damaged, which loading will say."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                return 0
            header = json.loads(file.read(size))
        return sum(
            math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0
