"""Measurement contexts over the embedded pair, whose circuit is known, and over random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.methods.context import MeasurementContext, make_context
from pytest_mechanism.progress import Silent
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "pytest_mechanism" / "zoo"


@pytest.fixture(scope="session")
def spec() -> Spec:
    """The embedded pair's circuit."""
    return load(ROOT / "circuits" / "entity_tracking.yaml")


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the shape of the embedded pair."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ZOO / "base")).save_pretrained(
        folder
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "base" / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def context_of(spec: Spec, random_folder: Path) -> Callable[[str], MeasurementContext]:
    """The measurement context of ``base``, ``ft`` or ``random``, loaded once."""
    made: dict[str, MeasurementContext] = {}

    def of(role: str) -> MeasurementContext:
        if role not in made:
            folder = random_folder if role == "random" else ZOO / role
            vocabulary = SharedVocabulary((Encoder.load(folder),))
            rows = spec.task.rows(vocabulary, 8, "self-check")
            model = load_model(
                role, folder, "cpu", "float32", lambda e: list(e.encode(rows[0].base).ids)
            )
            made[role] = make_context(model, spec.task, vocabulary, ModelOptions(), Silent(), rows)
        return made[role]

    return of


def loaded(folder: Path, task: Task, dtype: str = "float32") -> MeasurementContext:
    """The measurement context of a checkpoint and a task."""
    vocabulary = SharedVocabulary((Encoder.load(folder),))
    rows = task.rows(vocabulary, 8, "self-check")
    model = load_model(
        folder.name, folder, "cpu", dtype, lambda e: list(e.encode(rows[0].base).ids)
    )
    return make_context(model, task, vocabulary, ModelOptions(), Silent(), rows)


@pytest.fixture(scope="session")
def exact_context_of(spec: Spec) -> Callable[[str], MeasurementContext]:
    """The measurement context of an embedded model in float64, loaded once: what separates it from a direct
    computation is an error, and not the rounding of either."""
    return cache(lambda name: loaded(ZOO / name, spec.task, "float64"))


@pytest.fixture(params=["branch", "reference"])
def base_context(
    exact_context_of: Callable[[str], MeasurementContext], request: pytest.FixtureRequest
) -> MeasurementContext:
    """The measurement context of ``base`` in float64, by each engine."""
    context = exact_context_of("base")
    if request.param == "reference":
        context = replace(context, engine=ReferenceEngine(context.model.wrapped))
    assert context.engine.name == request.param
    return context


@pytest.fixture(scope="session")
def load_context() -> Callable[[Path, Task], MeasurementContext]:
    """Makes the measurement context of a checkpoint and a task."""
    return loaded


@pytest.fixture(scope="session")
def chat_context_of() -> Callable[[str], MeasurementContext]:
    """The measurement context of ``refusal_base`` or ``refusal_ft`` on the shipped spec's task, loaded once."""
    task = load(ROOT / "circuits" / "refusal.yaml").task
    return cache(lambda name: loaded(ZOO / name, task))


@pytest.fixture(scope="session")
def counting_context(tmp_path_factory: pytest.TempPathFactory) -> MeasurementContext:
    """Random weights that know the words of the counting task, where ``a`` must be refused."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from recipes.word_level import save_tokenizer
    from recipes.wrapper_data import IDS

    folder = tmp_path_factory.mktemp("random_counting")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(IDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, IDS, 128)
    return loaded(folder, Counting(CountingParameters(family="counting", refuse="a")))
