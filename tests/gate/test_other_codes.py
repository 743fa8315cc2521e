"""Pairs that compute the same and store it otherwise, and masks, through claims as a run judges them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluators import open_evaluator
from transformers import AutoModelForCausalLM

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.methods.circuits import dcm
from pytest_mechanism.spec.load import load
from pytest_mechanism.types import Verdict

SPEC = """mechanism: 1
circuit: other_codes
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 140, seed: 0}
groups:
  value_fetcher:   {heads: {3: [0, 1, 2, 3]}, at: last}
  layer_two:       {heads: {2: [0, 1, 2, 3]}, at: last, into: {group: value_fetcher, via: q}}
  pos_detector:    {heads: {1: [3]}, at: query_label, into: {group: layer_two, via: v}}
  struct_reader:   {heads: {0: [0, 1, 2, 3]}, at: previous_query_label, into: {group: pos_detector, via: v}}
ablation: {value: mean, prompts: 70}
claims:
  gains: {kind: cmap, group: value_fetcher, donor: ft, recipient: base, recovers_at_least: 0.3}
  loses: {kind: cmap, group: value_fetcher, donor: base, recipient: ft, recovers_at_least: 0.3, carries: loss}
  gains_learned:
    {kind: cmap, group: layer_two, heads: learned, variable: position, donor: ft, recipient: base,
     recovers_at_least: 0.01}
  learned: {kind: encodes, on: ft, group: layer_two, heads: learned, variable: position, at_least: 0.75}
  looks: {kind: cmap, group: value_fetcher, activations: [q, k], donor: ft, recipient: base, both_ways: true,
          of: log_probability, recovers_at_least: 0.5}
  works: {kind: transfer, from: base, to: ft, faithfulness_at_least: 0.9}
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Verdict]]:
    """Verdicts on base and one of ft's twins."""
    root = tmp_path_factory.mktemp("other_codes")
    (root / "spec.yaml").write_text(SPEC)

    def of(ft: str, *names: str) -> dict[str, Verdict]:
        gate = open_evaluator("--model-pair", f"base=zoo:base,ft={ft}", "--store", root / "store")
        spec = load(root / "spec.yaml")
        result = {n: gate.judge(spec, spec.claims[n], spec.claims[n].roles()[0]) for n in names}
        gate.runner.checkpoint.release()
        return result

    return of


def twin(folder: Path, change: Callable[[Any], None]) -> str:
    """``ft`` with the attention of its last layer stored otherwise."""
    model = AutoModelForCausalLM.from_pretrained(ZOO / "ft", dtype=torch.float32)
    with torch.no_grad():
        change(model.model.layers[3].self_attn)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "ft" / name, folder / name)
    return str(folder)


def permute(attention: Any) -> None:
    width = attention.head_dim
    order = torch.cat([torch.arange(h * width, (h + 1) * width) for h in (2, 3, 1, 0)])
    for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
        matrix.weight.copy_(matrix.weight[order])
    attention.o_proj.weight.copy_(attention.o_proj.weight[:, order])


def turn(attention: Any) -> None:
    width, generator = attention.head_dim, torch.Generator().manual_seed(0)
    for head in range(4):
        rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
        own = slice(head * width, (head + 1) * width)
        attention.v_proj.weight[own] = rotation @ attention.v_proj.weight[own]
        attention.o_proj.weight[:, own] = attention.o_proj.weight[:, own] @ rotation.T


@pytest.mark.slow
def test_a_fine_tune_is_comparable_and_masks_select_what_carries_the_position(
    judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known answer: of layer 2, head 2.2 alone; its control is one head, not four."""
    monkeypatch.setattr(dcm, "DcmSettings", partial(dcm.DcmSettings, train=256, validation=64))
    result = judged("zoo:ft", "gains", "loses", "looks", "learned", "gains_learned")
    for name in ("gains", "loses", "looks", "learned"):
        assert result[name].status == "pass", result[name].reason
    learned = result["learned"]
    assert learned.score.metric.endswith("heads selected by DCM: 2.2")
    assert learned.score.value > 0.9
    assert result["gains_learned"].score.value > 0.05
    for name in ("learned", "gains_learned"):  # the group fills its layer
        assert result[name].score.control.name.startswith("1 random head of other layers")


@pytest.mark.slow
def test_heads_that_changed_places_are_not_comparable(judged, tmp_path: Path) -> None:
    """Whichever of the two donates; and no circuit of head numbers can be carried over."""
    result = judged(twin(tmp_path, permute), "gains", "loses", "looks", "works")
    for name in ("gains", "loses", "looks"):
        assert (result[name].status, result[name].scores) == ("inconclusive", ())
        assert "not comparable by index" in result[name].reason
    assert result["works"].status == "inconclusive"
    assert "of ft does its work" in result["works"].reason


@pytest.mark.slow
def test_heads_in_another_basis_are_not_exchanged_and_still_a_circuit(
    judged, tmp_path: Path
) -> None:
    """What a head says cannot be put into the other model; that it is the same head still holds, and where it
    looks can be exchanged."""
    plain = judged("zoo:ft", "looks", "works")
    result = judged(twin(tmp_path, turn), "gains", "loses", "looks", "works")
    for name in ("gains", "loses"):
        assert (result[name].status, result[name].scores) == ("inconclusive", ())
        assert "does the same work in another basis of z" in result[name].reason
    assert (result["looks"].status, plain["looks"].status) == ("pass", "pass")
    assert [s.value for s in result["looks"].scores] == pytest.approx(
        [s.value for s in plain["looks"].scores], abs=0.02
    )
    assert result["works"].status == plain["works"].status
    assert result["works"].score.value == pytest.approx(plain["works"].score.value, abs=0.02)
