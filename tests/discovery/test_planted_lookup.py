"""``pytest-mechanism discover`` on a model in which an MLP does the work."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism import cli
from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.claims.needed_heads import parts_of
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.load import load
from recipes import planted_lookup

FIND = "find: {members: [heads, mlps]}"
SPEC = f"""mechanism: 1
circuit: lookup
{planted_lookup.TASK.rstrip()}
  rows: 70
groups:
  lookup:  {{heads: discovered, at: last, {FIND}}}
  fetcher: {{heads: discovered, at: last, into: {{group: lookup, via: input}}, {FIND}}}
claims:
  solves: {{kind: accuracy, on: base, at_least: 0.5}}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``lookup``, the planted model, and ``found.yaml``, the spec that discovery wrote on it."""
    folder = tmp_path_factory.mktemp("lookup")
    planted_lookup.make("lookup", folder)
    (folder / "spec.yaml").write_text(SPEC)
    command = ["discover", str(folder / "spec.yaml"), "--model", str(folder / "lookup")]
    out = ["--store", str(folder / "store"), "--out", str(folder / "found.yaml")]
    assert cli.main([*command, *out]) == 0
    return folder


def test_the_mlp_is_found_as_a_member(found: Path) -> None:
    """Of 12 heads and 3 MLPs: the MLP that looks up, and the head that its input comes from."""
    groups = load(found / "found.yaml").groups
    assert {
        name: parts_of(group) for name, group in groups.items() if isinstance(group, Group)
    } == {
        "lookup": [(planted_lookup.LOOKUP, "mlp", "last")],
        "fetcher": [planted_lookup.FETCHER],
    }
    assert "# 1.mlp: -12.0" in (found / "found.yaml").read_text().replace("-11.99", "-12.0")


def test_the_written_spec_is_red_where_the_mlp_is_zeroed(found: Path) -> None:
    """All its claims pass on the model, and none passes on the same model without the MLP's output."""
    import torch

    model = planted_lookup.build()
    with torch.no_grad():
        model.transformer.h[planted_lookup.LOOKUP].mlp.c_proj.weight.zero_()
    planted_lookup.save(model, found / "zeroed")
    spec = load(found / "found.yaml")
    verdicts = {}
    for name in ("lookup", "zeroed"):
        gate = open_evaluator("--model", found / name, "--store", found / "store")
        verdicts[name] = {
            claim: gate.judge(spec, spec.claims[claim], "base").status for claim in spec.claims
        }
    claims = ["solves_task", "circuit_suffices", "lookup_is_heard", "fetcher_is_heard"]
    assert verdicts["lookup"] == dict.fromkeys(claims, "pass")
    assert "pass" not in verdicts["zeroed"].values()
    assert verdicts["zeroed"]["solves_task"] == "fail"


@pytest.mark.slow
def test_claims_about_the_mlp_itself_hold_and_fail(found: Path) -> None:
    """It carries the country (``encodes``), and its output recovers what a model lost with it (``cmap``); the
    MLP of another layer does neither. A model with its residual stream in another basis is not comparable."""
    import torch

    model = planted_lookup.build()
    with torch.no_grad():
        model.transformer.h[planted_lookup.LOOKUP].mlp.c_proj.weight.zero_()
    planted_lookup.save(model, found / "without")
    claims = "".join(
        f"  {name}_carries: {{kind: encodes, group: {name}, variable: country, on: base, at_least: 0.5}}\n"
        f"  {name}_recovers: {{kind: cmap, group: {name}, donor: base, recipient: ft, recovers_at_least: 0.5}}\n"
        for name in ("lookup", "other")
    )
    groups = "groups: {lookup: {mlps: {1: last}, at: last}, other: {mlps: {2: last}, at: last}}\n"
    (found / "claims.yaml").write_text(
        f"{SPEC.split('groups:', maxsplit=1)[0]}{groups}claims:\n{claims}"
    )
    spec = load(found / "claims.yaml")
    pair = f"{found / 'lookup'},{found / 'without'}"
    gate = open_evaluator("--model-pair", pair, "--store", found / "store")
    status = {
        name: gate.judge(spec, claim, claim.roles()[0]).status
        for name, claim in spec.claims.items()
    }
    assert status == {
        "lookup_carries": "pass",
        "lookup_recovers": "pass",
        "other_carries": "fail",
        "other_recovers": "fail",
    }


def test_on_random_weights_no_mlp_is_found(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, a sentence, no spec."""
    import torch

    model = planted_lookup.build()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    planted_lookup.save(model, found / "random")
    command = ["discover", str(found / "spec.yaml"), "--model", str(found / "random")]
    out = ["--store", str(found / "store"), "--out", str(found / "none.yaml")]
    assert cli.main([*command, *out]) == 1
    assert "answers no better than chance, so there is no circuit" in capsys.readouterr().err
    assert not (found / "none.yaml").exists()


HEADS_ALONE = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 7, rows: 140, seed: 0}
groups:
  value_fetcher:     {heads: discovered, at: last}
  label_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
  object_reader:
    {heads: discovered, at: previous_query_label, into: {group: value_fetcher, via: v}}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.9}
"""


@pytest.mark.slow
def test_a_circuit_of_heads_is_found_as_one_where_everything_is_offered(tmp_path: Path) -> None:
    """MLPs that do nothing are no members, and whole attention outputs yield to the heads that work."""
    (tmp_path / "planted.yaml").write_text(HEADS_ALONE)
    command = ["discover", str(tmp_path / "planted.yaml"), "--model", str(ZOO / "planted_label")]
    out = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "found.yaml")]
    assert cli.main([*command, "--members", "heads,mlps,attention_outputs", *out]) == 0
    groups = load(tmp_path / "found.yaml").groups
    assert {
        name: parts_of(group) for name, group in groups.items() if isinstance(group, Group)
    } == {
        "value_fetcher": [(3, 1)],
        "label_transmitter": [(2, 6)],
        "object_reader": [(0, 1)],
    }


CASES = {
    "an unknown kind": ("--members heads,mlp", "'mlp' is no kind; did you mean 'mlps'? valid: "),
    "a kind twice": ("--members heads,heads", "names heads twice"),
    "a reader without the input": (
        "--members heads",
        "spec.yaml:18: group fetcher: its reader lookup has no MLPs, which alone read through via: input; "
        "valid: q, k, v",
    ),
}


@pytest.mark.parametrize(("flag", "message"), CASES.values(), ids=CASES)
def test_a_wrong_offer_is_one_line_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, message: str
) -> None:
    """The flag, or the line of the spec, and what is valid."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    command = ["discover", str(tmp_path / "spec.yaml"), "--model", "zoo:base", *flag.split()]
    with contextlib.suppress(SystemExit):  # argparse
        assert cli.main(command) == 2
    assert message in capsys.readouterr().err


def test_named_mlps_that_the_search_does_not_offer_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A spec that discovery wrote is searched again with the flag."""
    text = SPEC.split("groups:", maxsplit=1)[0] + (
        "groups: {lookup: {mlps: {1: last}, at: last}}\n"
        "claims: {solves: {kind: accuracy, on: base, at_least: 0.5}}\n"
    )
    (tmp_path / "spec.yaml").write_text(text)
    assert cli.main(["discover", str(tmp_path / "spec.yaml"), "--model", "zoo:base"]) == 2
    assert (
        "group lookup names mlps, and its search offers heads alone; leave mlps out, or write --members heads,mlps"
        in capsys.readouterr().err
    )
