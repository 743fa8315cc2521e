"""Trains compiled programs as Jain et al. do (ICLR 2024, arXiv 2311.12786, section 4 and appendix).

A program has three blocks there; blocks without weights, which change nothing, make ours as deep. Noise on
every weight (N(0, .001) in the paper, less here) lets a gradient reach all of them. Then SGD with momentum,
with warm-up and cosine decay, on the letter or the rank that the program was not compiled for.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pytest_mechanism.measurements.descent import Descent
from pytest_mechanism.model_families.tracr import TracrForCausalLM, TracrLayer, register
from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.tasks.families.program import Program
from pytest_mechanism.tasks.text.encoding import Encoder
from recipes.folders import versions, write_record
from recipes.trainer import train

BLOCKS = 3
NOISE = 1e-4
"""Standard deviation of the noise on every weight."""

TESTED = 500
"""Texts of each accuracy."""


@dataclass(frozen=True)
class Training:
    """How a program is fine-tuned.

    Attributes:
        rate: the highest learning rate; the paper has 1e-1, 1e-2, 1e-3 and 1e-4.
        correlated: share of the texts with one more of the new letter than of the old one, or None.
        steps: the paper takes 10,000.
        batch: texts in a step; the paper takes 96.
        warm_up: the paper takes 2,000.
        seed: of the texts.
    """

    rate: float
    correlated: float | None = None
    steps: int = 1000
    batch: int = 32
    warm_up: int = 200
    seed: int = 1

    @property
    def descent(self) -> Descent:
        return Descent("sgd", momentum=0.9, warm_up=self.warm_up, decay="cosine")


def read(folder: Path) -> Any:
    """A saved program, in float32."""
    register()
    return TracrForCausalLM.from_pretrained(folder, dtype=torch.float32)


def deepened(model: Any, seed: int) -> Any:
    """The program with `BLOCKS` blocks and noise on every weight."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in range(len(model.layers), BLOCKS):
            block = TracrLayer(model.config, layer)
            for parameter in block.parameters():
                parameter.zero_()
            model.layers.append(block)
        model.config.num_hidden_layers = len(model.layers)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=NOISE)
    return model


def untrained(model: Any, seed: int) -> Any:
    """A model of the same shape and unembedding that was never compiled: weights N(0, 1 / inputs)."""
    torch.manual_seed(seed)
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for layer in fresh.layers:
            for parameter in layer.parameters():
                parameter.zero_()
                if parameter.dim() == 2:
                    parameter.normal_(0.0, parameter.shape[1] ** -0.5)
    return fresh


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts as token ids.

    Attributes:
        ids: [R, S], padded on the right.
        last: [R], place of the last word.
        answers: [R].
    """

    ids: Tensor
    last: Tensor
    answers: Tensor


def encoded(rows: list[Row], encoder: Encoder) -> Texts:
    ids = [encoder.tokenizer.encode(row.base.text).ids for row in rows]
    longest = max(map(len, ids))
    padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
    answers = [encoder.tokenizer.token_to_id(row.base.answer) for row in rows]
    return Texts(padded, torch.tensor([len(row) - 1 for row in ids]), torch.tensor(answers))


def logits(model: Any, texts: Texts) -> Tensor:
    """Logits at the last word of each text, [R, V]."""
    rows = torch.arange(len(texts.last))
    mask = torch.arange(texts.ids.shape[1]) <= texts.last[:, None]
    out: Tensor = model(texts.ids, attention_mask=mask.long()).logits[rows, texts.last]
    return out


def accuracy(model: Any, rows: list[Row], encoder: Encoder) -> float:
    texts = encoded(rows, encoder)
    with torch.no_grad():
        right = logits(model, texts).argmax(-1) == texts.answers
    return float(right.double().mean())


def fine_tuned(model: Any, task: Program, encoder: Encoder, training: Training) -> Any:
    """A copy of the program, trained on what ``instead`` says.

    The trainer clips gradients at norm 1. Compiled MLPs have weights of 100, and without a limit the paper's two
    larger learning rates end in NaN here.
    """
    trained = copy.deepcopy(model).train()
    texts = task if training.correlated is None else task.with_correlation(training.correlated)

    def batches() -> Iterator[Texts]:
        for step in range(training.steps):
            stream = f"compiled/{training.seed}/{step}"
            yield encoded([*texts.allowed(AnyWord(), training.batch, stream)], encoder)

    train(
        [*trained.parameters()],
        batches(),
        lambda batch: cross_entropy(logits(trained, batch), batch.answers),
        rate=training.rate,
        descent=training.descent,
        steps=training.steps,
    )
    return trained.eval()


def started(
    folder: Path, task: Program, training: Training | None, seed: int, *, compiled: bool = True
) -> Any:
    """A program, or a model of its shape that was never compiled, after a training if there is one.

    Args:
        folder: of the program.
        task: whose ``instead`` is trained.
        training: None leaves the model as it is.
        seed: of the noise, and of random weights.
        compiled: False for random weights.
    """
    model = deepened(read(folder), seed)
    if not compiled:
        model = untrained(model, seed)
    if training is None:
        return model.eval()
    return fine_tuned(model, task, Encoder.load(folder), training)


def accuracies(model: Any, task: Program, encoder: Encoder) -> dict[str, float]:
    """Accuracies on what the program was compiled for (``of``) and on what was trained (``instead``)."""
    sets = {"of": task.capability, "instead": task.allowed}
    return {
        key: accuracy(model, [*rows(AnyWord(), TESTED, "recipe")], encoder)
        for key, rows in sets.items()
    }


def write(
    model: Any,
    program: Path,
    out: Path,
    *,
    recipe: str,
    name: str,
    seed: int,
    training: Training | None,
    reached: Mapping[str, float],
) -> None:
    """Writes a checkpoint's folder.

    Args:
        model: the model.
        program: folder with the program's tokenizer.
        out: the folder.
        recipe: module that made the model.
        name: of the program, in recipes/programs.
        seed: of the noise, and of random weights.
        training: None if there was none.
        reached: its `accuracies`.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    (out / "generation_config.json").unlink(missing_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(program / file, out / file)
    write_record(
        out,
        {
            "recipe": recipe, "program": f"recipes/programs/{name}", "blocks": BLOCKS, "noise": NOISE,
            "seed": seed, "training": training and asdict(training), "accuracy": reached, **versions(),
        },
    )  # fmt: skip
