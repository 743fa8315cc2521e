"""What a method has at hand: a loaded model, its engine, and rows as token batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.checkpoints.loading.tokenizer_check import check_tokens
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Engine, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.engine.selfcheck import check, disagreement
from pytest_mechanism.errors import MeasurementError, SelfCheckError, one_line, out_of_memory
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
    """One side (base or source) of a batch of rows.

    Attributes:
        tokens: the batch.
        places: named position -> [R, K], the last token of each word; rows with fewer places
            repeat their last one.
        slots: for each row, (anchor, offset) of each token.
        firsts: named position -> [R, K], the first token of each word.
    """

    tokens: Tokens
    places: dict[str, Tensor]
    slots: tuple[tuple[tuple[str, int], ...], ...]
    firsts: dict[str, Tensor] = field(default_factory=dict)

    def at(self, name: str) -> Tensor:
        """Token positions of a named position, [R, K]; ``name.first`` is a word's first token.

        Raises:
            MeasurementError: these prompts have no such position.
        """
        known = self.places | {f"{place}.first": at for place, at in self.firsts.items()}
        if (place := name.removesuffix(".last")) not in known:
            raise MeasurementError(
                f"the task's prompts have no position {name!r} here; valid: "
                f"{', '.join(sorted(self.places))}"
            )
        return known[place]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows, ready for the model.

    Attributes:
        rows: as the task wrote them.
        base: the prompts that are answered.
        source: the prompts that activations come from, where the rows have one.
        answers: [R], id of the base prompt's own answer.
        targets: [R], id of the row's target.
        accepted: [R, A], ids of every right answer, -1 where a row has fewer.
        wanted: [R, A], ids of every right target.
    """

    rows: Sequence[Row]
    base: Side
    source: Side | None
    answers: Tensor
    targets: Tensor
    accepted: Tensor
    wanted: Tensor

    def the_source(self) -> Side:
        if self.source is None:
            raise MeasurementError("these rows have no source prompt to patch from")
        return self.source


@dataclass
class MeasurementContext:
    """A loaded model and everything a method needs beside it.

    Attributes:
        model: the checkpoint.
        engine: runs it.
        task: writes rows.
        vocabulary: words that every tokenizer of the run keeps whole.
        batch_size: rows in one forward.
        memo: intermediate results shared by the methods that run while the model is loaded.
        without: why the engine that was asked for cannot be used with this model, or None.
        scratch: a folder of the measurement that runs, for what a long one wants to go on from if
            it is interrupted; it need not exist yet, and is removed when the measurement is done.
            None where nothing may be written.
    """

    model: LoadedModel
    engine: Engine
    task: Task
    vocabulary: Vocabulary
    batch_size: int
    memo: dict[Hashable, Any] = field(default_factory=dict)
    without: str | None = None
    scratch: Path | None = None

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """Compute once while the model is loaded."""
        if key not in self.memo:
            made = make()
            self.check_finite()  # whoever gets it next has not seen what it was made of
            self.memo[key] = made
        found: T = self.memo[key]
        return found

    def measured(self, method: Callable[..., T], request: Request, inputs: Sequence[Any]) -> T:
        """A method's result, taken from numbers alone.

        Raises:
            MeasurementError: the model gave NaN or infinity on some row.
        """
        self.engine.non_finite.clear()
        try:
            found = method(self, request, inputs)
        except Exception as problem:
            if not out_of_memory(problem):
                self.check_finite()  # which may be why
            raise
        self.check_finite()
        return found

    def check_finite(self) -> None:
        """All that came out of the model since this was last asked is numbers.

        Raises:
            MeasurementError: some of it is NaN or infinite.
        """
        if not (rows := self.engine.non_finite.take()):
            return
        text = self.model.encoder.tokenizer.decode(rows[0], skip_special_tokens=False)
        many = "one batch row" if len(rows) == 1 else f"{len(rows)} batch rows"
        raise MeasurementError(
            f"{self.model.role}: what the model gives is not a finite number (NaN or infinity) on "
            f"{many}, first {text[:100]!r}, so nothing is measured on it; "
            "--mechanism-dtype float32 has more room than half precision"
        )

    def batches(self, rows: Sequence[Row]) -> Iterator[Batch]:
        """Rows in chunks of the batch size."""
        yield from map(self.batch, chunks(rows, self.batch_size))

    def tick(self, rows: int) -> None:
        """Tell whoever watches that so many rows went through a forward outside the engine."""
        if self.engine.tick is not None:
            self.engine.tick(rows)

    def batch(self, rows: Sequence[Row]) -> Batch:
        sources = [row.source for row in rows]
        return Batch(
            rows=rows,
            base=self.side([row.base for row in rows]),
            source=self.side([s for s in sources if s is not None]) if all(sources) else None,
            answers=self.words([(row.base, row.base.answer) for row in rows]),
            targets=self.words([(row.base, row.target) for row in rows]),
            accepted=self.sets([(row.base, row.base.correct_answers) for row in rows]),
            wanted=self.sets([(row.base, row.correct_targets) for row in rows]),
        )

    def side(self, prompts: Sequence[Prompt]) -> Side:
        """Token ids, padded on the right, and positions."""
        if not prompts:
            raise MeasurementError(f"task {self.task.family} wrote no prompts for a batch")
        encoded = [self.model.encoder.encode(prompt) for prompt in prompts]
        longest = max(len(e.ids) for e in encoded)
        ids = torch.zeros(len(encoded), longest, dtype=torch.long)
        for i, each in enumerate(encoded):
            ids[i, : len(each.ids)] = torch.tensor(each.ids)
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
                name: places([e.positions[name] for e in encoded]).to(device)
                for name in encoded[0].positions
                if all(e.positions.get(name) for e in encoded)
            },
            tuple(e.slots for e in encoded),
            {
                name: places([e.first_positions[name] for e in encoded]).to(device)
                for name in encoded[0].first_positions
                if all(e.first_positions.get(name) for e in encoded)
            },
        )

    def words(self, words: Sequence[tuple[Prompt, str]]) -> Tensor:
        """[R] ids of words as they follow a prompt."""
        return torch.tensor([self.word(*each) for each in words], device=self.model.device)

    def sets(self, several: Sequence[tuple[Prompt, Sequence[str]]]) -> Tensor:
        """[R, A] ids of sets of words as they follow a prompt, -1 where a row has fewer."""
        most = max(len(words) for _, words in several)
        rows = [
            [self.word(prompt, word) for word in words] + [-1] * (most - len(words))
            for prompt, words in several
        ]
        return torch.tensor(rows, device=self.model.device)

    def word(self, prompt: Prompt, word: str) -> int:
        """The id of a word that follows a prompt."""
        token = self.model.encoder.answer_id(prompt, word)
        if token is None:
            raise MeasurementError(
                f"{self.model.role}: {word!r} is not one token of its own after "
                f"{prompt.text[-60:]!r}"
            )
        return token


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Rows in parts of at most so many."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def places(found: Sequence[Sequence[int]]) -> Tensor:
    """[R, K]; a row with fewer places repeats its last one, which edits it again to the same."""
    most = max(map(len, found))
    return torch.tensor([[*each, *[each[-1]] * (most - len(each))] for each in found])


