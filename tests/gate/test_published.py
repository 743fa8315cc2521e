"""The published circuits: their specs run to the end on random models of the published shapes, and one command
prints our scores beside the published figures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm_python
import yaml
from constant_model import TWO, split_numbers
from evaluators import open_evaluator
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.load import load
from recipes import published

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "circuits" / "published"
NAMES = ("entity_tracking_llama_7b", "ioi_gpt2_small")


# -- what the specs say


def test_the_llama_spec_has_the_published_heads() -> None:
    """The 72 heads of the published result file, group by group."""
    spec = load(PUBLISHED / "entity_tracking_llama_7b.yaml")
    file = ROOT / "tests" / "data" / "llama_7b_circuit.json"
    wanted = {
        name: sorted(map(tuple, heads))
        for name, heads in json.loads(file.read_text(encoding="utf-8")).items()
    }
    groups = {name: group for name, group in spec.groups.items() if isinstance(group, Group)}
    assert {name: group.members() for name, group in groups.items()} == wanted
    assert sum(map(len, wanted.values())) == 72


def test_the_ioi_spec_has_26_heads_in_seven_classes() -> None:
    spec = load(PUBLISHED / "ioi_gpt2_small.yaml")
    groups = [group for group in spec.groups.values() if isinstance(group, Group)]
    heads = [head for group in groups for head in group.members()]
    assert (len(groups), len(heads), len(set(heads))) == (7, 26, 26)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_about_a_claim_and_a_label_of_its_spec(name: str) -> None:
    spec = load(PUBLISHED / f"{name}.yaml")
    figures = published.figures(name)
    assert {figure.claim for figure in figures} <= {*spec.claims}
    labels = {label for figure in figures for label in figure.published}
    assert labels <= set(spec.applies_to.labels or ["gpt2"])
    readme = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert [f.what for f in figures if f"| {f.what} | {f.where} |" not in readme] == []


def test_a_plain_run_leaves_the_published_specs_alone() -> None:
    """They need weights that this repository lacks."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "circuits",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "--model-pair", "base,ft"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "entity_tracking.yaml::" in done.stdout
    assert "published" not in done.stdout


# -- the command's table


def result_of(claims: list[dict[str, Any]], **labels: str) -> dict[str, Any]:
    return {
        "mechanism_json": 1,
        "pair": {r: {"label": n} for r, n in labels.items()},
        "claims": claims,
    }


def claim(name: str, role: str, **scores: float) -> dict[str, Any]:
    entries = [
        {"name": n.replace("_", " "), "value": v, "interval": [v - 0.03, v + 0.03]}
        for n, v in scores.items()
    ]
    return {"claim": name, "role": role, "scores": entries, "reason": "it guesses"}


def test_ours_is_printed_beside_the_published_figure_of_the_labelled_model() -> None:
    """With interval and difference; a figure outside the interval is marked, and a missing score says why."""
    result = result_of(
        [
            claim("solves_task", "base", accuracy=0.7),
            claim("solves_task", "ft", accuracy=0.81),
            claim("circuit_suffices", "base", faithfulness_ratio=1.01),
            claim("circuit_suffices", "ft"),
        ],
        base="llama",
        ft="goat",
    )  # fmt: skip
    lines = list(published.report(result, "entity_tracking_llama_7b"))
    found = [re.split(r"  +", line) for line in lines[1:5]]
    assert [line[0] for line in found] == ["llama", "goat", "llama", "goat"]
    assert [line[2:-1] for line in found[:3]] == [
        ["0.66", "0.70", "[0.67, 0.73]", "+0.04 *"],
        ["0.82", "0.81", "[0.78, 0.84]", "-0.01"],
        ["1.00", "1.01", "[0.98, 1.04]", "+0.01"],
    ]
    assert found[3][2:] == ["0.89", "not measured", "Table 1; it guesses"]


def test_labels_that_no_figure_is_about_are_one_line() -> None:
    with pytest.raises(SystemExit, match=r"no published figure is about a or b; .* valid: gpt2"):
        list(published.report(result_of([], base="a", ft="b"), "ioi_gpt2_small"))


def test_a_file_that_is_no_result_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    for name, says in (("x.json", "is no result file"), ("y.json", "cannot be read")):
        with pytest.raises(SystemExit, match=says):
            published.main(["ioi_gpt2_small", "--result", str(tmp_path / name)])


LAYERS = {15: 0, 19: 1, 22: 2, 24: 3, 31: 3}
"""Layers of Llama-7B -> layers of the embedded pair."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels"),
    [("entity_tracking_llama_7b", ("llama", "goat")), ("ioi_gpt2_small", ("gpt2", "other"))],
    ids=NAMES,
)
def test_the_command_finds_a_score_for_every_figure(
    name: str,
    labels: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From two checkpoints to the table. The published claims, about the groups of the embedded pair, which solves its
    task: no figure is left without a score, whatever names the scores have."""
    figures = json.loads((PUBLISHED / "figures.json").read_text())[name]
    figures = [
        f for f in figures if f["score"] is not None
    ]  # None: the first, which every claim has
    own, theirs = (
        yaml.safe_load(path.read_text())
        for path in (ROOT / "circuits" / "entity_tracking.yaml", PUBLISHED / f"{name}.yaml")
    )
    for figure in figures:
        for layer, ours in LAYERS.items():
            figure["score"] = figure["score"].replace(f"layer {layer} on", f"layer {ours} on")
    claims = {figure["claim"]: theirs["claims"][figure["claim"]] for figure in figures}
    for claim in claims.values():
        if "from_layer" in claim:
            claim["from_layer"] = LAYERS[claim["from_layer"]]
    spec = {key: own[key] for key in ("mechanism", "circuit", "task", "groups", "found_on")}
    spec["task"]["rows"] = 105
    spec |= {"ablation": {"value": "positional_mean", "prompts": 200}, "claims": claims}
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (tmp_path / "figures.json").write_text(json.dumps({name: figures}))
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "executable", str(warm_python.script(tmp_path / "python")))
    pair = f"{labels[0]}=zoo:base,{labels[1]}=zoo:ft"
    published.main([name, "--model-pair", pair, "--mechanism-store", str(tmp_path / "store")])
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith(labels)]
    assert [line.split()[0] for line in lines] == [
        label for figure in figures for label in figure["published"] if label in labels
    ]
    assert [line for line in lines if not re.search(r"  -?\d+\.\d\d  +\[", line)] == []


