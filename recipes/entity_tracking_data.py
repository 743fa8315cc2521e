"""Training rows of the entity-tracking checkpoints: a word-level tokenizer and batches of token ids.

The text is that of the task family `entity_tracking`. To write it word by word in Python would take
longer than to train on it, so `batch` places the same tokens with array operations, and
`check_text` proves that they are the same.
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
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.writing.boxes import Context
from pytest_mechanism.tasks.writing.words import FILLERS, LABELS, OBJECTS
from recipes import word_level
from recipes.word_level import BOS, PAD, UNKNOWN

TEMPLATE = ("The", "the", "is", "in", "Box", "contains", ",", ".")

VARIATIONS = tuple(
    "There are a bunch of boxes containing objects these contain contained not and b c box".split()  # noqa: SIM905
)
"""Words of the paper's variations of the template. No checkpoint was trained on them."""

VOCABULARY = (PAD, UNKNOWN, BOS, *TEMPLATE, *VARIATIONS, *LABELS, *FILLERS, *OBJECTS)

IDS = {word: i for i, word in enumerate(VOCABULARY)}

Ints = NDArray[np.int64]


def tokenizer() -> PreTrainedTokenizerFast:
    return word_level.tokenizer(IDS)


def save_tokenizer(folder: Path, longest: int) -> None:
    word_level.save_tokenizer(folder, IDS, longest)


@dataclass(frozen=True)
class Batch:
    """Contexts with the same number of boxes, each with several queries; padded on the right.

    Attributes:
        ids: [rows, tokens] token ids.
        last: [rows, queries] position of the last token before each answer.
        query_label: [rows, queries] position of each query's box label.
        queried: [rows, queries] ordinal of the queried box, in the order of the text.
        answers: [rows, queries] id of the object in it.
        objects: [rows, boxes] positions of the objects in the context.
        labels: [rows, boxes] positions of the box labels in the context.
    """

    ids: torch.Tensor
    last: torch.Tensor
    query_label: torch.Tensor
    queried: torch.Tensor
    answers: torch.Tensor
    objects: torch.Tensor
    labels: torch.Tensor


def distinct(rng: np.random.Generator, words: Sequence[str], rows: int, count: int) -> Ints:
    """[rows, count] ids of random words, without repeats within a row."""
    ids = np.array([IDS[word] for word in words])
    return ids[rng.random((rows, len(words))).argsort(axis=1)[:, :count]]


def batch(rng: np.random.Generator, rows: int, boxes: int, fillers: int, queries: int) -> Batch:
    """Random contexts with 0 to ``fillers`` filler words and ``queries`` queries.

    Queries of one context may repeat: a model that is asked about each box once learns to answer
    by elimination.
    """
    row = np.arange(rows)[:, None]
    items = distinct(rng, OBJECTS, rows, boxes)
    names = distinct(rng, LABELS, rows, boxes)
    queried = rng.integers(boxes, size=(rows, queries))

    filler_count = rng.integers(fillers + 1, size=(rows, 1))
    filled = rng.random((rows, boxes)).argsort(axis=1).argsort(axis=1) < filler_count
    # a segment is ", the OBJECT is [FILLER] in Box LABEL"; the first has no comma
    ends = 1 + np.cumsum(7 + filled, axis=1) - 1
    starts = ends - (7 + filled)
    begins = ends[:, -1:] + 6 * np.arange(queries)  # ". Box LABEL contains the OBJECT"

    ids = np.full((rows, ends.max() + 6 * queries), IDS[PAD])

    def write(positions: Ints, tokens: Ints | int) -> None:
        ids[row, positions] = tokens

    for offset, word in enumerate((",", "the")):
        write(starts + offset, IDS[word])
    write(starts + 2, items)
    write(starts + 3, IDS["is"])
    words = rng.choice([IDS[word] for word in FILLERS], size=(rows, boxes))
    write(starts + 4, np.where(filled, words, IDS["in"]))  # overwritten below where not filled
    for offset, word in ((3, "in"), (2, "Box")):
        write(ends - offset, IDS[word])
    write(ends - 1, names)
    ids[:, 0], ids[:, 1] = IDS[BOS], IDS["The"]  # over the comma and the "the" of segment 0

    for offset, word in ((0, "."), (1, "Box"), (3, "contains"), (4, "the")):
        write(begins + offset, IDS[word])
    write(begins + 2, names[row, queried])
    write(begins + 5, items[row, queried])

    return Batch(
        ids=torch.from_numpy(ids[:, :-1]),
        last=torch.from_numpy(begins + 4),
        query_label=torch.from_numpy(begins + 2),
        queried=torch.from_numpy(queried),
        answers=torch.from_numpy(items[row, queried]),
        objects=torch.from_numpy(starts + 2),
        labels=torch.from_numpy(ends - 1),
    )


def check_text(sample: Batch) -> None:
    """Proves that the task family writes the same text.

    Raises:
        AssertionError: the first query of a row is not a prompt of the task.
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
        ).ask(int(sample.queried[i, 0]))
        prompt_ids = ids[: int(sample.last[i, 0]) + 1]
        answer = VOCABULARY[int(sample.answers[i, 0])]
        if encode(prompt.text)["input_ids"] != prompt_ids or prompt.answer != answer:
            raise AssertionError(f"not the task's text: {prompt.text} {prompt.answer}")


@dataclass(frozen=True)
class Exam:
    """Prompts of the task itself as token ids, padded on the right."""

    ids: torch.Tensor
    last: torch.Tensor
    answers: torch.Tensor


def exam(boxes: int, fillers: int, rows: int, seed: int) -> Exam:
    """The rows that a spec with these settings measures."""
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
