"""What a method works with: a loaded model, its engine, and the task's rows as token batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.checkpoints.loading.tokenizer_check import check_tokens
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Engine, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.engine.selfcheck import check, disagreement, same_as_plain
from pytest_mechanism.engine.tolerance import TOLERANCE
from pytest_mechanism.errors import MeasurementError, out_of_memory
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.methods.token_batches import Batch, Side, chunks, padded_positions
from pytest_mechanism.progress import Progress
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.base import Prompt, Row, Task, Vocabulary

T = TypeVar("T")


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
        rounding: see `methods.rounding_error`; None unless arithmetic is in half precision.
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
    rounding: float | None = None
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
        count = math.ceil(len(rows) / self.batch_size)
        for chunk in chunks(rows, self.batch_size):
            yield self.batch(chunk, count)

    def tick(self, rows: int) -> None:
        """Report rows that went through a forward outside the engine."""
        if self.engine.tick is not None:
            self.engine.tick(rows)

    def batch(self, rows: Sequence[Row], batches: int = 0) -> Batch:
        """Some rows for the model, of a number of such batches (`Tokens.batches`)."""
        sources = [row.source for row in rows]
        return Batch(
            rows=rows,
            base=self.side([row.base for row in rows], batches),
            source=self.side([s for s in sources if s is not None]) if all(sources) else None,
            answers=self.answer_ids([(row.base, row.base.answer) for row in rows]),
            targets=self.answer_ids([(row.base, row.target) for row in rows]),
            correct_answers=self.answer_id_sets(
                [(row.base, row.base.correct_answers) for row in rows]
            ),
            correct_targets=self.answer_id_sets([(row.base, row.correct_targets) for row in rows]),
        )

    def side(self, prompts: Sequence[Prompt], batches: int = 0) -> Side:
        """Token ids, padded on the right, and positions; for ``batches``, see `Tokens`."""
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
            Tokens(ids.to(device), lengths.to(device), batches),
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

    def other_options(self, rows: Sequence[Row]) -> Int[Tensor, "rows others"]:
        """Ids of the options of each prompt that are no right answer, -1 where a row has fewer.

        Raises:
            MeasurementError: a prompt has none, or one that is not a token.
        """
        answers = [
            (row.base, [word for word in row.base.options if word not in row.base.correct_answers])
            for row in rows
        ]
        for prompt, words in answers:
            if not words:
                raise MeasurementError(
                    f"a logit difference needs options other than the answer, and the prompt "
                    f"{prompt.text[:100]!r} has none; valid here: of: accuracy, log_probability"
                )
        return self.answer_id_sets(answers)

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


def make_context(
    model: LoadedModel,
    task: Task,
    vocabulary: Vocabulary,
    options: ModelOptions,
    progress: Progress,
    rows: Sequence[Row],
    known: tuple[str | None, float | None] | None = None,
) -> MeasurementContext:
    """A context whose model has passed the self-checks on ``rows``, with the requested engine where
    that can run the model, else the reference engine.

    Args:
        model: just loaded.
        task: writes rows.
        vocabulary: of all tokenizers.
        options: device, batch size, engine.
        progress: reports rows.
        rows: for the self-checks.
        known: ``fallback_reason`` and ``rounding`` of this checkpoint's last context, if it has passed on these
            rows before. That the weights were read and wrapped well is checked all the same.

    Raises:
        SelfCheckError: the model has not passed.
    """
    reference = ReferenceEngine(model.wrapped)
    context = MeasurementContext(model, reference, task, vocabulary, options.batch_size)
    half = len(rows) // 2
    clean = context.side([row.base for row in rows[:half]]).tokens
    other = context.side([row.base for row in rows[half:]]).tokens
    if known is None:
        check(model, reference, clean, other)
    else:
        same_as_plain(model, TOLERANCE[model.dtype])
    prompts = [p for row in rows for p in (row.base, row.source) if p is not None]
    check_tokens(model.encoder, prompts, options.trust.remote_code)
    if options.engine != reference.name:
        faster = BranchEngine(model.wrapped)
        context.fallback_reason = (
            disagreement(model, reference, faster, clean, other) if known is None else known[0]
        )
        if context.fallback_reason is None:
            context.engine = faster
    if known is not None:
        context.rounding = known[1]
    elif model.dtype in (torch.bfloat16, torch.float16):
        from pytest_mechanism.methods.rounding_error import rounding_error

        context.rounding = rounding_error(context, reference, rows)
    context.engine.tick = progress.advance
    return context
