"""Fine-tunes a copy of the model under test on rows of its task.

Revival trains on prompts that must be refused, an attack on other prompts, random fine-tuning on wrong
answers (Jain et al., ICLR 2024, arXiv 2311.12786, sections 4 and 5). The copy is a separate plain
Hugging Face model: the model of the other measurements and the checkpoint's folder do not change.

    loss = -mean over reply tokens t of log P(t | tokens before t)

AdamW (betas .9 and .999, no weight decay) at a constant learning rate, or what the recipe names
instead (`measurements.descent`); gradients clipped at norm 1, no dropout. Full fine-tuning keeps its
weights in float32 whatever the dtype of the run, since half precision would lose steps at a low
learning rate. LoRA (Hu et al. 2022, with the library PEFT) trains matrices of rank r beside all linear
layers, in float32, over weights in the dtype of the run; the experts that a mixture has in one tensor
are not linear layers and stay frozen.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.checkpoints.trust import MOST_WEIGHTS
from pytest_mechanism.errors import MeasurementError, one_line
from pytest_mechanism.files import check_file, replacing
from pytest_mechanism.measurements.recipe import Recipe, training_rows
from pytest_mechanism.methods.weights.batches import make_batch
from pytest_mechanism.methods.weights.optimiser import (
    descend,
    make_optimiser,
    set_rates,
    state_names,
)
from pytest_mechanism.tasks.base import Task, Vocabulary

CLIP = 1.0


# -- the copy


def dtype_of(model: LoadedModel, recipe: Recipe) -> torch.dtype:
    """Of the weights of a copy that a recipe trains."""
    return torch.float32 if recipe.lora is None else model.dtype


def trainable_copy(model: LoadedModel, recipe: Recipe, plain: Any = None) -> Any:
    """A plain copy of the checkpoint, with gradients for the weights to train.

    Args:
        model: the checkpoint.
        recipe: of the training.
        plain: the copy; read from the checkpoint where it is left out.

    Raises:
        MeasurementError: LoRA without PEFT, or on a model that PEFT does not support.
    """
    copy = model.read_plain_model(dtype_of(model, recipe)) if plain is None else plain
    return copy if recipe.lora is None else with_lora(copy, recipe.lora, recipe.seed)


def with_lora(copy: Any, rank: int, seed: int) -> Any:
    """Adds LoRA to all linear layers except the unembedding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MeasurementError(
            "lora needs the library PEFT: pip install 'pytest-mechanism[peft]'"
        ) from None
    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(copy, settings, autocast_adapter_dtype=True)
        except ValueError as problem:
            raise MeasurementError(f"lora: PEFT cannot adapt this model: {problem}") from None
    return adapted.eval()


def save_trained(copy: Any, folder: Path) -> None:
    """Writes config and safetensors, with LoRA's matrices merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged(copy).save_pretrained(folder)


def merged(copy: Any) -> Any:
    """The plain model of a copy, with LoRA's matrices merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.merge_and_unload() if hasattr(copy, "merge_and_unload") else copy


# -- training


@dataclass
class Training:
    """The training of a copy. Iterate over `evaluations`.

    Attributes:
        model: the checkpoint.
        task: writes the training rows.
        vocabulary: words that all tokenizers of the run keep whole.
        recipe: how the copy is trained.
        copy: of the checkpoint, trained in place.
        losses: mean loss between each evaluation and the one before it.
        diverged: at which step training broke down, and how; or None.
    """

    model: LoadedModel
    task: Task
    vocabulary: Vocabulary
    recipe: Recipe
    copy: Any
    losses: list[float] = field(default_factory=list)
    diverged: str | None = None

    def __post_init__(self) -> None:
        self.trained = {n: p for n, p in self.copy.named_parameters() if p.requires_grad}
        groups = [{"params": list(self.trained.values()), "lr": self.recipe.rate}]
        self.optimiser = make_optimiser(groups, self.recipe.descent)

    def evaluations(self, start: int = 0) -> Iterator[int]:
        """Trains, and yields each step after ``start`` at which the copy is to be evaluated.

        Ends early if training breaks down, with a loss or a weight that is NaN or infinite.
        """
        since: list[float] = []
        stops = set(self.recipe.evaluated)
        for step in range(start + 1, self.recipe.steps + 1):
            loss = self.step(step)
            since.append(loss)
            if not math.isfinite(loss):
                self.diverged = f"the loss is {loss} at step {step}"
                return
            if step in stops:
                if not all(bool(torch.isfinite(p).all()) for p in self.trained.values()):
                    self.diverged = f"a weight is not finite at step {step}"
                    return
                self.losses.append(sum(since) / len(since))
                since = []
                yield step

    def step(self, step: int) -> float:
        """One optimiser step; returns the loss before it."""
        rows = training_rows(self.task, self.vocabulary, self.recipe, step)
        loss = make_batch(self.model, rows).loss(self.copy)
        set_rates(self.optimiser, self.recipe.descent.share(step, self.recipe.steps))
        descend(loss, self.optimiser, list(self.trained.values()), CLIP)
        return float(loss.detach())

    # -- resuming

    def save(self, folder: Path, step: int, columns: dict[str, list[float]]) -> None:
        """Writes the state of the training atomically, with the columns measured so far.

        Raises:
            MeasurementError: it cannot be written.
        """
        tensors = {f"weight/{n}": p.detach() for n, p in self.trained.items()}
        for name, parameter in self.trained.items():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{key}/{name}"] = value
        tensors = {n: t.contiguous() for n, t in tensors.items()}
        progress = json.dumps({"step": step, "losses": self.losses, "columns": columns})
        metadata = {"progress": progress, "sha256": checksum(folder.name, progress, tensors)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / FILE, durable=False) as temporary:
                save_file(tensors, temporary, metadata)
        except (OSError, SafetensorError) as problem:
            raise MeasurementError(
                f"the state of the training cannot be saved in {folder}: {one_line(str(problem))}; "
                "choose another folder with --mechanism-store, or use --mechanism-no-store"
            ) from None

    def resume(self, folder: Path) -> tuple[int, dict[str, list[float]]] | None:
        """Restores a saved state and returns its step and columns; None if there is none, or if it is
        damaged or belongs to another measurement."""
        from safetensors import safe_open

        try:
            check_file(folder / FILE, MOST_WEIGHTS)
            with safe_open(folder / FILE, "pt") as file:
                metadata = file.metadata()
            tensors = load_file(folder / FILE, device=str(self.model.device))
            if metadata["sha256"] != checksum(folder.name, metadata["progress"], tensors):
                return None
            progress = json.loads(metadata["progress"])
            keys = state_names(self.recipe.descent)
            states = {
                name: {key: tensors[f"{key}/{name}"] for key in keys} for name in self.trained
            }
            weights = {name: tensors[f"weight/{name}"] for name in self.trained}
        except Exception:  # missing or damaged: training starts again
            return None
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])
                self.optimiser.state[parameter] = states[name]
        for state in self.optimiser.state.values():
            if "step" in state:
                state["step"] = state["step"].cpu()
        self.losses = list(progress["losses"])
        return int(progress["step"]), dict(progress["columns"])


FILE = "training.safetensors"


def checksum(key: str, progress: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of the state of a training, with the key of its measurement."""
    digest = hashlib.sha256(f"{key}\n{progress}\n".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
