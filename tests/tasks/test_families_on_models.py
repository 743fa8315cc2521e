"""The families of slots through the whole plugin, on a model that says 99 whatever it is asked.

Its weights are random but for the final norm, which leaves nearly nothing of what went before, and
the output matrix, which then says 99: always right where any later year is, always wrong elsewhere.
"""

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
from evaluators import open_evaluator
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import interchange
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.greater_than import GreaterThan, GreaterThanParameters
from pytest_mechanism.tasks.families.ioi import Ioi, IoiParameters
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.tasks.writing.words import EVENTS, GIFTS, NAMES, OBJECTS, PLACES
from pytest_mechanism.types import Verdict

NUMBERS = [f"{i:02}" for i in range(100)]
TEXT = [
    "the",
    "The",
    "Then",
    "to",
    "and",
    "a",
    "it",
    "fun",
    "at",
    "lot",
    "of",
    "lunch",
    "from",
    "year",
    "lasted",
    ".",
    ",",
]
VERBS = [
    "went",
    "had",
    "were",
    "got",
    "gave",
    "decided",
    "wanted",
    "give",
    "working",
    "thinking",
    "about",
    "going",
]
WORDS = [*TEXT, *VERBS, "After", "When", "While", *NUMBERS]

HEAD = "mechanism: 1\ncircuit: x\ntask: {{family: {family}, rows: 60, seed: 0}}\n"
CLAIMS = """groups:
  readers: {{heads: {{1: [0, 1]}}, at: last}}
  senders: {{heads: {{0: [2]}}, at: {at}, into: {{group: readers, via: k}}}}
ablation: {{value: positional_mean, prompts: 400}}
claims:
  right: {{kind: accuracy, on: base, at_least: 0.9}}
  enough: {{kind: faithfulness, on: base, between: [0.9, 1.1]}}
  heard: {{kind: path, on: base, group: senders, drops_at_least: 0.1}}
  holds: {{kind: encodes, on: base, group: readers, variable: {variable}, at_least: 0.5}}
"""


def split_numbers() -> Tokenizer:
    """Whole words, and numbers in pieces of two digits."""
    words = dict.fromkeys(["[UNK]", *WORDS, *NAMES, *PLACES, *GIFTS, *EVENTS, *OBJECTS])
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(r"\d\d"), "isolated")]
    )
    return tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that always says 99."""
    folder = tmp_path_factory.mktemp("says_99")
    tokenizer = split_numbers()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    size = tokenizer.get_vocab_size()
    config = GPT2Config(
        vocab_size=size, n_positions=64, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(0.05)
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight.normal_(std=0.02)
        model.lm_head.weight[tokenizer.token_to_id("99")] += 0.2
    model.save_pretrained(folder)
    return folder


Judge = Callable[[str], tuple[dict[str, Verdict], Spec, ClaimEvaluator]]


@pytest.fixture
def judge(checkpoint: Path, tmp_path: Path) -> Judge:
    """The verdict of each claim of a spec."""

    def run(text: str) -> tuple[dict[str, Verdict], Spec, ClaimEvaluator]:
        (tmp_path / "x.yaml").write_text(text)
        gate = open_evaluator(
            "--model", str(checkpoint), "--batch-size", 32, "--store", tmp_path / "store"
        )
        spec = load(tmp_path / "x.yaml")
        found = {name: gate.judge(spec, claim, "base") for name, claim in spec.claims.items()}
        return found, spec, gate

    return run


@pytest.mark.parametrize(
    ("family", "at", "variable"),
    [("ioi", "S1_next", "io_name"), ("ioi", "S2.first", "s_position"), ("induction", "successor", "query")],
)  # fmt: skip
def test_a_model_that_is_never_correct_fails_without_an_error(
    judge: Judge, family: str, at: str, variable: str
) -> None:
    """Accuracy fails, relative claims are inconclusive, and no claim ends in an error."""
    text = HEAD.format(family=family) + CLAIMS.format(at=at, variable=variable)
    found, _, _ = judge(text)
    assert {name: verdict.status for name, verdict in found.items()} == {
        "right": "fail",
        "enough": "inconclusive",
        "heard": "inconclusive",
        "holds": "inconclusive",
    }


def test_99_is_correct_wherever_a_later_year_is(judge: Judge) -> None:
    """Accuracy counts every correct year, whose log-probability is that of all together. The claim
    that heads carry the year fails: 99 is never a year up to the base's, nor on the source
    prompt."""
    text = HEAD.format(family="greater_than") + CLAIMS.format(at="year.first", variable="year")
    text = text.replace("positional_mean, prompts: 400", "resample, prompts: 60")
    found, spec, gate = judge(text)
    assert found["right"].status == "pass"
    assert found["right"].score is not None
    assert found["right"].score.value == 1.0
    assert found["heard"].status == "fail"
    assert found["holds"].status == "inconclusive"
    assert "ceiling and floor do not differ significantly" in found["holds"].reason
    assert found["enough"].status == "inconclusive"  # as good with every head silent

    case = gate.context(spec, spec.claims["right"], "base")
    seen = gate.runner.measure(case.measurement(Performance(rows=60, stream="rows"), "base"))
    bench = gate.runner.checkpoint.context("base", spec.task)
    rows = spec.task.rows(bench.vocabulary, 60)
    wanted = []
    for batch in bench.batches(rows):
        chances = bench.engine.run(batch.base.tokens).outcome.logits.double().softmax(-1)
        for row, each in zip(batch.rows, chances, strict=True):
            year = int(row.base.text.split()[6][2:])
            ids = [bench.model.encoder.word_id(f"{later:02}") for later in range(year + 1, 100)]
            wanted.append(float(each[ids].sum().log()))
    np.testing.assert_allclose(seen.values["log_probability"], wanted, atol=1e-5)


class AnyLaterYear:
    """Replaces a model that says some year after the one it reads and whose whole mechanism is
    moved: with a source's activations it says what it says there."""

    name = "any later year"
    tick = None

    def __init__(self, bench: Any) -> None:
        self.ids = [bench.model.encoder.word_id(year) for year in NUMBERS]
        self.size = bench.model.encoder.vocabulary_size
        self.non_finite = bench.engine.non_finite

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


