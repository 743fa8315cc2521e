"""What a training needs, checked before a checkpoint is loaded: training rows and disk space."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path

from pytest_mechanism.checkpoints import gguf_file
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.files import is_gguf
from pytest_mechanism.measurements.recipe import Recipe, training_rows
from pytest_mechanism.tasks.base import Task, Vocabulary
from pytest_mechanism.tasks.text.encoding import Encoder

FLOAT32 = 4
"""Bytes for each weight of a checkpoint in float32."""


def check_training_rows(
    task: Task, vocabulary: Vocabulary, encoder: Encoder, recipe: Recipe
) -> None:
    """Checks that the rows of the first step can be written and that their replies have tokens.

    Raises:
        MechanismError: they cannot, or PEFT is missing for LoRA.
    """
    if recipe.lora is not None and importlib.util.find_spec("peft") is None:
        raise MeasurementError("lora needs the library PEFT: pip install 'pytest-mechanism[peft]'")
    rows = training_rows(task, vocabulary, recipe, 1)
    if not rows:
        raise MeasurementError(f"task {task.family} wrote no rows to train on")
    for row in rows:
        encoder.reply_ids(row.base)
    if recipe.first is not None:
        check_training_rows(task, vocabulary, encoder, recipe.first)


def unfinished(recipe: Recipe) -> int:
    """Bytes for each weight of an unfinished training: the weight, and what the optimiser remembers of it,
    in float32, twice while one file replaces another; with those of an earlier training."""
    first = 0 if recipe.first is None else unfinished(recipe.first)
    return first + 2 * FLOAT32 * (1 + recipe.descent.state_copies)


def check_disk(folder: Path, checkpoint: Path, bytes_per_weight: int, advice: str = "") -> None:
    """Checks that the folder's disk can hold what a full training of the checkpoint writes.

    Raises:
        MeasurementError: it cannot.
    """
    existing = next((p for p in (folder, *folder.absolute().parents) if p.exists()), None)
    if existing is None:
        return
    free = shutil.disk_usage(existing).free
    needed = weights(checkpoint) * bytes_per_weight
    if free < needed:
        advice = advice or (
            "an interrupted training resumes from there; choose another folder with "
            "--mechanism-store, or --mechanism-no-store"
        )
        raise MeasurementError(
            f"{folder} has {free / 1e9:.1f} GB free, training this checkpoint takes up to "
            f"{needed / 1e9:.1f} GB: {advice}"
        )


def weights(checkpoint: Path) -> int:
    """Number of weights in a checkpoint, by the headers of its files."""
    if is_gguf(checkpoint):
        return gguf_file.weights_in(checkpoint)
    return sum(weights_in(path) for path in checkpoint.glob("*.safetensors"))


def weights_in(path: Path) -> int:
    """Number of weights in one file; 0 if it is damaged, which loading will report."""
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
