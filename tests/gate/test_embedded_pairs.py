"""The gate as a release engineer runs it, on the embedded checkpoints and on random weights."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "pytest_mechanism" / "zoo"
ACCURACY_CLAIMS = {"solves_task", "no_worse"}

Gate = Any
"""conftest's."""


@pytest.fixture(scope="module")
def random_pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two models of random weights in the shape of the embedded pair."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sides = []
    for label, seed in (("base", 1), ("ft", 2)):
        folder = tmp_path_factory.mktemp(f"random_{label}")
        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(ZOO / "base")
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ZOO / "base" / name, folder / name)
        sides.append(f"{label}={folder}")
    return ",".join(sides)


def verdicts(content: dict[str, Any]) -> dict[str, str]:
    return {f"{c['claim']}::{c['role']}": c["verdict"] for c in content["claims"]}


def test_the_embedded_pair_is_green(gate: Gate) -> None:
    """Every claim of the shipped spec holds of base and ft, in at least ten tests."""
    code, content, output = gate.once("zoo:base,zoo:ft")
    assert code == 0, output
    assert set(verdicts(content).values()) == {"pass"}
    assert len(content["claims"]) >= 10


def test_the_shipped_scores_are_those_of_the_shipped_checkpoints(gate: Gate) -> None:
    """No score is without an accepted baseline, and none has moved from it."""
    _, content, _ = gate.once("zoo:base,zoo:ft")
    assert {c["drift_state"] for c in content["claims"]} == {"same"}


def test_a_rerouted_model_keeps_its_accuracy_and_loses_its_mechanism(gate: Gate) -> None:
    """What benchmarks miss: every accuracy claim green, at least two mechanism claims red."""
    asked = [*ACCURACY_CLAIMS, "transmitter_holds_position", "same_circuit", "circuit_suffices"]
    code, content, output = gate.run("zoo:base,zoo:ft_rerouted", "-k", " or ".join(asked))
    result = {c["id"].split("::", 1)[1]: c for c in content["claims"]}
    assert code == 1, output
    for name, claim in result.items():
        if claim["claim"] in ACCURACY_CLAIMS:
            assert claim["verdict"] == "pass", name
    red = {c["claim"] for c in result.values() if c["verdict"] == "fail"}
    assert len(red) >= 2
    assert red.isdisjoint(ACCURACY_CLAIMS)
    assert result["solves_task::ft"]["score"] > result["solves_task::base"]["score"]


@pytest.mark.slow
def test_no_claim_passes_on_random_weights(gate: Gate, random_pair: str) -> None:
    """Null: two random models are not worse than each other, and it means nothing."""
    spec = gate.folder / "circuits" / "null.yaml"
    # fewer rows than shipped: what must not pass with 504 must not with 70 either
    shipped = (ROOT / "circuits" / "entity_tracking.yaml").read_text()
    fewer = re.sub(r"rows: \d+", "rows: 70", shipped)
    spec.write_text(re.sub(r"prompts: \d+", "prompts: 250", fewer))
    assert fewer != shipped
    code, content, output = gate.run(random_pair, spec="null")
    assert code == 1, output
    assert len(content["claims"]) >= 10
    assert set(verdicts(content).values()) <= {"fail", "inconclusive"}


def test_cross_model_patching_shows_the_pattern_of_the_paper(gate: Gate) -> None:
    """The fetchers recover the most, each position group something, random heads next to nothing;
    each with interval and control."""
    _, content, _ = gate.once("zoo:base,zoo:ft")
    result = {c["claim"]: c for c in content["claims"] if c["kind"] == "cmap"}
    fetchers = result.pop("ft_improves_fetching")
    assert fetchers["score"] == max(c["score"] for c in [fetchers, *result.values()])
    for name, claim in result.items():
        assert claim["interval"][0] > 0, name
    controls = [c["control"]["value"] for c in result.values() if c["control"] is not None]
    assert len(controls) >= 2
    assert max(map(abs, controls)) <= 0.1


def test_an_unchanged_pair_is_judged_without_torch(gate: Gate) -> None:
    """The second run measures nothing, resamples nothing, loads nothing and imports neither torch nor transformers."""
    first = gate.once("zoo:base,zoo:ft")
    code, content, output = gate.run("zoo:base,zoo:ft", python=[sys.executable])
    assert code == 0, output
    assert "torch imported: False" in output
    assert "statistics imported: False" in output
    assert "torch imported: True" in first[2]
    assert "data sets imported: False" in first[2]  # which transformer-lens would bring
    assert content["checkpoints_loaded"] == 0
    assert content["measurements"]["done"] == 0
    assert content["measurements"]["from_store"] > 0
    assert verdicts(content) == verdicts(first[1])


def test_the_pair_is_loaded_twice(gate: Gate) -> None:
    """One load a checkpoint: the donor first, then the recipient."""
    _, content, _ = gate.once("zoo:base,zoo:ft")
    assert content["checkpoints_loaded"] == 2


def test_a_moved_score_of_unchanged_checkpoints_is_red(gate: Gate) -> None:
    """Drift with unchanged fingerprints: exit code 1, and the message names the change."""
    gate.once("zoo:base,zoo:ft")
    path = gate.folder / "circuits" / "__scores__" / "base+ft" / "entity_tracking.json"
    before = path.read_text()
    stored = json.loads(before)
    stored["scores"]["solves_task.ft"]["value"] -= 0.05
    path.write_text(json.dumps(stored))
    try:
        code, content, output = gate.run("zoo:base,zoo:ft", "-k", "solves_task")
    finally:
        path.write_text(before)
    assert code == 1
    assert verdicts(content) == {"solves_task::base": "pass", "solves_task::ft": "fail"}
    assert "on unchanged checkpoints: the tool" in " ".join(output.split())


def test_the_shipped_spec_has_power(gate: Gate) -> None:
    """An unchanged pair passes each claim with a chance of at least 0.97, and all of them of 0.9."""
    from pytest_mechanism.plugin.score_file import read_scores
    from pytest_mechanism.statistics.power import OF_SHIPPED, WANTED, of_spec, power

    scores = read_scores(ROOT / "circuits" / "__scores__" / "base+ft" / "entity_tracking.json")
    result = {n: power([*e["judged"], *e.get("checks", ())], 0.95) for n, e in scores.items()}
    assert {name: p for name, p in result.items() if p.passes < OF_SHIPPED} == {}
    assert of_spec([*result.values()]) >= WANTED
    assert len(result) >= 10
