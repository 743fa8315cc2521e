"""The template family on a model whose circuit is known by construction.

The planted model answers "The apple is in Box O, ... Box O contains the" by the order of the boxes.
The same prompts as a template give the same verdicts: its heads suffice, they carry the position
and not the object's name until the last group, and a search finds them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.load import load
from pytest_mechanism.types import Verdict
from recipes.planted import MODELS

REST = "".join(f", the {{o{i}}} is in Box {{b{i}}}" for i in range(5))
ASKED = ". Box {X:query_label} contains the"
ITEMS, BOXES = ["A", "B", *(f"o{i}" for i in range(5))], ["X", "Y", *(f"b{i}" for i in range(5))]
ANEW = ", ".join([*ITEMS, *BOXES])

SPEC = f"""mechanism: 1
circuit: boxes
task:
  family: template
  words: {{items: objects, boxes: labels}}
  slots: {{{", ".join([f"{s}: items" for s in ITEMS] + [f"{s}: boxes" for s in BOXES])}}}
  texts:
    - - "The {{A}} is in Box {{X}}, the {{B}} is in Box {{Y}}{REST}{ASKED}"
      - "The {{B}} is in Box {{Y}}, the {{A}} is in Box {{X}}{REST}{ASKED}"
  answer: "{{A}}"
  source: {{text: other, redraw: [{ANEW}, query_label]}}
  variables:
    position: {{source: {{text: other, redraw: [{ANEW}]}}, target: "{{B}}"}}
    object: {{source: {{text: other, redraw: [{ANEW}]}}, target: "{{source.A}}"}}
  rows: 100
groups:
  value_fetcher:   {{heads: {{3: [1, 4]}}, at: last}}
  pos_transmitter: {{heads: {{2: [6]}}, at: last, into: {{group: value_fetcher, via: q}}}}
  pos_detector:    {{heads: {{1: [2]}}, at: query_label, into: {{group: pos_transmitter, via: v}}}}
  struct_reader:   {{heads: {{0: [1, 5]}}, at: X, into: {{group: pos_detector, via: v}}}}
ablation: {{value: positional_mean, prompts: 200}}
claims:
  solves: {{kind: accuracy, on: base, at_least: 0.95}}
  suffices: {{kind: faithfulness, on: base, between: [0.9, 1.1]}}
  heard: {{kind: path, on: base, group: pos_transmitter, drops_at_least: 1.0}}
  position: {{kind: encodes, on: base, group: pos_transmitter, variable: position, at_least: 0.9}}
  no_object: {{kind: encodes, on: base, group: pos_transmitter, variable: object, at_most: 0.1}}
  object: {{kind: encodes, on: base, group: value_fetcher, variable: object, at_least: 0.9}}
"""


def judged(text: str, folder: Path) -> tuple[dict[str, Verdict], ClaimEvaluator]:
    """Claim -> its verdict on the planted model, and the evaluator."""
    path = folder / "boxes.yaml"
    path.write_text(text)
    spec = load(path)
    gate = open_evaluator("--model", "zoo:planted_ft", "--store", folder / "store")
    return {name: gate.judge(spec, claim, "base") for name, claim in spec.claims.items()}, gate


def test_claims_about_a_planted_circuit_pass(tmp_path: Path) -> None:
    """Its heads suffice, have effects along their paths, and carry the planted variables."""
    verdicts, _ = judged(SPEC, tmp_path)
    assert {name: v.status for name, v in verdicts.items()} == dict.fromkeys(verdicts, "pass"), [
        v.reason for v in verdicts.values()
    ]


def test_a_false_claim_about_what_heads_carry_fails(tmp_path: Path) -> None:
    """The transmitter does not carry the object, and a head outside the circuit carries nothing."""
    text = SPEC.split("claims:", maxsplit=1)[0] + (
        "  other: {heads: {2: [1]}, at: last}\n"
        "claims:\n"
        "  object: {kind: encodes, on: base, group: pos_transmitter, variable: object, at_least: 0.1}\n"
        "  other: {kind: encodes, on: base, group: other, variable: position, at_least: 0.1}\n"
    )
    text = text.replace("ablation:", "").replace(" {value: positional_mean, prompts: 200}\n", "")
    assert {name: v.status for name, v in judged(text, tmp_path)[0].items()} == {
        "object": "fail",
        "other": "fail",
    }


@pytest.mark.slow
def test_discovery_finds_the_planted_heads_with_a_template(tmp_path: Path) -> None:
    """``heads: discovered`` on a task without Python."""
    head, groups = SPEC.split("claims:", maxsplit=1)[0].split("groups:")
    sought = re.sub(r"heads: \{.*?\]\}", "heads: discovered", groups)
    claims = "claims: {suffices: {kind: faithfulness, on: base, between: [0.9, 1.1]}}\n"
    path = tmp_path / "found.yaml"
    path.write_text(f"{head}groups:{sought}{claims}")
    verdicts, gate = judged(path.read_text(), tmp_path)
    assert verdicts["suffices"].status == "pass", verdicts["suffices"].reason
    (found,) = gate._discovered.values()
    assert {name: group.members() for name, group in found.groups.items()} == {
        name: sorted(group.heads) for name, group in MODELS["planted_ft"].items()
    }