@dataclass
class Columns:
    """Collects values batch by batch, where they are: bringing each over as it comes would leave a
    GPU idle until the next branches are sent to it."""

    found: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        # a copy, which keeps nothing else of what it was taken from
        self.found.setdefault(name, []).append(values.detach().clone())

    def add_answers(self, prefix: str, logits: Tensor, wanted: Tensor) -> None:
        """``{prefix}correct`` and ``{prefix}log_probability`` of wanted ids ([R, A]), from
        [R, V]."""
        self.add(f"{prefix}correct", correct(logits, wanted))
        self.add(f"{prefix}log_probability", log_probability(logits, wanted))

    def observations(self, rows: Sequence[Row]) -> Observations:
        """The columns of these rows."""
        return self.result(Observations, rows)

    def result(self, kind: type[R], rows: Sequence[Row], **fields: Any) -> R:
        """The columns of these rows, and the other fields of a subclass of `Observations`."""
        values = {
            name: torch.cat(parts).cpu().double().numpy() for name, parts in self.found.items()
        }
        for name, column in values.items():
            if not (fine := np.isfinite(column)).all():
                row = rows[int(np.argmin(fine))]
                raise MeasurementError(
                    f"{name} is not a finite number on {int((~fine).sum())} of {len(fine)} rows, "
                    f"first {row.id}: {row.base.text[:100]!r}"
                )
        return kind(tuple(r.id for r in rows), tuple(r.cluster for r in rows), values, **fields)


def make_bench(
    model: LoadedModel,
    task: Task,
    vocabulary: Vocabulary,
    options: ModelOptions,
    progress: Progress,
    rows: Sequence[Row],
) -> MeasurementContext:
    """A bench whose model has passed the self-checks on ``rows``.

    Raises:
        SelfCheckError: it has not.
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
        context.without = disagreement(model, reference, faster, clean, other)
        if context.without is None:
            try:
                check(model, faster, clean, other)
                context.engine = faster
            except SelfCheckError as problem:  # the reference has passed the same checks
                context.without = str(problem)
            except Exception as problem:  # layers that were not made to be called like this
                context.without = one_line(f"{type(problem).__name__}: {problem}")
    context.engine.tick = progress.advance
    return context
