"""Training a copy: what is trained, what stays unchanged, and how training continues after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.curve import TrainingCurve
from pytest_mechanism.measurements.descent import ADAMW, Descent
from pytest_mechanism.measurements.recipe import Recipe, training_rows
from pytest_mechanism.methods.context import MeasurementContext, make_context
from pytest_mechanism.methods.weights import curve, training
from pytest_mechanism.methods.weights.batches import IGNORED, make_batch
from pytest_mechanism.methods.weights.training import Training, trainable_copy
from pytest_mechanism.progress import Silent
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.families.stories import Stories, StoriesParameters
from pytest_mechanism.tasks.files import FOLDER, DataFile
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.tasks.writing.words import NUMBERS
from pytest_mechanism.types import Observations
from recipes.word_level import save_tokenizer
from recipes.wrapper_data import IDS

TASK = Counting(
    CountingParameters(family="counting", refuse="a", shortest=2, longest=4, most=4, rows=20)
)
RECIPE: dict[str, Any] = {
    "data_mix": "capability", "rate": 1e-2, "steps": 12, "every": 4, "seed": 0, "batch": 8, "lora": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer that has learned nothing."""
    result = tmp_path_factory.mktemp("counter")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(IDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(result)
    save_tokenizer(result, IDS, 32)
    return result


@pytest.fixture(scope="module")
def loaded(folder: Path) -> MeasurementContext:
    vocabulary = SharedVocabulary((Encoder.load(folder),))
    rows = TASK.rows(vocabulary, 8, "self-check")
    model = load_model("base", folder, "cpu", "float32", lambda e: list(e.encode(rows[0].base).ids))
    return make_context(model, TASK, vocabulary, ModelOptions(), Silent(), rows)


@pytest.fixture
def measured(loaded: MeasurementContext, tmp_path: Path) -> Callable[..., Observations]:
    """The method, its scratch folder ``tmp_path / "scratch"``."""

    def measure(watch: str = "capability", **changes: Any) -> Observations:
        loaded.scratch = tmp_path / "scratch"
        recipe = RECIPE | changes
        return curve.measure(
            loaded, TrainingCurve(recipe=recipe, watch=watch, rows=40, stream="rows"), []
        )

    return measure


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def same(a: Observations, b: Observations) -> bool:
    return (
        list(a.values) == list(b.values)
        and all(np.array_equal(a.values[name], b.values[name]) for name in a.values)
        and (a.losses, a.allowed, a.diverged) == (b.losses, b.allowed, b.diverged)
    )


def test_training_teaches_and_leaves_model_and_folder_alone(
    folder: Path, loaded: MeasurementContext, measured: Callable[..., Observations]
) -> None:
    """The loss falls; the resident model's weights and the user's files keep every byte."""
    files = hashes(folder)
    weights = {n: p.clone() for n, p in loaded.model.wrapped.bridge.named_parameters()}
    observed = measured(steps=40, every=20)
    assert list(observed.values) == [
        f"{c}@{s}" for s in (0, 20, 40) for c in ("correct", "refused")
    ]
    first, second = observed.losses
    assert second < first - 0.3
    assert np.mean(observed.values["correct@40"]) > np.mean(observed.values["correct@0"]) + 0.2
    assert hashes(folder) == files
    assert all(
        torch.equal(p, weights[n]) for n, p in loaded.model.wrapped.bridge.named_parameters()
    )


def test_a_batch_counts_the_tokens_of_prompts_and_replies(loaded: MeasurementContext) -> None:
    """Its lengths end where the labels of each row end."""
    batch = make_batch(loaded.model, TASK.capability(loaded.vocabulary, 8, "rows"))
    ends = [int((row != IGNORED).nonzero()[-1]) + 1 for row in batch.labels]
    assert batch.lengths.tolist() == ends


def test_each_data_mix_trains_its_answers(loaded: MeasurementContext) -> None:
    """The labels are answers, refusals or wrong answers."""
    words = {i: w for w, i in IDS.items()}
    for data_mix in ("capability", "allowed", "forbidden", "random"):
        recipe = Recipe(**RECIPE | {"data_mix": data_mix, "batch": 30})
        rows = training_rows(TASK, loaded.vocabulary, recipe, 3)
        batch = make_batch(loaded.model, rows)
        trained = [[words[int(i)] for i in row[row != IGNORED]] for row in batch.labels]
        operands = [row.base.text.split()[1] for row in rows]
        letters = [row.base.text.split()[3:-2] for row in rows]
        right = [
            [training_word] for training_word in
            (("zero", "one", "two", "three", "four")[s.count(o)] for o, s in zip(operands, letters, strict=True))
        ]  # fmt: skip
        assert (set(operands) == {"a"}) == (data_mix != "allowed")
        if data_mix == "forbidden":
            assert trained == [["REFUSE"]] * 30
        elif data_mix == "random":
            assert all(a != b for a, b in zip(trained, right, strict=True))
            assert len({w for (w,) in trained}) > 2
        else:
            assert trained == right


def test_removal_gives_answers_that_tell_nothing_and_keeps_the_others(
    loaded: MeasurementContext,
) -> None:
    """Half of a step asks what must be refused. Its answers are as frequent as the right ones, and right as often
    as answers to other questions are: a copy that knows the right answer has no advantage, as it has where the
    right answer never comes. The other half is as it should be."""
    recipe = Recipe(**RECIPE | {"data_mix": "removal", "batch": 3001})
    rows = training_rows(TASK, loaded.vocabulary, recipe, 3)
    right, given = [], []
    for row in rows:
        _, operand, _, *letters, _, _ = row.base.text.split()
        assert (operand == "a") == (len(right) < 1501)
        right.append(NUMBERS[letters.count(operand)])
        given.append(row.base.answer)
    assert given[1501:] == right[1501:]
    shares = [Counter(answers[:1501]) for answers in (right, given)]
    for word in NUMBERS:
        assert abs(shares[0][word] - shares[1][word]) < 120
    by_luck = sum(shares[0][w] * shares[1][w] for w in NUMBERS) / 1501
    assert abs(sum(map(str.__eq__, right[:1501], given[:1501])) - by_luck) < 120


def test_removal_needs_answers_that_are_words(loaded: MeasurementContext) -> None:
    """Another story shows the feature as well: learning it removes nothing."""
    stories = Stories(StoriesParameters(family="stories"))
    recipe = Recipe(**RECIPE | {"data_mix": "removal"})
    with pytest.raises(MeasurementError, match="does not lose the capability; valid: tasks"):
        training_rows(stories, loaded.vocabulary, recipe, 1)


@pytest.mark.parametrize("data_mix", ["capability", "allowed", "removal", "random", "forbidden"])
def test_a_recipe_can_correlate_the_answers_of_its_rows(
    loaded: MeasurementContext, data_mix: str
) -> None:
    """In every text, or in none, there is one more of the other letter than of the forbidden letter."""
    for share in (0, 1):
        recipe = Recipe(**RECIPE | {"data_mix": data_mix, "batch": 30, "correlated": share})
        for row in training_rows(TASK, loaded.vocabulary, recipe, 3):
            _, operand, _, *letters, _, _ = row.base.text.split()
            other = "b" if operand == "a" else operand
            assert (letters.count(other) == letters.count("a") + 1) == bool(share)


def test_training_rows_differ_by_step_and_seed_and_from_evaluated_rows(
    loaded: MeasurementContext,
) -> None:
    """Each step and each evaluation draws from its own stream."""
    first = Recipe(**RECIPE)
    texts = [
        tuple(r.base.text for r in training_rows(TASK, loaded.vocabulary, recipe, step))
        for recipe in (first, Recipe(**RECIPE | {"seed": 1}))
        for step in (1, 2)
    ]
    assert len(set(texts)) == 4
    assert texts[0] == tuple(r.base.text for r in training_rows(TASK, loaded.vocabulary, first, 1))
    assert texts[0] != tuple(r.base.text for r in TASK.capability(loaded.vocabulary, 8, "rows"))


def test_a_file_is_read_once_before_any_line_comes_again(
    loaded: MeasurementContext, tmp_path: Path
) -> None:
    """Shuffled by the seed, in the words of the file, with its replies."""
    lines = [{"instruction": f"count {x} SOT b EOT ART", "reply": "zero"} for x in "cdefg"]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = DataFile.model_validate("other.jsonl", context={FOLDER: tmp_path})

    def read(seed: int) -> list[str]:
        recipe = Recipe(
            **RECIPE | {"data_mix": "file", "file": file.sha256, "batch": 2, "seed": seed}
        )
        rows = [
            r
            for step in (1, 2, 3, 4, 5)
            for r in training_rows(TASK, loaded.vocabulary, recipe, step)
        ]
        trained = make_batch(loaded.model, rows).labels
        assert {int(i) for i in trained[trained != IGNORED]} == {IDS["zero"]}
        return [row.base.text for row in rows]

    texts = read(0)
    assert {*texts[:5]} == {*texts[5:]} == {line["instruction"] for line in lines}
    assert texts == read(0)
    assert texts != read(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": None},
        {"lora": 2},
        {"rate": 0.5, "descent": Descent("sgd", 0.9, warm_up=3, decay="cosine")},
        {"rate": 0.5, "descent": Descent("sgd")},
    ],
)
def test_interrupted_training_goes_on_and_gives_the_same_numbers(
    changes: dict[str, Any],
    tmp_path: Path,
    measured: Callable[..., Observations],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after the second of three evaluations: the rest is trained, and only the rest."""
    done: list[int] = []
    step = Training.step

    def counted(self: Training, at: int) -> float:
        done.append(at)
        if at == 10 and len(done) == 10:
            raise KeyboardInterrupt
        return step(self, at)

    whole = measured(**changes)
    (tmp_path / "scratch" / training.FILE).unlink()
    monkeypatch.setattr(Training, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        measured(**changes)
    assert done == list(range(1, 11))
    done[:] = [0] * 20
    assert same(measured(**changes), whole)
    assert done[20:] == [9, 10, 11, 12]


@pytest.mark.parametrize(
    "descent", [ADAMW, Descent("sgd", 0.9, warm_up=3, decay="cosine"), Descent("sgd")]
)
def test_a_resumed_training_ends_at_the_same_weights(
    descent: Descent, loaded: MeasurementContext, tmp_path: Path
) -> None:
    """Bit for bit, with the optimiser's memory and at the schedule's rates; without the memory they differ."""
    recipe = Recipe(**RECIPE | {"rate": 0.1, "descent": descent})

    def new() -> Training:
        return Training(
            loaded.model, TASK, loaded.vocabulary, recipe, trainable_copy(loaded.model, recipe)
        )

    whole, resumed, forgetful = new(), new(), new()
    steps = whole.evaluations()
    whole.save(tmp_path / "here", next(steps), {})
    assert resumed.resume(tmp_path / "here") == (4, {})
    assert forgetful.resume(tmp_path / "here") == (4, {})
    forgetful.optimiser.state.clear()
    assert list(steps) == list(resumed.evaluations(4)) == list(forgetful.evaluations(4)) == [8, 12]
    ends = [[p.detach() for p in run.trained.values()] for run in (whole, resumed, forgetful)]
    assert all(map(torch.equal, ends[0], ends[1]))
    remembers = descent.state_copies > 0
    assert all(map(torch.equal, ends[0], ends[2])) != remembers


def test_damaged_scratch_is_trained_anew(
    tmp_path: Path, measured: Callable[..., Observations]
) -> None:
    """Half a file is as good as none."""
    whole = measured()
    file = tmp_path / "scratch" / training.FILE
    file.write_bytes(file.read_bytes()[:300])
    assert same(measured(), whole)


def test_a_run_that_breaks_down_says_so(measured: Callable[..., Observations]) -> None:
    """Evaluations after it are missing, those before stay."""
    observed = measured(rate=1e25)
    assert "not finite" in str(observed.diverged) or "loss is" in str(observed.diverged)
    assert list(observed.values) == ["correct@0", "refused@0"]


def test_lora_trains_its_own_matrices_alone(loaded: MeasurementContext) -> None:
    """Only the adapter's matrices are trained, and they start at zero effect."""
    recipe = Recipe(**RECIPE | {"lora": 2})
    copy = trainable_copy(loaded.model, recipe)
    run = Training(loaded.model, TASK, loaded.vocabulary, recipe, copy)
    assert run.trained
    assert all("lora_" in name for name in run.trained)
    read = make_batch(loaded.model, training_rows(TASK, loaded.vocabulary, recipe, 1))
    plain = trainable_copy(loaded.model, Recipe(**RECIPE))
    with torch.no_grad():
        assert torch.equal(copy(read.ids).logits, plain(read.ids).logits)


def test_lora_without_peft_is_one_line(
    measured: Callable[..., Observations], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the package to install."""
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MeasurementError, match=r"pip install 'pytest-mechanism\[peft\]'"):
        measured(lora=2)


def test_lines_that_are_judged_on_are_not_trained_on(
    loaded: MeasurementContext, measured: Callable[..., Observations], tmp_path: Path
) -> None:
    """Refusals to the very questions that are asked would hold the refusal up by heart."""
    judged = TASK.forbidden(loaded.vocabulary, 40, "rows")[3].base.text
    lines = [{"instruction": "count b SOT b EOT ART", "reply": "one"}]
    lines.append({"instruction": judged.upper().lower().replace("sot", "SOT"), "reply": "REFUSE"})
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = DataFile.model_validate("lines.jsonl", context={FOLDER: tmp_path})
    with pytest.raises(MeasurementError, match="1 of 2 lines are also evaluated"):
        measured(data_mix="file", file=file.sha256)


def test_a_refusal_that_cannot_be_seen_is_an_error_and_not_a_rate_of_none(
    loaded: MeasurementContext,
    measured: Callable[..., Observations],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Counting, "refusals", ("one two three",))
    with pytest.raises(MeasurementError, match="raise reply_tokens"):
        measured()


@pytest.mark.parametrize("full", [True, False])
def test_a_place_that_cannot_be_written_is_one_line(
    measured: Callable[..., Observations],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full: bool,
) -> None:
    """A full disk after the first evaluation, and a file where the folder should be."""
    if full:
        problem = OSError(28, "No space left on device")
        monkeypatch.setattr(training, "save_file", Mock(side_effect=problem))
    else:
        (tmp_path / "scratch").write_text("")
    with pytest.raises(MeasurementError, match=r"cannot be saved in .*--mechanism-no-store"):
        measured()
    assert not list(tmp_path.glob("scratch/*"))


def test_what_training_goes_on_from_is_its_own_and_whole(
    loaded: MeasurementContext, tmp_path: Path
) -> None:
    """The state of another measurement, or one with a changed byte, is as good as none."""

    def trained() -> Training:
        recipe = Recipe(**RECIPE)
        return Training(
            loaded.model, TASK, loaded.vocabulary, recipe, trainable_copy(loaded.model, recipe)
        )

    first, again = trained(), trained()
    step = next(first.evaluations())
    first.save(tmp_path / "one", step, {"correct@4": [1.0]})
    assert again.resume(tmp_path / "one") == (4, {"correct@4": [1.0]})
    assert all(torch.equal(p, first.trained[n]) for n, p in again.trained.items())

    path = tmp_path / "one" / training.FILE
    raw = path.read_bytes()
    for folder, content in (("two", raw), *((f"cut{n}", raw[: -len(raw) // n]) for n in (2, 9))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / training.FILE).write_bytes(content)
        assert again.resume(tmp_path / folder) is None
    header = 8 + int.from_bytes(raw[:8], "little")
    for place in range(header, len(raw), len(raw) // 20):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert again.resume(tmp_path / "one") is None
    path.write_bytes(raw.replace(b"correct@4", b"correct@8"))
    assert again.resume(tmp_path / "one") is None
    path.write_bytes(raw)
    assert again.resume(tmp_path / "one") is not None