def test_a_year_that_is_moved_perfectly_reaches_the_ceiling(judge: Judge) -> None:
    """Half of the years after the source's are after the base's too and show nothing: on the source
    prompt itself the model says a target no more often."""
    text = HEAD.format(family="greater_than") + CLAIMS.format(at="year.first", variable="year")
    text = text.split("groups:")[0] + "claims: {right: {kind: accuracy, on: base, at_least: 0.9}}\n"
    _, spec, gate = judge(text)
    bench = gate.runner.checkpoint.context("base", spec.task)
    fake = replace(bench, engine=AnyLaterYear(bench))
    arguments = {"heads": [], "control": [], "at": "last", "variable": "year"}
    seen = interchange.measure(fake, Interchange(**arguments, rows=300), ())
    assert seen.values["own"].mean() == 1
    assert 0.3 < seen.values["ceiling"].mean() < 0.7
    assert seen.values["floor"].mean() == 0
    np.testing.assert_array_equal(seen.values["patched"], seen.values["ceiling"])


def test_a_group_works_at_the_first_token_of_a_word_or_at_its_last(judge: Judge) -> None:
    """In a number of two tokens, recording and patching move one token to the left."""
    text = (
        "mechanism: 1\ncircuit: x\n"
        "task:\n"
        "  {family: template, words: {a: names, b: names}, answer: '{b}', rows: 20, source: {redraw: [b]},\n"
        "   text: 'The {a} and {b} lasted from the year [[when:1732]] to the'}\n"
        "claims: {right: {kind: accuracy, on: base, at_least: 0.9}}\n"
    )
    _, spec, gate = judge(text)
    bench = gate.runner.checkpoint.context("base", spec.task)
    batch = bench.batch(spec.task.pairs(bench.vocabulary, 20))
    for side in (batch.base, batch.require_source()):
        assert torch.equal(side.at("when.first") + 1, side.at("when"))
        assert torch.equal(side.at("when.last"), side.at("when"))
        assert torch.equal(side.at("a.first"), side.at("a"))
        ids = side.tokens.ids.gather(1, side.at("when.first"))
        assert set(ids[:, 0].tolist()) == {bench.model.encoder.word_id("17")}
    with pytest.raises(
        MechanismError, match=r"no position 'c\.first' here; valid: a, b, last, when"
    ):
        batch.base.at("c.first")


