"""What a method has at hand: a loaded model, its engine, and rows as token batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pytest_mechanism.checkpoints.load import LoadedModel
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Engine, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.engine.selfcheck import check, disagreement
from pytest_mechanism.errors import MeasurementError, SelfCheckError, one_line
from pytest_mechanism.runner.options import Options
from pytest_mechanism.runner.progress import Progress
from pytest_mechanism.tasks.base import Prompt, Row, Task, Vocabulary
from pytest_mechanism.tasks.encoding import Encoded
from pytest_mechanism.types import Observations

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Side:
    """One side (base or source) of a batch of rows.

    Attributes:
        tokens: the batch.
        places: named position -> [R, K]; rows with fewer places repeat their last one.
        slots: for each row, (anchor, offset) of each token.
    """

    tokens: Tokens
    places: dict[str, Tensor]
    slots: tuple[tuple[tuple[str, int], ...], ...]

    def at(self, name: str) -> Tensor:
        """Token positions of a named position, [R, K].

        Raises:
            MeasurementError: these prompts have no such position.
        """
        if name not in self.places:
            raise MeasurementError(
                f"the task's prompts have no position {name!r} here; valid: "
                f"{', '.join(sorted(self.places))}"
            )
        return self.places[name]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows, ready for the model.

    Attributes:
        rows: as the task wrote them.
        base: the prompts that are answered.
        source: the prompts that activations come from, where the rows have one.
        answers: [R], id of the base prompt's own answer.
        targets: [R], id of the row's target.
    """

    rows: Sequence[Row]
    base: Side
    source: Side | None
    answers: Tensor
    targets: Tensor

    def the_source(self) -> Side:
        if self.source is None:
            raise MeasurementError("these rows have no source prompt to patch from")
        return self.source


@dataclass
class Bench:
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
            self.memo[key] = make()
        found: T = self.memo[key]
        return found

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
            answers=self.words([row.base.answer for row in rows]),
            targets=self.words([row.target for row in rows]),
        )

    def side(self, prompts: Sequence[Prompt]) -> Side:
        """Token ids, padded on the right, and positions."""
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
            {name: places(encoded, name).to(device) for name in encoded[0].places},
            tuple(e.slots for e in encoded),
        )

    def words(self, words: Sequence[str]) -> Tensor:
        """[R] ids of words as they follow a text."""
        found = [self.model.encoder.word(word) for word in words]
        for word, token in zip(words, found, strict=True):
            if token is None:
                raise MeasurementError(f"{self.model.role}: {word!r} is not one token here")
        return torch.tensor(found, device=self.model.device)


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Rows in parts of at most so many."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def places(encoded: Sequence[Encoded], name: str) -> Tensor:
    """[R, K]; a row with fewer places repeats its last one, which edits it again to the same."""
    most = max(len(e.places[name]) for e in encoded)
    rows = [
        [*e.places[name], *[e.places[name][-1]] * (most - len(e.places[name]))] for e in encoded
    ]
    return torch.tensor(rows)


Column = NDArray[np.float64]


@dataclass
class Columns:
    """Collects values batch by batch."""

    found: dict[str, list[Column]] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        self.found.setdefault(name, []).append(values.detach().double().cpu().numpy())

    def add_answers(self, prefix: str, logits: Tensor, wanted: Tensor) -> None:
        """``{prefix}correct`` and ``{prefix}log_probability`` of wanted ids, from [R, V]."""
        self.add(f"{prefix}correct", logits.argmax(-1) == wanted)
        chosen = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
        self.add(f"{prefix}log_probability", chosen)

    def observations(self, rows: Sequence[Row], **facts: str) -> Observations:
        values = {name: np.concatenate(parts) for name, parts in self.found.items()}
        for name, column in values.items():
            if not np.isfinite(column).all():
                raise MeasurementError(f"{name} is not a finite number on every row")
        return Observations(
            tuple(r.id for r in rows),
            tuple(r.cluster for r in rows),
            values,
            facts,
        )


def make_bench(
    model: LoadedModel,
    task: Task,
    vocabulary: Vocabulary,
    options: Options,
    progress: Progress,
    rows: Sequence[Row],
) -> Bench:
    """A bench whose model has passed the self-checks on ``rows``.

    Raises:
        SelfCheckError: it has not.
    """
    reference = ReferenceEngine(model.bridge)
    bench = Bench(model, reference, task, vocabulary, options.batch_size)
    half = len(rows) // 2
    clean = bench.side([row.base for row in rows[:half]]).tokens
    other = bench.side([row.base for row in rows[half:]]).tokens
    check(model, reference, clean, other)
    if options.engine != reference.name:
        faster = BranchEngine(model.bridge)
        bench.without = disagreement(model, reference, faster, clean, other)
        if bench.without is None:
            try:
                check(model, faster, clean, other)
                bench.engine = faster
            except SelfCheckError as problem:  # the reference has passed the same checks
                bench.without = str(problem)
            except Exception as problem:  # layers that were not made to be called like this
                bench.without = one_line(f"{type(problem).__name__}: {problem}")
    bench.engine.tick = progress.advance
    return bench
