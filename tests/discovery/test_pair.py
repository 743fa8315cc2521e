"""``discover`` on a pair: the spec that it writes judges the fine-tune, and is red on a ruined one."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.checkpoints.shape import read_shape
from pytest_mechanism.cli import main
from pytest_mechanism.discovery import discover as discovery
from pytest_mechanism.discovery.discover import Effort
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 2, rows: 60, seed: 0}
groups:
  value_fetcher:   {heads: discovered, at: last}
  pos_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.9}
"""


def without_head(
    source: str, folder: Path, layer: int, head: int, noise: float | None = None
) -> Path:
    """A copy of an embedded model; what a head writes is silenced, or replaced by noise."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(ZOO / source, folder)
    weights = load_file(folder / "model.safetensors")
    size = read_shape(folder).d_head
    columns = slice(head * size, (head + 1) * size)
    gpt2 = f"transformer.h.{layer}.attn.c_proj.weight"  # its matrices are [inputs, outputs]
    part = (
        weights[gpt2][columns]
        if gpt2 in weights
        else weights[f"model.layers.{layer}.self_attn.o_proj.weight"][:, columns]
    )
    drawn = torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
    part.copy_((noise or 0.0) * float(part.float().std()) * drawn)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def verdicts(folder: Path, spec: str, pair: str) -> dict[str, str]:
    """``claim.role`` -> verdict, through the gate's own judgement."""
    gate = open_evaluator("--model-pair", pair, "--store", folder / "store")
    loaded = load(folder / spec)
    items = [(n, c, role) for n, c in loaded.claims.items() for role in c.roles()]
    gate.plan([(loaded, claim, role) for _, claim, role in items])
    statuses = {f"{n}.{role}": gate.judge(loaded, claim, role).status for n, claim, role in items}
    gate.runner.checkpoint.release()
    return statuses


FEW = partial(Effort, rank_rows=70, select_rows=42, threshold_rows=105)
"""A third of the rows: the planted effects are ten nats."""


@pytest.fixture
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "Effort", FEW)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``found.yaml``, discovered on the planted pair, and the store behind it."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "planted.yaml").write_text(SPEC)
    pair = "base=zoo:planted_base,ft=zoo:planted_ft"
    command = ["discover", "-q", str(folder / "planted.yaml"), "--store", str(folder / "store")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "Effort", FEW)
        # two groups do not do what the whole model does, and it says so
        assert main([*command, "--model-pair", pair, "--out", str(folder / "found.yaml")]) == 1
    return folder


@pytest.mark.slow
def test_what_holds_on_both_models_is_claimed_of_both(planted: Path) -> None:
    """The planted heads, claims on base and ft, and ft against base; all of it green on the pair."""
    spec = load(planted / "found.yaml")
    assert {n: g.members() for n, g in spec.groups.items()} == {
        "value_fetcher": [(3, 1), (3, 4)],
        "pos_transmitter": [(2, 6)],
    }
    statuses = verdicts(planted, "found.yaml", "base=zoo:planted_base,ft=zoo:planted_ft")
    assert statuses == {
        "solves_task.base": "pass",
        "solves_task.ft": "pass",
        "value_fetcher_is_heard.base": "pass",
        "value_fetcher_is_heard.ft": "pass",
        "pos_transmitter_is_heard.base": "pass",
        "pos_transmitter_is_heard.ft": "pass",
        "no_worse.ft": "pass",
    }


def test_what_does_not_hold_is_a_comment_with_its_score_on_each_model(planted: Path) -> None:
    """Two groups without the groups that feed them suffice in neither model."""
    text = (planted / "found.yaml").read_text()
    assert "# circuit_suffices: {kind: faithfulness, on: [base, ft], between: [0.9, 1.1]}" in text
    for role in ("base", "ft"):
        assert f"does not hold on held-out rows ({role}): fail, faith" in text
    assert (
        "# same_circuit: {kind: transfer, from: base, to: ft, faithfulness_at_least: 0.8}" in text
    )
    assert "no claim here judges the fine-tune" not in text
    assert "# claims about ft were judged on ft (" in text


