"""``pytest-mechanism discover`` on a model whose circuit is known, and on one that has none."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_pair import FEW, discovery
from test_planted_lookup import SPEC as LOOKUP_SPEC

from pytest_mechanism import cli
from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.claims.needed_heads import parts_of
from pytest_mechanism.commands.discover import Search
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.load import load
from recipes import planted_lookup

ROOT = Path(__file__).parents[2]

SPEC = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 7, rows: 70, seed: 0}
groups:
  value_fetcher:     {heads: discovered, at: last}
  label_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
  object_reader:
    {heads: discovered, at: previous_query_label, into: {group: value_fetcher, via: v}}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.9}
"""

LOOKED_UP = {
    "lookup": [(planted_lookup.LOOKUP, "mlp", "last")],
    "fetcher": [planted_lookup.FETCHER],
}

KILLED_AFTER = 4
"""Measurements."""

KILLED = """
import os, signal, sys
from pytest_mechanism import cli
from pytest_mechanism.runner.store import Store
from test_pair import FEW, discovery
discovery.Effort = FEW
put, left = Store.put, int(sys.argv.pop(1))
def put_and_die(store, key, result):
    global left
    put(store, key, result)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
Store.put = put_and_die
sys.exit(cli.main())
"""
"""The command line in a process that kills itself when it has stored so many measurements; with few rows."""

PATHS = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1], ROOT)))
"""Of this folder's modules, those of all tests, and the recipes."""


Discover = Callable[..., tuple[int, str]]


@pytest.fixture
def discover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Discover:
    """Runs the command in ``tmp_path``: exit code and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(
        model: str, spec: str = SPEC, store: str = "store", killed_after: int = 0
    ) -> tuple[int, str]:
        Path("planted.yaml").write_text(spec)
        command = ["discover", "planted.yaml", "--model", model]
        command += ["--store", store, "--out", f"{store}.yaml"]
        if not killed_after:
            code = cli.main(command)
            return code, capsys.readouterr().err
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(killed_after), *command],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS},
            capture_output=True,
            text=True,
            check=False,
        )
        return killed.returncode, killed.stderr

    return run


def stored(folder: Path) -> set[str]:
    return {path.name for path in (folder / "store").glob("*.measurement")}


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was_and_writes_the_same_spec(
    tmp_path: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, the same command again: nothing is measured twice, the heads and MLPs are exactly the planted ones,
    and the spec is that of a search without interruption."""
    monkeypatch.setattr(discovery, "Effort", FEW)
    planted_lookup.make("lookup", tmp_path)
    model = str(tmp_path / "lookup")
    code, err = discover(model, LOOKUP_SPEC, killed_after=KILLED_AFTER)
    assert code == -signal.SIGKILL, err
    before = stored(tmp_path)
    assert len(before) == KILLED_AFTER
    assert not (tmp_path / "store.yaml").exists()

    code, err = discover(model, LOOKUP_SPEC)

    assert code == 0, err
    made, taken = map(int, re.findall(r"(\d+) measurements made, (\d+) taken", err)[0])
    assert taken == KILLED_AFTER
    assert made == len(stored(tmp_path) - before) > 0
    groups = load(tmp_path / "store.yaml").groups
    assert {
        name: parts_of(group) for name, group in groups.items() if isinstance(group, Group)
    } == LOOKED_UP

    code, err = discover(model, LOOKUP_SPEC, store="whole")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "whole").glob("*.measurement")} == stored(tmp_path)
    assert (tmp_path / "whole.yaml").read_text() == (tmp_path / "store.yaml").read_text()


def test_an_existing_spec_is_not_overwritten(tmp_path: Path, discover: Discover) -> None:
    """Unless asked to; nothing is measured before that is known."""
    (tmp_path / "store.yaml").write_text("mine")
    code, err = discover("zoo:planted_label")
    assert code == 2
    assert "store.yaml exists already; --force overwrites it" in err
    assert (tmp_path / "store.yaml").read_text() == "mine"


@pytest.mark.parametrize(("force", "kept"), [(False, "mine"), (True, "found")])
def test_a_spec_that_appeared_during_the_search_is_not_overwritten(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    force: bool,
    kept: str,
) -> None:
    """Two searches that began in one folder do not replace each other's spec, unless asked to."""
    out = tmp_path / "found.yaml"

    replaced: dict[str, Callable[..., object]] = {
        "make_preflight": lambda _: out.write_text("mine"),
        "search_role": lambda self, role: self.results.update({role: SimpleNamespace(reason="")}),
        "spec_text": lambda _: "found",
        **dict.fromkeys(("comparison", "verdicts", "shortcomings"), lambda _: iter(())),
        "about_file": lambda _, __: iter(()),
    }
    for name, instead in replaced.items():
        monkeypatch.setattr(Search, name, instead)
    (tmp_path / "x.yaml").write_text(SPEC)
    options = ["--out", str(out), "--model", "zoo:base", *(["--force"] if force else [])]
    assert cli.main(["discover", str(tmp_path / "x.yaml"), *options]) == (0 if force else 2)
    assert out.read_text() == kept
    assert ("was not there before" in capsys.readouterr().err) is not force


def test_a_spec_that_could_not_be_written_is_said_before_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output folder is missing, or a folder has the name of the output file."""
    (tmp_path / "planted.yaml").write_text(SPEC)
    for out in ("none/found.yaml", "."):
        command = ["discover", str(tmp_path / "planted.yaml"), "--model", "zoo:planted_label"]
        assert cli.main([*command, "--force", "--out", str(tmp_path / out)]) == 2
        assert "cannot be written: " in capsys.readouterr().err


def test_only_the_pair_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further checkpoint of the run is a control of claims, and its heads are nobody's."""
    (tmp_path / "planted.yaml").write_text(SPEC)
    searched: list[str] = []
    monkeypatch.setattr(Search, "search_role", lambda self, role: searched.append(role))
    options = ["--model", "zoo:planted_label", "--store", str(tmp_path / "store")]
    command = ["discover", str(tmp_path / "planted.yaml"), *options]

    assert cli.main([*command, "--mechanism-model", "control=zoo:planted_base"]) == 1
    assert searched == ["base"]


def test_on_random_weights_nothing_is_found_and_it_says_so(
    tmp_path: Path, discover: Discover, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Exit code 1, a sentence, no spec."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ZOO / "base")).save_pretrained(
        folder
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "base" / name, folder / name)
    code, err = discover(f"random={folder}")
    assert code == 1
    assert "answers no better than chance, so there is no circuit to find" in err
    assert not (tmp_path / "store.yaml").exists()
