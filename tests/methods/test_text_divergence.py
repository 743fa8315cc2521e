"""Two models on plain text: a known answer, a model beside itself, and one that knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.text_divergence import TextDivergence, TextDonation
from pytest_mechanism.methods import text_divergence
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.families.stories import Stories, StoriesParameters
from pytest_mechanism.types import Observations
from recipes.stories_data import IDS
from recipes.stories_training import SHAPE
from recipes.trainer import new_model
from recipes.word_level import save_tokenizer

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
STORY = "features : moral words : fox story : once a fox named Leo wanted a red ball . the end"
LINES = [
    STORY.replace("Leo", name).replace("fox", helper)
    for helper in ("fox", "cat", "dog", "lion")
    for name in ("Leo", "Hugo", "Mia")
]
REQUEST = TextDonation(
    name="text", lines=[(f"line {i}", line, str(i)) for i, line in enumerate(LINES, 1)]
)
Load = Callable[[Path, Task], MeasurementContext]


@pytest.fixture(scope="module")
def stories(
    load_context: Load, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, MeasurementContext]:
    """Two story models, and random weights in their shape."""
    task = Stories(StoriesParameters(family="stories", feature="twist"))
    folder = tmp_path_factory.mktemp("random")
    new_model(SHAPE, IDS, 0).save_pretrained(folder)
    save_tokenizer(folder, IDS, SHAPE.longest)
    folders = {"base": ZOO / "stories_base", "none": ZOO / "stories_none", "random": folder}
    return {name: load_context(folder, task) for name, folder in folders.items()}


def read(base: MeasurementContext, ft: MeasurementContext) -> Observations:
    said = text_divergence.donate(base, REQUEST, [])
    return text_divergence.measure(ft, TextDivergence(lines=len(LINES)), [said])


def test_the_divergence_is_that_of_the_models_own_probabilities(
    stories: dict[str, MeasurementContext],
) -> None:
    """Known answer: from the logits of plain forward passes, with the likeliest words where it is largest."""
    models = [stories[name] for name in ("base", "none")]
    found = read(*models)
    encoder = models[0].model.encoder
    ids = encoder.tokens(LINES[1], True).ids
    p, q = (
        model.model.wrapped.forward(torch.tensor([ids]), None, [])[0, :-1].double().log_softmax(-1)
        for model in models
    )
    divergence = (p.exp() * (p - q)).sum(-1)
    next_ids = torch.tensor(ids[1:])[:, None]
    assert found.values["divergence"][1] == pytest.approx(float(divergence.sum()), rel=1e-3)
    assert found.values["surprise_to"][1] == pytest.approx(
        -float(q.gather(1, next_ids).sum()), rel=1e-3
    )
    assert found.values["predictions"][1] == len(ids) - 1
    at = int(divergence.argmax())
    words = [encoder.tokenizer.decode([int(x[at].argmax())]) for x in (p, q)]
    assert [found.texts[name][1] for name in ("reference", "answer")] == words
    assert LINES[1].startswith(found.texts["before"][1])
    assert found.example_ids[1] == "line 2"


def test_words_without_context_are_as_far_as_context_tells(
    stories: dict[str, MeasurementContext],
) -> None:
    """KL(A || q) is the entropy of q minus the mean entropy of A."""
    said = text_divergence.donate(stories["base"], REQUEST, [])
    p = torch.cat(
        [
            row[: length - 1].double()
            for batch in said.batches
            for row, length in zip(
                batch.log_probabilities, batch.tokens.lengths.tolist(), strict=True
            )
        ]
    )
    q = p.exp().mean(0)
    information = -(q * q.log()).sum() + (p.exp() * p).sum(-1).mean()
    free = sum(divergence for divergence, _ in text_divergence.without_context(said.batches))
    assert free / len(p) == pytest.approx(float(information), rel=1e-3)
    assert free / len(p) > 2


def test_a_model_beside_itself_and_one_that_knows_nothing(
    stories: dict[str, MeasurementContext],
) -> None:
    """Null: a model is at 0 from itself. Random weights predict the text no better than guessing, and hardly by
    its context."""
    model = stories["base"]
    np.testing.assert_allclose(read(model, model).values["divergence"], 0, atol=1e-4)
    found = read(stories["random"], stories["random"])
    sums = {name: float(np.sum(values)) for name, values in found.values.items()}
    assert sums["surprise_from"] >= 0.98 * sums["uniform"]
    assert sums["free_divergence"] < 0.1 * sums["predictions"]


def test_a_model_of_fewer_positions_reads_less_of_each_line(
    stories: dict[str, MeasurementContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it reads has the same divergence as before."""
    base, ft = stories["base"], stories["none"]
    whole = text_divergence.donate(base, REQUEST, [])
    monkeypatch.setattr(text_divergence, "longest", lambda _: 14)
    short = text_divergence.measure(ft, TextDivergence(lines=12), [whole])
    assert set(short.values["predictions"]) == {13.0}
    own = text_divergence.measure(
        ft, TextDivergence(lines=12), [text_divergence.donate(base, REQUEST, [])]
    )
    np.testing.assert_allclose(short.values["divergence"], own.values["divergence"], rtol=1e-3)


def test_another_tokenizer_is_one_line(stories: dict[str, MeasurementContext]) -> None:
    """Its words have other numbers, so the distributions are not of the same words."""
    said = text_divergence.donate(stories["base"], REQUEST, [])
    text = replace(said.text, passages=tuple(ids[::-1] for ids in said.text.passages))
    with pytest.raises(
        MeasurementError, match="the tokenizers make other tokens of 'features : moral"
    ):
        text_divergence.measure(
            stories["none"], TextDivergence(lines=12), [replace(said, text=text)]
        )
