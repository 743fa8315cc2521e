"""What the entity-tracking checkpoints read: a word-level tokenizer and batches of token ids.

The text is that of the task (`pytest_mechanism.tasks.families.entity_tracking`). Writing it word by word
in Python would take longer than training on it, so `batch` places the same tokens with array
operations, and `same_text` shows that they are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.tasks.families.entity_tracking import (
    Context,
    EntityTracking,
    EntityTrackingParameters,
)
from pytest_mechanism.tasks.writing.words import FILLERS, LABELS, OBJECTS
from recipes import word_level
from recipes.word_level import BOS, PAD, UNKNOWN

TEMPLATE = ("The", "the", "is", "in", "Box", "contains", ",", ".")

VARIATIONS = tuple(
    "There are a bunch of boxes containing objects these contain contained not and b c box".split()  # noqa: SIM905
)
"""Words that only the paper's variations of the template use; no checkpoint was trained on them."""

VOCABULARY = (PAD, UNKNOWN, BOS, *TEMPLATE, *VARIATIONS, *LABELS, *FILLERS, *OBJECTS)

IDS = {word: i for i, word in enumerate(VOCABULARY)}

Ints = NDArray[np.int64]


def tokenizer() -> PreTrainedTokenizerFast:
    return word_level.tokenizer(IDS)


def save_tokenizer(folder: Path, longest: int) -> None:
    word_level.save_tokenizer(folder, IDS, longest)


@dataclass(frozen=True)
class Batch:
    """Contexts of equally many boxes, each asked several times; padded on the right.

    Attributes:
        ids: (rows, tokens) what the model reads.
        last: (rows, queries) where each answer is due.
        query_label: (rows, queries) where each query names its box.
        asked: (rows, queries) which box, counted in the order of the text.
        answers: (rows, queries) the object in it.
        objects: (rows, boxes) where the context names the objects.
        labels: (rows, boxes) where the context names the boxes.
    """

    ids: torch.Tensor
    last: torch.Tensor
    query_label: torch.Tensor
    asked: torch.Tensor
    answers: torch.Tensor
    objects: torch.Tensor
    labels: torch.Tensor


def distinct(rng: np.random.Generator, words: Sequence[str], rows: int, count: int) -> Ints:
    """(rows, count) ids of words, none twice in a row."""
    ids = np.array([IDS[word] for word in words])
    return ids[rng.random((rows, len(words))).argsort(axis=1)[:, :count]]


def batch(rng: np.random.Generator, rows: int, boxes: int, fillers: int, queries: int) -> Batch:
    """Contexts with 0 to ``fillers`` filler words, asked about ``queries`` boxes, repeats allowed.

    With repeats, because models that are asked about each box once learn to eliminate instead.
    """
    row = np.arange(rows)[:, None]
    items = distinct(rng, OBJECTS, rows, boxes)
    names = distinct(rng, LABELS, rows, boxes)
    asked = rng.integers(boxes, size=(rows, queries))

    how_many = rng.integers(fillers + 1, size=(rows, 1))
    filled = rng.random((rows, boxes)).argsort(axis=1).argsort(axis=1) < how_many
    # a segment is ", the OBJECT is [FILLER] in Box LABEL"; the first has no comma
    ends = 1 + np.cumsum(7 + filled, axis=1) - 1
    starts = ends - (7 + filled)
    begins = ends[:, -1:] + 6 * np.arange(queries)  # ". Box LABEL contains the OBJECT"

    ids = np.full((rows, ends.max() + 6 * queries), IDS[PAD])

    def write(where: Ints, what: Ints | int) -> None:
        ids[row, where] = what

    for offset, word in enumerate((",", "the")):
        write(starts + offset, IDS[word])
    write(starts + 2, items)
    write(starts + 3, IDS["is"])
    fill = rng.choice([IDS[word] for word in FILLERS], size=(rows, boxes))
    write(starts + 4, np.where(filled, fill, IDS["in"]))  # overwritten below where not filled
    for offset, word in ((3, "in"), (2, "Box")):
        write(ends - offset, IDS[word])
    write(ends - 1, names)
    ids[:, 0], ids[:, 1] = IDS[BOS], IDS["The"]  # over the comma and the "the" of segment 0

    for offset, word in ((0, "."), (1, "Box"), (3, "contains"), (4, "the")):
        write(begins + offset, IDS[word])
    write(begins + 2, names[row, asked])
    write(begins + 5, items[row, asked])

    return Batch(
        ids=torch.from_numpy(ids[:, :-1]),
        last=torch.from_numpy(begins + 4),
        query_label=torch.from_numpy(begins + 2),
        asked=torch.from_numpy(asked),
        answers=torch.from_numpy(items[row, asked]),
        objects=torch.from_numpy(starts + 2),
        labels=torch.from_numpy(ends - 1),
    )


def same_text(sample: Batch) -> None:
    """Proof that ``sample`` reads as the task writes it.

    Raises:
        AssertionError: a row's first question is not the text of the task's own prompt.
    """
    encode = tokenizer()
    for i, ids in enumerate(sample.ids.tolist()):
        words = [VOCABULARY[k] for k in ids]
        prompt = Context(
            objects=tuple(words[k] for k in sample.objects[i]),
            labels=tuple(words[k] for k in sample.labels[i]),
            fillers=tuple(
                words[k + 2] if words[k + 2] in FILLERS else "" for k in sample.objects[i]
            ),
        ).ask(int(sample.asked[i, 0]))
        asked = ids[: int(sample.last[i, 0]) + 1]
        answer = VOCABULARY[int(sample.answers[i, 0])]
        if encode(prompt.text)["input_ids"] != asked or prompt.answer != answer:
            raise AssertionError(f"not the task's text: {prompt.text} {prompt.answer}")


@dataclass(frozen=True)
class Exam:
    """Questions of the task itself, as token ids padded on the right."""

    ids: torch.Tensor
    last: torch.Tensor
    answers: torch.Tensor


def exam(boxes: int, fillers: int, rows: int, seed: int) -> Exam:
    """The rows that a spec with these settings measures on."""
    task = EntityTracking(
        EntityTrackingParameters(
            family="entity_tracking", boxes=boxes, rows=rows, seed=seed, fillers=fillers
        )
    )
    questions: Sequence[Row] = task.rows(AnyWord(), rows)
    encoded = tokenizer()([row.base.text for row in questions])["input_ids"]
    longest = max(map(len, encoded))
    return Exam(
        ids=torch.tensor([ids + [IDS[PAD]] * (longest - len(ids)) for ids in encoded]),
        last=torch.tensor([len(ids) - 1 for ids in encoded]),
        answers=torch.tensor([IDS[row.base.answer] for row in questions]),
    )
