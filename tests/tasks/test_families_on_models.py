"""The slot families through the whole plugin, on a model that answers 99 to every prompt.

It is always right where any later year is right, and always wrong elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from constant_model import TWO, save_constant_model, split_numbers
from evaluators import open_evaluator

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.ioi import Ioi, IoiParameters
from pytest_mechanism.types import Verdict

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that always says 99."""
    return save_constant_model(tmp_path_factory.mktemp("says_99"), split_numbers(TWO), "99")


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
        verdicts = {name: gate.judge(spec, claim, "base") for name, claim in spec.claims.items()}
        return verdicts, spec, gate

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
    verdicts, _, _ = judge(text)
    assert {name: verdict.status for name, verdict in verdicts.items()} == {
        "right": "fail",
        "enough": "inconclusive",
        "heard": "inconclusive",
        "holds": "inconclusive",
    }


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
    context = gate.runner.checkpoint.context("base", spec.task)
    batch = context.batch(spec.task.pairs(context.vocabulary, 20))
    for side in (batch.base, batch.require_source()):
        assert torch.equal(side.at("when.first") + 1, side.at("when"))
        assert torch.equal(side.at("when.last"), side.at("when"))
        assert torch.equal(side.at("a.first"), side.at("a"))
        ids = side.tokens.ids.gather(1, side.at("when.first"))
        assert set(ids[:, 0].tolist()) == {context.model.encoder.word_id("17")}
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
    verdicts, _, _ = judge(text)
    assert "no better than chance" in verdicts["enough"].reason


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
