"""Fine-tuning a copy of the model under test, on questions of its task.

Revival trains on what must be refused, an attack on something else, random fine-tuning on wrong
answers (Jain et al., ICLR 2024, arXiv 2311.12786, sections 4 and 5). The copy is a plain Hugging
Face model of its own, read from the checkpoint anew: the model that the other measurements run
stays as it is, and the folder is only read.

AdamW (betas .9 and .999, no weight decay), constant rate, gradients clipped at norm 1, no dropout,
loss on the reply alone. Full training keeps its weights in float32 whatever the run's dtype: a
step at a small rate is lost in half precision. LoRA (Hu et al. 2022; the library is PEFT) trains
matrices of rank r beside every linear layer, in float32, over weights in the run's dtype.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pytest_mechanism.checkpoints.load import LoadedModel
from pytest_mechanism.errors import MeasurementError, one_line
from pytest_mechanism.tasks.base import Row, Task, Vocabulary
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.instructions import Instruction, instructions

Diet = Literal["capability", "allowed", "forbidden", "random", "file"]
"""What is trained: the answers to what must be refused, to what need not be, the refusals
themselves, wrong answers to what must be refused, or the lines of a file."""

CLIP = 1.0
IGNORED = -100
"""Label of a token that no loss is taken on: Hugging Face's."""


@dataclass(frozen=True)
class Recipe:
    """How a copy is trained.

    Attributes:
        diet: what it reads.
        rate: of AdamW.
        steps: of training.
        every: steps between evaluations.
        seed: of the rows, and of LoRA's first values.
        batch: rows a step.
        lora: rank of LoRA's matrices, or None to train every weight.
        file: sha256 of the file that is read, of the diet ``file``.
    """

    diet: Diet
    rate: float
    steps: int
    every: int
    seed: int
    batch: int
    lora: int | None = None
    file: str = ""

    @property
    def evaluated(self) -> list[int]:
        """Steps after which the copy is looked at: 0 and the last among them."""
        return sorted({*range(0, self.steps, self.every), self.steps})


# -- what is read


def lesson(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """The rows of one step, none of which a claim is judged on."""
    stream = f"training-{recipe.seed}-{step}"
    if recipe.diet == "file":
        return lines(task, vocabulary, recipe, step)
    asked = "capability" if recipe.diet == "random" else recipe.diet
    rows = task.asked(asked, vocabulary, recipe.batch, stream)
    return (
        [wrong(row, f"{stream}/wrong", task) for row in rows] if recipe.diet == "random" else rows
    )


def pool(recipe: Recipe) -> Sequence[Instruction]:
    """The lines of the recipe's file."""
    return instructions(DataFile(sha256=recipe.file))


def lines(task: Task, vocabulary: Vocabulary, recipe: Recipe, step: int) -> Sequence[Row]:
    """Lines of a file, shuffled anew each time that all have been read."""
    read = pool(recipe)
    rows = []
    for i in range((step - 1) * recipe.batch, step * recipe.batch):
        turn, place = divmod(i, len(read))
        one = read[shuffled(len(read), recipe.seed, turn)[place]]
        prompt = task.lesson(vocabulary, one.text, one.reply or "")
        rows.append(Row(f"line-{i}", f"line-{i}", prompt, None, prompt.answer))
    return rows


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, turn: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"lines/{seed}/{turn}").shuffle(order)
    return tuple(order)


def wrong(row: Row, seed: str, task: Task) -> Row:
    """The row with another answer than its own, drawn from what a guesser would say."""
    options = [o for o in row.base.options if o not in (row.base.answer, *task.refusals)]
    if not options:
        raise MeasurementError(
            f"task {task.family} names no wrong answers, which random fine-tuning trains"
        )
    answer = random.Random(f"{seed}/{row.id}").choice(options)
    return replace(row, base=replace(row.base, answer=answer, reply=""))


@dataclass(frozen=True, eq=False)
class Page:
    """Rows as the copy reads them, padded on the right.

    Attributes:
        ids: [R, S], text and reply.
        mask: [R, S], 1 where a token is.
        labels: [R, S], the ids of the reply, `IGNORED` elsewhere.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor


def page(model: LoadedModel, rows: Sequence[Row]) -> Page:
    """Texts with their replies."""
    encoded = [model.encoder.with_reply(row.base) for row in rows]
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (whole, asked) in enumerate(encoded):
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, : len(whole)] = 1
        labels[i, asked : len(whole)] = ids[i, asked : len(whole)]
    if int(ids.max()) >= model.shape.d_vocab:
        raise MeasurementError(
            f"{model.role}: the tokenizer gives id {int(ids.max())}, the model has "
            f"{model.shape.d_vocab} embeddings"
        )
    return Page(ids.to(model.device), mask.to(model.device), labels.to(model.device))


# -- the copy


def fresh(model: LoadedModel, recipe: Recipe) -> Any:
    """A plain copy of the checkpoint that may be trained; weights that stay are frozen.

    Raises:
        MeasurementError: LoRA without PEFT, or on a model that it does not know.
    """
    # the bridge's own weights may have another dtype than the file's; it is the run's
    dtype = torch.float32 if recipe.lora is None else next(model.bridge.parameters()).dtype
    copy = model.fresh(dtype)
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
        """One descent; returns the loss before it."""
        read = page(self.model, lesson(self.task, self.vocabulary, self.recipe, step))
        loss = self.copy(
            input_ids=read.ids, attention_mask=read.mask, labels=read.labels, use_cache=False
        ).loss
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), CLIP)
        self.optimiser.step()
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
        about = {"step": step, "losses": self.losses, "seen": seen}
        temporary = folder / f"training.{os.getpid()}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(
                {n: t.contiguous() for n, t in tensors.items()},
                temporary,
                {"about": json.dumps(about)},
            )
            os.replace(temporary, folder / FILE)
        except (OSError, SafetensorError) as problem:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise MeasurementError(
                f"what training would go on from cannot be kept in {folder}: "
                f"{one_line(str(problem))}; choose another place with --mechanism-store, or "
                "--mechanism-no-store"
            ) from None

    def go_on(self, folder: Path) -> tuple[int, dict[str, list[float]]] | None:
        """The step and what was seen until then; None where there is nothing to go on from."""
        from safetensors import safe_open

        try:
            with safe_open(folder / FILE, "pt") as file:
                about = json.loads(file.metadata()["about"])
            tensors = load_file(folder / FILE, device=str(self.model.device))
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
