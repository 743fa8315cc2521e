"""A red gate names the heads behind it; a permuted copy is explained; planted changes are found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluators import open_evaluator
from transformers import AutoModelForCausalLM

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import Located, Verdict

WIDTH = 32
SPEC = """mechanism: 1
circuit: located
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 84, seed: 0}
groups:
  value_fetcher:   {heads: {3: [0, 1, 2, 3]}, at: last}
  pos_transmitter: {heads: {2: [2]}, at: last, into: {group: value_fetcher, via: q}}
found_on: base
claims:
  heard: {kind: path, on: ft, group: pos_transmitter, drops_at_least: 0.5}
  same:  {kind: same_profile, margin: 0.25}
  solves: {kind: accuracy, on: ft, at_least: 0.999}
  again: {kind: same_profile, from: ft, to: other, margin: 0.05}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("located")
    (root / "spec.yaml").write_text(SPEC)
    return root


Judge = Callable[..., tuple[Verdict, Located | None]]


@pytest.fixture(scope="module")
def judge(folder: Path) -> Judge:
    """The verdict on a claim, and the members behind it."""

    def of(name: str, ft: str, other: str | None = None) -> tuple[Verdict, Located | None]:
        options = ["--model-pair", f"base=zoo:base,ft={ft}", "--store", folder / "store"]
        if other is not None:
            options += ["--mechanism-model", f"other={other}"]
        gate: ClaimEvaluator = open_evaluator(*options)
        spec: Spec = load(folder / "spec.yaml")
        claim = spec.claims[name]
        role = claim.roles()[0]
        verdict = gate.judge(spec, claim, role)
        found = gate.locate(spec, claim, role, verdict.cause)
        gate.runner.checkpoint.release()
        return verdict, found

    return of


def changed(folder: Path, name: str, change: Callable[[Any], None]) -> str:
    """A copy of ``ft`` with another attention in layer 2."""
    model = AutoModelForCausalLM.from_pretrained(ZOO / "ft", dtype=torch.float32)
    with torch.no_grad():
        change(model.model.layers[2].self_attn)
    model.save_pretrained(folder / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "ft" / file, folder / name / file)
    return str(folder / name)


def own(head: int) -> slice:
    return slice(head * WIDTH, (head + 1) * WIDTH)


def move(share: float) -> Callable[[Any], None]:
    """Head 2.1 becomes a copy of 2.2 and does this share of its work."""

    def change(attention: Any) -> None:
        for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
            matrix.weight[own(1)] = matrix.weight[own(2)].clone()
        written = attention.o_proj.weight[:, own(2)].clone()
        attention.o_proj.weight[:, own(2)] = written * (1 - share)
        attention.o_proj.weight[:, own(1)] = written * share

    return change


def permute(attention: Any) -> None:
    order = torch.cat([torch.arange(WIDTH) + WIDTH * h for h in (2, 1, 3, 0)])
    for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
        matrix.weight.copy_(matrix.weight[order].clone())
    attention.o_proj.weight.copy_(attention.o_proj.weight[:, order].clone())


@pytest.mark.slow
def test_a_red_claim_names_who_fell_silent_and_who_took_over(judge: Judge) -> None:
    """Known answer: training moved the work of head 2.2 to head 2.1; and `same_profile` is red by the same."""
    _, found = judge("heard", "zoo:ft_rerouted")
    assert found is not None
    assert found.lines[0].startswith("head 2.2 of pos_transmitter fell silent towards q of")
    assert found.lines[1].startswith("head 2.1 (in no group) took over towards q of")
    verdict, _ = judge("same", "zoo:ft_rerouted")
    assert (verdict.status, found.lines[0].split(":")[0] in verdict.reason) == ("fail", True)
    _, of_task = judge("solves", "zoo:ft_rerouted")  # the spec makes the sweep anyway
    assert of_task is not None
    assert of_task.lines[:2] == found.lines[:2]


@pytest.mark.slow
def test_the_embedded_pair_has_one_profile(judge: Judge) -> None:
    """Green, so nothing is looked for."""
    verdict, found = judge("same", "zoo:ft")
    assert (verdict.status, found) == ("pass", None)


@pytest.mark.slow
def test_a_model_has_its_own_profile(judge: Judge) -> None:
    """Null: the same weights in another file differ in no row."""
    verdict, _ = judge("again", "zoo:ft", "zoo:ft")
    assert (verdict.status, {member.change for member in verdict.members}) == ("pass", {0.0})


@pytest.mark.slow
def test_work_that_moved_by_a_share_is_found(judge: Judge, folder: Path) -> None:
    """Known answer: 30 % of head 2.2's output comes from head 2.1, and 2.2 is named first. Head 2.1 is not: patched
    alone, less than a third of the signal does not change what the fetchers attend to."""
    verdict, _ = judge("again", "zoo:ft", changed(folder, "moved", move(0.3)))
    assert verdict.status == "fail"
    named = verdict.reason.split(": ", 1)[1].split("; ")
    assert named[0].startswith("head 2.2 of pos_transmitter does less towards q of value_fetcher")


@pytest.mark.slow
def test_a_permuted_copy_is_green_and_explained(judge: Judge, folder: Path) -> None:
    """It computes the same; the reason says which head is which. A claim about a head by its number is red, and its
    first line says why."""
    path = changed(folder, "permuted", permute)
    verdict, _ = judge("again", "zoo:ft", path)
    assert verdict.status == "pass"
    order = "layer 2's heads are those of ft in another order: 0 -> 3, 2 -> 0, 3 -> 2"
    assert verdict.reason.startswith(order)
    red, found = judge("heard", path)
    assert (red.status, found is not None) == ("fail", True)
    assert found is not None
    assert found.lines[0] == order.replace("of ft", "of base")
