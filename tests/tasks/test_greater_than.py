"""Greater than: two forms of the prompt, which tokenizers get which, and models that never read a year."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from constant_model import (
    DIGITS,
    NUMBERS,
    ONE,
    THREE,
    TWO,
    save_constant_model,
    split_numbers,
)
from evaluators import open_evaluator

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import interchange
from pytest_mechanism.methods.circuits.performance import elsewhere
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.tasks.families.greater_than import (
    FORMS,
    LAST_DIGIT,
    TWO_DIGITS,
    GreaterThan,
    GreaterThanParameters,
)
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary

SPEC = """mechanism: 1
circuit: x
task: {family: greater_than, rows: 60, seed: 0}
groups:
  readers: {heads: {1: [0, 1]}, at: last}
  senders: {heads: {0: [2]}, at: year, into: {group: readers, via: k}}
ablation: {value: resample, prompts: 60}
claims:
  right: {kind: accuracy, on: base, at_least: 0.9}
  enough: {kind: faithfulness, on: base, between: [0.9, 1.1]}
  heard: {kind: path, on: base, group: senders, drops_at_least: 0.1}
  holds: {kind: encodes, on: base, group: readers, variable: year, at_least: 0.5}
"""

TASK = GreaterThan(GreaterThanParameters(family="greater_than"))


def shared(*patterns: str) -> SharedVocabulary:
    """The vocabulary of checkpoints whose tokenizers cut numbers so."""
    return SharedVocabulary(tuple(Encoder(split_numbers(p), "a test's") for p in patterns))


def parts(row: Row) -> tuple[str, str, str]:
    """The two years of a prompt, and the compared part of the first."""
    words = row.base.text.split()
    ((start, stop),) = row.base.spans["year"]
    return words[6], words[10], row.base.text[start:stop]


# -- which form


@pytest.mark.parametrize(
    ("patterns", "form"),
    [
        ([TWO], TWO_DIGITS),
        ([ONE], LAST_DIGIT),
        ([THREE], LAST_DIGIT),
        ([ONE, THREE], LAST_DIGIT),
        ([THREE, ONE], LAST_DIGIT),
        ([TWO, TWO], TWO_DIGITS),
    ],
)
def test_the_tokenizers_of_a_run_decide_the_form(patterns: list[str], form: object) -> None:
    """GPT-2's kind gets two digits; digit by digit, and three digits with a rest, get the last digit."""
    assert TASK.form(shared(*patterns)) == form


@pytest.mark.parametrize("patterns", [[TWO, ONE], [ONE, TWO], [THREE, TWO]])
def test_a_pair_that_writes_years_differently_is_one_line(patterns: list[str]) -> None:
    """In whichever order: its checkpoints would not read the same rows."""
    with pytest.raises(MechanismError) as problem:
        TASK.rows(shared(*patterns), 20)
    text = str(problem.value)
    assert text.startswith(
        "task greater_than: the tokenizers of the run have to write 1732 as 17 and 32 or 2 at the "
        "end of 1732 as a token of its own, all of them alike; they do not: "
    )
    assert "\n" not in text
    assert "0 of 10 endings are one token" in text


def test_choosing_the_form_drops_no_word() -> None:
    """A report on dropped words does not list a hundred years that the other form would need."""
    assert TASK.dropped_words(shared(ONE)) == ""
    assert TASK.dropped_words(shared(TWO)) == ""


def test_the_last_digit_is_compared_with_the_last_digit() -> None:
    """The prompt gives all but the last digit; every later one is right, the same one is not."""
    for row in TASK.rows(shared(ONE), 200):
        first, second, digit = parts(row)
        assert (first[:3], first[3]) == (second, digit)
        assert row.base.accepted == tuple(d for d in DIGITS if d > digit)
        assert row.base.options == tuple(DIGITS)
        assert row.base.completion in row.base.accepted
    for row in TASK.pairs(shared(ONE), 50):
        assert row.source is not None
        assert row.source.text == row.base.text.replace(parts(row)[0], parts(row)[0][:3] + "0")
    for row in TASK.interchange(shared(ONE), "year", 50, "test"):
        assert row.source is not None
        low = parts(replace(row, base=row.source))[2]
        assert row.correct_targets == tuple(d for d in DIGITS if low < d <= parts(row)[2])


def test_years_are_one_token_after_a_century() -> None:
    """Years that some tokenizer splits there are neither questions nor answers."""
    (known,) = shared(TWO).encoders
    assert known.word_id("32", "17") == known.tokenizer.token_to_id("32")
    assert known.word_id("3", "1") is None

    class Fewer(AnyWord):
        def whole(self, words, after=""):
            return tuple(w for w in words if (after, w) not in {("17", "50"), ("15", "60")})

    for row in TASK.rows(Fewer(), 200):
        year = row.base.text.split()[6][2:]
        assert year not in ("50", "60")
        assert row.base.accepted == tuple(y for y in NUMBERS if y > year and y not in ("50", "60"))
    assert row.base.completion == row.base.answer
    assert SharedVocabulary((known,)).whole(["32", "3x"], "17") == ("32",)


# -- chance


@pytest.mark.parametrize("pattern", [TWO, ONE])
def test_naming_any_year_is_chance(pattern: str) -> None:
    """Over many rows, the share of options that are right is the form's chance; the task's is the
    higher one of both forms."""
    rows = TASK.rows(shared(pattern), 300)
    share = np.mean([len(r.base.accepted) / len(r.base.options) for r in rows])
    assert share == pytest.approx(TASK.form(shared(pattern)).chance, abs=0.04)
    assert TASK.chance == max(form.chance for form in FORMS)