def test_discovery_says_that_a_model_at_chance_has_no_circuit(judge: Judge) -> None:
    """One line, for a family whose heads nobody named."""
    text = HEAD.format(family="induction") + (
        "groups: {g: {heads: discovered, at: last}}\n"
        "claims: {enough: {kind: faithfulness, on: base, between: [0.9, 1.1]}}\n"
    )
    found, _, _ = judge(text)
    assert "no better than chance" in found["enough"].reason


# -- which tokenizers


def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer, "a test's")


def test_years_are_one_token_after_a_century() -> None:
    """Years that some tokenizer splits there are neither questions nor answers."""
    tokenizer = split_numbers()
    known = encoder(tokenizer)
    assert known.word_id("32", "17") == tokenizer.token_to_id("32")
    assert known.word_id("3", "17") is None

    class Fewer(AnyWord):
        def whole(self, words, after=""):
            return tuple(w for w in words if (after, w) not in {("17", "50"), ("15", "60")})

    task = GreaterThan(GreaterThanParameters(family="greater_than"))
    for row in task.rows(Fewer(), 200):
        year = row.base.text.split()[6][2:]
        assert year not in ("50", "60")
        assert row.base.accepted == tuple(y for y in NUMBERS if y > year and y not in ("50", "60"))
    assert row.base.completion == row.base.answer
    assert SharedVocabulary((known,)).whole(["32", "3"], "17") == ("32",)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r"\d", "the tokenizers do not keep the century 11 whole"),
        (r"\d\d\d", "after a century the tokenizers keep 0 of 100 two-digit years whole"),
    ],
)
def test_a_tokenizer_that_writes_numbers_otherwise_is_one_line(pattern: str, says: str) -> None:
    """Tokenizers that write single digits, or three digits."""
    tokenizer = split_numbers()
    pieces = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pieces])
    task = GreaterThan(GreaterThanParameters(family="greater_than"))
    with pytest.raises(MechanismError) as problem:
        task.rows(SharedVocabulary((encoder(tokenizer),)), 20)
    assert str(problem.value).startswith(f"task greater_than: {says}")
    assert "that write 1732 as 17 and 32" in str(problem.value)


def test_ioi_s_three_kinds_of_prompt() -> None:
    """ABBA and BABA in turns; corrupted prompts with three names that the base does not have; in
    the other order, the names without the source's subject lead to the base's subject."""
    task = Ioi(IoiParameters(family="ioi"))

    def names(prompt):
        return {n: prompt.text[a:b] for n, ((a, b),) in prompt.spans.items()}

    for i, row in enumerate(task.pairs(AnyWord(), 32)):
        base, source = names(row.base), names(row.source)
        first = "IO" if i % 2 == 0 else "S1"
        assert min(("IO", "S1"), key=lambda n: row.base.spans[n]) == first
        assert base["S1"] == base["S2"] != base["IO"] == row.target
        three = {source[n] for n in ("IO", "S1", "S2")}
        assert len(three) == 3
        assert not three & {base["IO"], base["S1"]}
        after = row.base.text[row.base.spans["S1"][0][1] :].split()[0]
        assert base["S1_next"] == after
    for row in task.interchange(AnyWord(), "s_position", 32, "test"):
        base, source = names(row.base), names(row.source)
        assert row.target == base["S1"]
        orders = [p.spans["IO"] < p.spans["S1"] for p in (row.base, row.source)]
        assert orders[0] != orders[1]
        assert not {base["IO"], base["S1"]} & {source["IO"], source["S1"]}
    for row in task.interchange(AnyWord(), "io_name", 32, "test"):
        assert row.target == names(row.source)["IO"] != names(row.base)["IO"]
        assert names(row.source)["S1"] == names(row.base)["S1"]
    assert Ioi(IoiParameters(family="ioi", order="ABBA")).variables == ("io_name",)