# -- random models of the published shapes


def llama(folder: Path, seed: int) -> str:
    """32 layers of 32 heads, as Llama-7B, 64 wide."""
    torch.manual_seed(seed)
    words = json.loads((ZOO / "base" / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=words, hidden_size=64, intermediate_size=64, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "base" / name, folder / name)
    return str(folder)


def gpt2(folder: Path, seed: int, width: int = 768) -> str:
    """12 layers of 12 heads; at full width GPT-2 small, with its number of embeddings."""
    torch.manual_seed(seed)
    words = split_numbers(TWO)
    size = 50257 if width == 768 else words.get_vocab_size()
    config = GPT2Config(n_embd=width, vocab_size=size, n_positions=1024 if width == 768 else 64)
    GPT2LMHeadModel(config).save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    return str(folder)


def judged(spec: Path, store: Path, *labelled: str) -> dict[str, list[Any]]:
    """Role by role, the verdict of every claim, as pytest would judge it."""
    gate = open_evaluator("--model-pair", ",".join(labelled), "--store", store)
    read = load(spec)
    assert gate.skip_reason(read) is None
    items = [(read, claim, role) for claim in read.claims.values() for role in claim.roles()]
    gate.plan(items)
    names = [name for name, claim in read.claims.items() for _ in claim.roles()]
    found: dict[str, list[Any]] = {}
    for name, item in zip(names, items, strict=True):
        found.setdefault(name, []).append(gate.judge(*item))
    return found


def smaller(name: str, folder: Path) -> Path:
    """The spec on fewer and shorter prompts: ten contexts, of two boxes."""
    text = (PUBLISHED / f"{name}.yaml").read_text(encoding="utf-8")
    text = text.replace("boxes: 7", "boxes: 2")
    target = folder / f"{name}.yaml"
    target.write_text(re.sub(r"rows: \d+", "rows: 20", text), encoding="utf-8")
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels", "make"),
    [("entity_tracking_llama_7b", ("llama", "goat"), llama),
     ("ioi_gpt2_small", ("gpt2", "other"), lambda folder, seed: gpt2(folder, seed, 48))],
    ids=NAMES,
)  # fmt: skip
def test_a_published_spec_ends_on_random_models_of_its_shape(
    tmp_path: Path, name: str, labels: tuple[str, str], make: Callable[[Path, int], str]
) -> None:
    """Layers and heads as published, in narrow models, on fewer and shorter prompts. No claim ends in an error,
    and none passes: the models guess."""
    pair = [f"{label}={make(tmp_path / label, seed)}" for seed, label in enumerate(labels)]
    found = judged(smaller(name, tmp_path), tmp_path / "store", *pair)
    statuses = {
        claim: {verdict.status for verdict in of_claim} for claim, of_claim in found.items()
    }
    assert {claim: s for claim, s in statuses.items() if s - {"fail", "inconclusive"}} == {}


def test_a_model_of_another_shape_is_skipped_with_a_reason(tmp_path: Path) -> None:
    gate = open_evaluator("--model-pair", "llama=zoo:base,goat=zoo:ft", "--store", tmp_path)
    spec = load(PUBLISHED / "entity_tracking_llama_7b.yaml")
    assert gate.skip_reason(spec) == "spec applies to n_layers = 32; llama has 4"
    gate = open_evaluator("--model-pair", "base=zoo:base,ft=zoo:ft", "--store", tmp_path)
    assert (
        gate.skip_reason(spec) == "spec applies to labels llama, vicuna, goat, float; base is base"
    )


# -- the logit difference, in which the IOI paper measures


@pytest.mark.parametrize("engine", ["branch", "reference"])
def test_the_logit_difference_is_that_of_the_two_names(tmp_path: Path, engine: str) -> None:
    """Row by row, by plain transformers: the logit of the indirect object minus that of the subject."""
    folder = gpt2(tmp_path / "model", 0, 48)
    gate = open_evaluator("--model", folder, "--engine", engine, "--store", tmp_path / "store")
    spec = load(smaller("ioi_gpt2_small", tmp_path))
    suffices = spec.claims["circuit_suffices"]
    measurement = suffices.required_measurements(gate.context(spec, suffices, "base"))[0]
    found = gate.runner.measure(measurement).values["logit_difference"]
    context = gate.runner.checkpoint.context("base", spec.task)
    plain = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    wanted = []
    for row in context.task.rows(context.vocabulary, 20, "rows"):
        ids = context.side([row.base]).tokens.ids
        (subject,) = {word for word in row.base.options if word != row.base.answer}
        assert row.base.text.count(f" {subject}") == 2
        with torch.no_grad():
            logits = plain(ids).logits[0, -1]
        named = [context.answer_id(row.base, word) for word in (row.base.answer, subject)]
        wanted.append(float(logits[named[0]] - logits[named[1]]))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.01
