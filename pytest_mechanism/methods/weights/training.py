"""Fine-tuning a copy of the model under test, on questions of its task.

Revival trains on what must be refused, an attack on something else, random fine-tuning on wrong
answers (Jain et al., ICLR 2024, arXiv 2311.12786, sections 4 and 5). The copy is a plain Hugging
Face model of its own, read from the checkpoint anew: the model that the other measurements run
stays as it is, and the folder is only read.

AdamW (betas .9 and .999, no weight decay), constant rate, gradients clipped at norm 1, no dropout,
loss on the reply alone. Full training keeps its weights in float32 whatever the run's dtype: a
step at a small rate is lost in half precision. LoRA (Hu et al. 2022; the library is PEFT) trains
matrices of rank r beside every linear layer, in float32, over weights in the run's dtype; experts
that a mixture keeps in one tensor are no linear layers, and stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from pytest_mechanism.methods.weights.batches import page
from pytest_mechanism.tasks.base import Task, Vocabulary

CLIP = 1.0


def descend(
    loss: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[torch.nn.Parameter],
    clip: float,
) -> None:
    """One optimiser step down the gradient of ``loss``, clipped at the norm ``clip``."""
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()


# -- the copy


def fresh(model: LoadedModel, recipe: Recipe) -> Any:
    """A plain copy of the checkpoint that may be trained; weights that stay are frozen.

    Raises:
        MeasurementError: LoRA without PEFT, or on a model that it does not know.
    """
    copy = model.read_plain_model(torch.float32 if recipe.lora is None else model.dtype)
    return copy if recipe.lora is None else with_adapters(copy, recipe.lora, recipe.seed)


def with_adapters(copy: Any, rank: int, seed: int) -> Any:
    """LoRA beside every linear layer but the one that gives logits."""
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
    """Config and weights as safetensors; LoRA's matrices are merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = copy.merge_and_unload() if hasattr(copy, "merge_and_unload") else copy
        plain.save_pretrained(folder)


# -- training


@dataclass
class Training:
    """A copy on its way. Iterate over `stops`.

    Attributes:
        model: the checkpoint that the copy is of.
        task: writes the rows.
        vocabulary: words that every tokenizer of the run keeps whole.
        recipe: how it is trained.
        copy: trained in place.
        losses: mean loss since the evaluation before, one for each evaluation after step 0.
        diverged: at which step training broke down and how, or None.
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
        self.optimiser = torch.optim.AdamW(
            list(self.trained.values()), self.recipe.rate, weight_decay=0.0
        )

    def stops(self, start: int = 0) -> Iterator[int]:
        """Trains, and yields each step at which the copy is to be looked at (not ``start``).

        Ends early where training breaks down: a loss, or at a stop a weight, that is not finite.
        """
        since: list[float] = []
        stops = set(self.recipe.evaluation_steps)
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
        """One descent; returns the loss before it."""
        read = page(self.model, training_rows(self.task, self.vocabulary, self.recipe, step))
        loss = read.loss(self.copy)
        descend(loss, self.optimiser, list(self.trained.values()), CLIP)
        return float(loss.detach())

    # -- interrupted and gone on with

    def save(self, folder: Path, step: int, seen: dict[str, list[float]]) -> None:
        """Everything that going on needs, so that a reader sees all of it or nothing.

        Raises:
            MeasurementError: it cannot be written.
        """
        tensors = {f"weight/{n}": p.detach() for n, p in self.trained.items()}
        for name, parameter in self.trained.items():
            for what, value in self.optimiser.state[parameter].items():
                tensors[f"{what}/{name}"] = value
        tensors = {n: t.contiguous() for n, t in tensors.items()}
        about = json.dumps({"step": step, "losses": self.losses, "seen": seen})
        facts = {"about": about, "sha256": checksum(folder.name, about, tensors)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / FILE, durable=False) as temporary:
                save_file(tensors, temporary, facts)
        except (OSError, SafetensorError) as problem:
            raise MeasurementError(
                f"what training would go on from cannot be kept in {folder}: "
                f"{one_line(str(problem))}; choose another place with --mechanism-store, or "
                "--mechanism-no-store"
            ) from None

    def go_on(self, folder: Path) -> tuple[int, dict[str, list[float]]] | None:
        """The step and what was seen until then; None where there is nothing to go on from, or what
        is there is damaged or another measurement's."""
        from safetensors import safe_open

        try:
            check_file(folder / FILE, MOST_WEIGHTS)
            with safe_open(folder / FILE, "pt") as file:
                facts = file.metadata()
            tensors = load_file(folder / FILE, device=str(self.model.device))
            if facts["sha256"] != checksum(folder.name, facts["about"], tensors):
                return None
            about = json.loads(facts["about"])
            states = {
                name: {
                    what: tensors[f"{what}/{name}"] for what in ("step", "exp_avg", "exp_avg_sq")
                }
                for name in self.trained
            }
            weights = {name: tensors[f"weight/{name}"] for name in self.trained}
        except Exception:  # missing or damaged: training starts anew
            return None
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])
                self.optimiser.state[parameter] = states[name]
        for state in self.optimiser.state.values():
            state["step"] = state["step"].cpu()
        self.losses = list(about["losses"])
        return int(about["step"]), dict(about["seen"])


FILE = "training.safetensors"


def checksum(key: str, about: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of what training goes on from, and of the measurement that it belongs to."""
    found = hashlib.sha256(f"{key}\n{about}\n".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
