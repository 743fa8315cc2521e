"""Self-checks are made once for a checkpoint on a machine, and one that failed is never taken as passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.reference import ZOO, Reference
from pytest_mechanism.checkpoints.trust import Trust
from pytest_mechanism.errors import MechanismError, SelfCheckError
from pytest_mechanism.progress import Silent
from pytest_mechanism.runner import kept_checks, resident
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.store import Store
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking


def task_with(**more: Any) -> Task:
    settings = {"family": "entity_tracking", "boxes": 7, "rows": 20, "seed": 0, **more}
    return EntityTracking(EntityTracking.parameters.model_validate(settings))


class World:
    """Fake loading; what its checks find, and what each of them is told that earlier ones found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.finds: tuple[str | None, float | None] = (None, None)
        self.fails = False
        self.machine = "this one"
        self.told: list[Any] = []
        real: Callable[[str], Any] = resident.resolve
        fakes = {
            "pytest_mechanism.checkpoints.loading.model:load_model": self.load,
            "pytest_mechanism.methods.context:make_context": self.make_context,
            "pytest_mechanism.engine.selfcheck:machine": lambda: self.machine,
        }
        for module in (resident, kept_checks):
            monkeypatch.setattr(module, "resolve", lambda name: fakes.get(name) or real(name))

    def load(self, role: str, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(role=role, release=lambda: None)

    def make_context(self, model: Any, *given: Any) -> Any:
        self.told.append(given[-1])
        if self.fails:
            raise SelfCheckError("its layers do not add up")
        reason, rounding = self.finds if given[-1] is None else given[-1]
        return SimpleNamespace(model=model, fallback_reason=reason, rounding=rounding)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def load(store: Path | None, task: Task | None = None, model: str = "f", **options: Any) -> None:
    """A process of its own loads a checkpoint."""
    runner = Runner(
        {"base": Reference("base", "base", ZOO / "base")},
        {"base": Fingerprint(model, "t")},
        ModelOptions(**options),
        None if store is None else Store(store),
    )
    runner.checkpoint.context("base", task or task_with())


def test_a_pass_is_known_to_the_next_process(world: World, tmp_path: Path) -> None:
    """With what it found about rounding; among the measurements there is none more."""
    world.finds = (None, 0.125)
    load(tmp_path)
    load(tmp_path)
    assert world.told == [None, (None, 0.125)]
    assert list(tmp_path.glob("*.measurement")) == []


def test_whatever_a_check_depends_on_makes_it_another_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, prompts, dtype, engine, batch size in half precision, libraries, this package's code, the machine."""
    half = {"dtype": "bfloat16"}
    changes: tuple[dict[str, Any], ...] = (
        {"model": "g"}, {"task": task_with(seed=1)}, {"dtype": "float64"}, {"engine": "reference"},
        half, {**half, "batch_size": 7},
    )  # fmt: skip
    load(tmp_path)
    for change in changes:
        load(tmp_path, **change)
    world.machine = "another one"
    load(tmp_path)
    monkeypatch.setattr(kept_checks, "hash_of_code", lambda: "another")
    load(tmp_path)
    keys = "pytest_mechanism.runner.keys.versions"
    monkeypatch.setattr(keys, lambda: {"torch": "another"})
    load(tmp_path)
    assert world.told == [None] * len(world.told)
    load(tmp_path)
    assert world.told[-1] == (None, None)


@pytest.mark.parametrize("fails", [True, False], ids=["a failed check", "the slow engine"])
def test_only_a_pass_in_full_is_kept(world: World, tmp_path: Path, fails: bool) -> None:
    """What did not pass, or needs the reference engine, is looked at again."""
    world.fails, world.finds = fails, ("it has a part of its own", None)
    for _ in range(2):
        try:
            load(tmp_path)
        except MechanismError:
            assert fails
    assert world.told == [None, None]


def test_a_damaged_entry_counts_as_none(world: World, tmp_path: Path) -> None:
    load(tmp_path)
    (entry,) = (tmp_path / kept_checks.FOLDER).glob("*.measurement")
    entry.write_bytes(entry.read_bytes()[:-1])
    load(tmp_path)
    assert world.told == [None, None]


@pytest.mark.parametrize(
    ("options", "stored"),
    [({}, False), ({"device": "spread"}, True), ({"trust": Trust(remote_code=True)}, True)],
    ids=["no store", "memory decides", "code of its own"],
)
def test_where_a_pass_says_nothing_none_is_kept(
    world: World, tmp_path: Path, options: dict[str, Any], stored: bool
) -> None:
    """``--mechanism-no-store`` trusts nothing; weights may lie elsewhere next time, or be run by other code."""
    for _ in range(2):
        load(tmp_path if stored else None, **options)
    assert world.told == [None, None]


def test_a_store_that_cannot_be_written_costs_time_alone(world: World, tmp_path: Path) -> None:
    """The checkpoint is checked and used."""
    (tmp_path / kept_checks.FOLDER).touch()
    load(tmp_path)
    load(tmp_path)
    assert world.told == [None, None]


def test_a_known_checkpoint_must_still_be_read_well() -> None:
    """Its logits are compared with plain Hugging Face's, whatever is known of its engines."""
    from pytest_mechanism.checkpoints.loading.model import load_model
    from pytest_mechanism.methods.context import make_context
    from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary

    task, folder = task_with(), ZOO / "base"
    vocabulary = SharedVocabulary((Encoder.load(folder),))
    rows = task.rows(vocabulary, 8, "self-check")
    model = load_model("base", folder, "cpu", "float32", lambda e: list(e.encode(rows[0].base).ids))
    given = (task, vocabulary, ModelOptions(), Silent(), rows, (None, None))
    assert make_context(model, *given).engine.name == "branch"
    wrong = replace(model, plain_logits=model.plain_logits + 1)
    with pytest.raises(SelfCheckError, match="plain Hugging Face"):
        make_context(wrong, *given)
