"""What a method works with: a loaded model, its engine, and the task's rows as token batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.checkpoints.loading.tokenizer_check import check_tokens
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Engine, Positions, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.engine.selfcheck import check, disagreement
from pytest_mechanism.errors import MeasurementError, out_of_memory
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.methods.readout import correct, log_probability
from pytest_mechanism.progress import Progress
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.base import Prompt, Row, Task, Vocabulary
from pytest_mechanism.types import Observations

T = TypeVar("T")
R = TypeVar("R", bound=Observations)


@dataclass(frozen=True, eq=False)
class Side:
    """The base prompts or the source prompts of a batch of rows.

    Attributes:
        tokens: the batch.
        positions: named position -> the last token of each of its words; rows with fewer words
            repeat their last one.
        slots: for each row, (anchor, offset) of each token.
        first_positions: named position -> the first token of each word.
    """

    tokens: Tokens
    positions: dict[str, Int[Tensor, "_ _"]]
    slots: tuple[tuple[tuple[str, int], ...], ...]
    first_positions: dict[str, Int[Tensor, "_ _"]] = field(default_factory=dict)

    def at(self, name: str) -> Positions:
        """Token positions of a named position; ``name.first`` is the first token of a word.

        Raises:
            MeasurementError: these prompts have no such position.
        """
        firsts = {f"{place}.first": at for place, at in self.first_positions.items()}
        known = self.positions | firsts
        if (place := name.removesuffix(".last")) not in known:
            raise MeasurementError(
                f"the task's prompts have no position {name!r} here; valid: "
                f"{', '.join(sorted(self.positions))}"
            )
        return known[place]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows, ready for the model.

    Attributes:
        rows: as the task wrote them.
        base: the prompts that are answered.
        source: the prompts that activations come from, where the rows have one.
        answers: id of the base prompt's own answer.
        targets: id of the row's target.
        correct_answers: ids of every right answer, -1 where a row has fewer.
        correct_targets: ids of every right target, likewise.
    """

    rows: Sequence[Row]
    base: Side
    source: Side | None
    answers: Int[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    correct_answers: Int[Tensor, "rows answers"]
    correct_targets: Int[Tensor, "rows targets"]

    def require_source(self) -> Side:
        """The source prompts.

        Raises:
            MeasurementError: the rows have none.
        """
        if self.source is None:
            raise MeasurementError("these rows have no source prompt to patch from")
        return self.source


@dataclass
class MeasurementContext:
    """A loaded model and everything else that a method needs.

    Attributes:
        model: the checkpoint.
        engine: runs it.
        task: writes rows.
        vocabulary: words that every tokenizer of the run keeps whole.
        batch_size: rows in one forward.
        cache: intermediate results that methods share while the model is loaded.
        fallback_reason: why the requested engine cannot run this model; None where it can.
        scratch: folder in which the running measurement may save its progress, to resume after an
            interrupt; it need not exist yet, and is removed when the measurement is done. None where
            nothing may be written.
    """

    model: LoadedModel
    engine: Engine
    task: Task
    vocabulary: Vocabulary
    batch_size: int
    cache: dict[Hashable, Any] = field(default_factory=dict)
    fallback_reason: str | None = None
    scratch: Path | None = None

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Compute once while the model is loaded."""
        if key not in self.cache:
            value = compute()
            self.check_finite()  # later users of the value do not see what it was computed from
            self.cache[key] = value
        cached: T = self.cache[key]
        return cached

    def run_method(self, method: Callable[..., T], request: Request, inputs: Sequence[Any]) -> T:
        """A method's result, if the model gave finite numbers alone.

        Raises:
            MeasurementError: the model gave NaN or infinity on some row.
        """
        self.engine.non_finite.clear()
        try:
            result = method(self, request, inputs)
        except Exception as problem:
            if not out_of_memory(problem):
                self.check_finite()  # NaN may have caused the exception
            raise
        self.check_finite()
        return result

    def check_finite(self) -> None:
        """Everything that the model gave since the last check is finite.

        Raises:
            MeasurementError: some of it is NaN or infinite.
        """
        if not (rows := self.engine.non_finite.take()):
            return
        text = self.model.encoder.tokenizer.decode(rows[0], skip_special_tokens=False)
        count = "one batch row" if len(rows) == 1 else f"{len(rows)} batch rows"
        raise MeasurementError(
            f"{self.model.role}: the model's output is not a finite number (NaN or infinity) on "
            f"{count}, first {text[:100]!r}, so nothing is measured on it; "
            "--mechanism-dtype float32 has more range than half precision"
        )

    def batches(self, rows: Sequence[Row]) -> Iterator[Batch]:
        """Rows in chunks of the batch size."""
        yield from map(self.batch, chunks(rows, self.batch_size))

    def tick(self, rows: int) -> None:
        """Report rows that went through a forward outside the engine."""
        if self.engine.tick is not None:
            self.engine.tick(rows)

    def batch(self, rows: Sequence[Row]) -> Batch:
        sources = [row.source for row in rows]
        return Batch(
            rows=rows,
            base=self.side([row.base for row in rows]),
            source=self.side([s for s in sources if s is not None]) if all(sources) else None,
            answers=self.answer_ids([(row.base, row.base.answer) for row in rows]),
            targets=self.answer_ids([(row.base, row.target) for row in rows]),
            correct_answers=self.answer_id_sets(
                [(row.base, row.base.correct_answers) for row in rows]
            ),
            correct_targets=self.answer_id_sets([(row.base, row.correct_targets) for row in rows]),
        )

    def side(self, prompts: Sequence[Prompt]) -> Side:
        """Token ids, padded on the right, and positions."""
        if not prompts:
            raise MeasurementError(f"task {self.task.family} wrote no prompts for a batch")
        encoded = [self.model.encoder.encode(prompt) for prompt in prompts]
        longest = max(len(e.ids) for e in encoded)
        ids = torch.zeros(len(encoded), longest, dtype=torch.long)
        for i, prompt_tokens in enumerate(encoded):
            ids[i, : len(prompt_tokens.ids)] = torch.tensor(prompt_tokens.ids)
        if int(ids.max()) >= self.model.shape.d_vocab:
            raise MeasurementError(
                f"{self.model.role}: the tokenizer gives id {int(ids.max())}, the model has "
                f"{self.model.shape.d_vocab} embeddings"
            )
        lengths = torch.tensor([len(e.ids) for e in encoded])
        device = self.model.device
        return Side(
            Tokens(ids.to(device), lengths.to(device)),
            {
                name: padded_positions([e.positions[name] for e in encoded]).to(device)
                for name in encoded[0].positions
                if all(e.positions.get(name) for e in encoded)
            },
            tuple(e.slots for e in encoded),
            {
                name: padded_positions([e.first_positions[name] for e in encoded]).to(device)
                for name in encoded[0].first_positions
                if all(e.first_positions.get(name) for e in encoded)
            },
        )

    def answer_ids(self, answers: Sequence[tuple[Prompt, str]]) -> Int[Tensor, " rows"]:
        """Ids of words as they follow a prompt."""
        ids = [self.answer_id(prompt, word) for prompt, word in answers]
        return torch.tensor(ids, device=self.model.device)

    def answer_id_sets(
        self, answers: Sequence[tuple[Prompt, Sequence[str]]]
    ) -> Int[Tensor, "rows answers"]:
        """Ids of sets of words as they follow a prompt, -1 where a row has fewer."""
        most = max(len(words) for _, words in answers)
        rows = [
            [self.answer_id(prompt, word) for word in words] + [-1] * (most - len(words))
            for prompt, words in answers
        ]
        return torch.tensor(rows, device=self.model.device)

    def answer_id(self, prompt: Prompt, word: str) -> int:
        """The id of a word that follows a prompt.

        Raises:
            MeasurementError: the word is not one token there.
        """
        token = self.model.encoder.answer_id(prompt, word)
        if token is None:
            raise MeasurementError(
                f"{self.model.role}: {word!r} is not one token of its own after "
                f"{prompt.text[-60:]!r}"
            )
        return token


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Rows in parts of at most ``size``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def padded_positions(rows: Sequence[Sequence[int]]) -> Positions:
    """Positions of each row; a row with fewer repeats its last one, so an edit there is made twice
    with the same value."""
    most = max(map(len, rows))
    return torch.tensor([[*places, *[places[-1]] * (most - len(places))] for places in rows])


@dataclass
class Columns:
    """Collects a result's columns batch by batch, on the model's device: to copy each value as it
    comes would leave a GPU idle until it gets the next branches."""

    parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, name: str, values: Shaped[Tensor, " rows"]) -> None:
        # a copy, so that the tensor it is a view of can be freed
        self.parts.setdefault(name, []).append(values.detach().clone())

    def add_answers(
        self,
        prefix: str,
        logits: Float[Tensor, "rows words"],
        answers: Int[Tensor, "rows answers"],
    ) -> None:
        """Columns ``{prefix}correct`` and ``{prefix}log_probability`` of right answers."""
        self.add(f"{prefix}correct", correct(logits, answers))
        self.add(f"{prefix}log_probability", log_probability(logits, answers))

    def observations(self, rows: Sequence[Row]) -> Observations:
        """The columns of these rows."""
        return self.result(Observations, rows)

    def result(self, kind: type[R], rows: Sequence[Row], **fields: Any) -> R:
        """The columns of these rows, and the other fields of a subclass of `Observations`."""
        values = {
            name: torch.cat(parts).cpu().double().numpy() for name, parts in self.parts.items()
        }
        for name, column in values.items():
            if not (fine := np.isfinite(column)).all():
                row = rows[int(np.argmin(fine))]
                raise MeasurementError(
                    f"{name} is not a finite number on {int((~fine).sum())} of {len(fine)} rows, "
                    f"first {row.id}: {row.base.text[:100]!r}"
                )
        return kind(tuple(r.id for r in rows), tuple(r.cluster for r in rows), values, **fields)


def make_context(
    model: LoadedModel,
    task: Task,
    vocabulary: Vocabulary,
    options: ModelOptions,
    progress: Progress,
    rows: Sequence[Row],
) -> MeasurementContext:
    """A context whose model has passed the self-checks on ``rows``, with the requested engine where
    that can run the model, else the reference engine.

    Raises:
        SelfCheckError: the model has not passed.
    """
    reference = ReferenceEngine(model.wrapped)
    context = MeasurementContext(model, reference, task, vocabulary, options.batch_size)
    half = len(rows) // 2
    clean = context.side([row.base for row in rows[:half]]).tokens
    other = context.side([row.base for row in rows[half:]]).tokens
    check(model, reference, clean, other)
    prompts = [p for row in rows for p in (row.base, row.source) if p is not None]
    check_tokens(model.encoder, prompts, options.trust.remote_code)
    if options.engine != reference.name:
        faster = BranchEngine(model.wrapped)
        context.fallback_reason = disagreement(model, reference, faster, clean, other)
        if context.fallback_reason is None:
            context.engine = faster
    context.engine.tick = progress.advance
    return context