def test_a_constant_answer_is_as_often_right_on_other_rows() -> None:
    """To the last bit of the sum; a model that reads the year is right more often on its own rows."""
    right = [{d for d in range(10) if d > year} for year in [1, 5, 8, 3, 3, 2]]
    for answer in range(10):
        own = [answer in answers for answers in right]
        assert sum(elsewhere([answer] * 6, right)) == pytest.approx(sum(own))
    assert elsewhere([min(answers) for answers in right], right) == [0, 0.8, 1, 0.6, 0.6, 0.2]


Open = Callable[[str, str], tuple[Spec, ClaimEvaluator]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A spec, and a run on a model that always gives one answer."""

    def run(pattern: str, word: str) -> tuple[Spec, ClaimEvaluator]:
        (tmp_path / "x.yaml").write_text(SPEC)
        (tmp_path / "model").mkdir()
        folder = save_constant_model(tmp_path / "model", split_numbers(pattern), word)
        store = tmp_path / "store"
        gate = open_evaluator("--model", str(folder), "--batch-size", 32, "--store", store)
        return load(tmp_path / "x.yaml"), gate

    return run


@pytest.mark.parametrize(("pattern", "word"), [(TWO, "99"), (ONE, "9")])
def test_a_model_that_always_says_the_last_year_is_at_chance(
    opened: Open, pattern: str, word: str
) -> None:
    """Every answer is right, and every claim is inconclusive: the same answers are right on any
    other row too."""
    spec, gate = opened(pattern, word)
    verdicts = {name: gate.judge(spec, claim, "base") for name, claim in spec.claims.items()}
    assert {name: verdict.status for name, verdict in verdicts.items()} == dict.fromkeys(
        ("right", "enough", "heard", "holds"), "inconclusive"
    )
    assert verdicts["right"].scores[0].value == 1.0
    control = verdicts["right"].scores[0].control
    assert control is not None
    assert (control.name, control.value) == ("the same answers on other rows", 1.0)
    same = "the same answers given to other prompts: 1.000"
    assert (
        f"not significantly better than guessing (chance 0.490; {same})" in verdicts["right"].reason
    )
    assert same in verdicts["heard"].reason
    assert "ceiling and floor do not differ significantly" in verdicts["holds"].reason


def test_the_log_probability_is_that_of_every_later_year(opened: Open) -> None:
    """The model's softmax, summed over the later years, in plain torch."""
    spec, gate = opened(TWO, "99")
    case = gate.context(spec, spec.claims["right"], "base")
    observations = gate.runner.measure(
        case.measurement(Performance(rows=60, stream="rows"), "base")
    )
    context = gate.runner.checkpoint.context("base", spec.task)
    rows = spec.task.rows(context.vocabulary, 60)
    wanted = []
    for batch in context.batches(rows):
        chances = context.engine.run(batch.base.tokens).outcome.logits.double().softmax(-1)
        for row, row_chances in zip(batch.rows, chances, strict=True):
            year = int(row.base.text.split()[6][2:])
            ids = [context.model.encoder.word_id(f"{later:02}") for later in range(year + 1, 100)]
            wanted.append(float(row_chances[ids].sum().log()))
    np.testing.assert_allclose(observations.values["log_probability"], wanted, atol=1e-5)


class AnyLaterYear:
    """Replaces a model that answers some year after the prompt's year. Patching moves its whole mechanism:
    with a source's activations, it gives the source's answer."""

    name = "any later year"
    tick = None

    def __init__(self, context: Any) -> None:
        self.ids = [context.model.encoder.word_id(year) for year in NUMBERS]
        self.size = context.model.encoder.vocabulary_size
        self.non_finite = context.engine.non_finite

    def run(self, tokens: Any, readings: Any = (), *, answer: bool = True) -> Any:
        logits = torch.zeros(len(tokens.ids), self.size)
        for row, ids in enumerate(tokens.ids.tolist()):
            year = next(self.ids.index(b) for a, b in pairwise(ids) if {a, b} <= {*self.ids})
            logits[row, self.ids[year + 1 + sum(ids) % (99 - year)]] = 1
        if not answer:
            return SimpleNamespace(outcome=SimpleNamespace(logits=None, readings=[]))
        self.before, self.now = getattr(self, "now", None), logits
        outcome = SimpleNamespace(logits=logits, readings=[])
        moved = [SimpleNamespace(logits=self.before)]
        return SimpleNamespace(outcome=outcome, branches=lambda _: moved)


def test_a_year_that_is_moved_perfectly_reaches_the_ceiling(opened: Open) -> None:
    """Half of the years after the source's are after the base's too and show nothing: on the source
    prompt itself the model says a target no more often."""
    spec, gate = opened(TWO, "99")
    context = gate.runner.checkpoint.context("base", spec.task)
    fake = replace(context, engine=AnyLaterYear(context))
    arguments = {"heads": [], "control": [], "at": "last", "variable": "year"}
    observations = interchange.measure(fake, Interchange(**arguments, rows=150), ())
    assert observations.values["own"].mean() == 1
    assert 0.3 < observations.values["ceiling"].mean() < 0.7
    assert observations.values["floor"].mean() == 0
    np.testing.assert_array_equal(observations.values["patched"], observations.values["ceiling"])