def test_the_spec_is_red_on_a_fine_tune_whose_head_was_silenced(
    planted: Path, tmp_path: Path
) -> None:
    """Only claims about ft are red."""
    ruined = without_head("planted_ft", tmp_path / "ruined", 2, 6)
    statuses = verdicts(planted, "found.yaml", f"base=zoo:planted_base,ft={ruined}")
    red = {name for name, status in statuses.items() if status not in ("pass", "skipped")}
    assert "pos_transmitter_is_heard.ft" in red
    assert all(name.endswith(".ft") for name in red)


def test_with_one_model_the_spec_says_what_judges_a_fine_tune(
    planted: Path, little_effort: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The measurements come from the store; comments contain the claims to add, and these are valid."""
    command = ["discover", "-q", str(planted / "planted.yaml"), "--store", str(planted / "store")]
    out = planted / "alone.yaml"
    assert main([*command, "--model", "base=zoo:planted_base", "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("0 measurements made, ")
    text = out.read_text()
    assert "# no claim here judges the fine-tune (role ft)" in text
    assert {role for c in load(out).claims.values() for role in c.roles()} == {"base"}
    out.write_text(
        text.replace("# no_worse: ", "no_worse: ").replace("# same_circuit: ", "same_circuit: ")
    )
    assert {"no_worse", "same_circuit"} <= load(out).claims.keys()


def test_groups_that_were_found_are_written_although_another_was_not(
    planted: Path, little_effort: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """This model reads no object by its label: that group has no heads, the other groups keep theirs."""
    spec = planted / "partial.yaml"
    reader = (
        "  reader: {heads: discovered, at: correct_object, into: {group: value_fetcher, via: v}}\n"
    )
    below = "  below: {heads: discovered, at: correct_object, into: {group: reader, via: v}}\n"
    spec.write_text(SPEC.replace("claims:", f"{reader}{below}claims:"))
    out = planted / "part.yaml"
    command = ["discover", "-q", str(spec), "--store", str(planted / "store"), "--out", str(out)]
    assert main([*command, "--model", "base=zoo:planted_base"]) == 1
    output, err = capsys.readouterr()
    assert "base: no heads found for group reader, below: no head has the required effect" in err
    assert "lower find: {drops_at_least: ...}" in err
    heads = {line.split()[0]: line.split()[1:] for line in output.splitlines()[1:5]}
    assert heads == {
        "value_fetcher": ["3.1", "3.4"],
        "pos_transmitter": ["2.6"],
        "reader": ["not", "found"],
        "below": ["not", "found"],
    }
    assert {*load(out).groups} == {"value_fetcher", "pos_transmitter"}
    assert "# incomplete: no heads found for group reader" in out.read_text()


@pytest.mark.slow
def test_the_spec_of_the_embedded_pair_is_red_on_its_ruined_twins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Green on base and ft; red on the rerouted fine-tune, whose accuracy is above base's, and on one
    with noise in a head of the circuit."""
    shipped = load(ZOO.parents[1] / "circuits" / "entity_tracking.yaml")
    groups = "".join(
        f"  {name}: {{heads: discovered, at: {g.at}"
        + (f", into: {{group: {g.into.group}, via: {g.into.via}}}" if g.into else "")
        + "}\n"
        for name, g in shipped.groups.items()
    )
    (tmp_path / "e.yaml").write_text(
        "mechanism: 1\ncircuit: e\n"
        "task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 210, seed: 0}\n"
        f"groups:\n{groups}claims:\n  solves: {{kind: accuracy, at_least: 0.5}}\n"
    )
    command = ["discover", "-q", str(tmp_path / "e.yaml"), "--store", str(tmp_path / "store")]
    main(
        [*command, "--model-pair", "base=zoo:base,ft=zoo:ft", "--out", str(tmp_path / "found.yaml")]
    )
    statuses = verdicts(tmp_path, "found.yaml", "base=zoo:base,ft=zoo:ft")
    assert {*statuses.values()} == {"pass"}
    assert {"no_worse.ft", "same_circuit.pair", "pos_transmitter_is_heard.ft"} <= statuses.keys()
    noisy = without_head("ft", tmp_path / "noisy", 2, 2, noise=3.0)
    for ruined in ("zoo:ft_rerouted", str(noisy)):
        statuses = verdicts(tmp_path, "found.yaml", f"base=zoo:base,ft={ruined}")
        red = {name for name, status in statuses.items() if status != "pass"}
        assert red
        assert all(name.endswith((".ft", ".pair")) for name in red)
