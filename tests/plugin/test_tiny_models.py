"""End to end on real, tiny models: loading, measuring, remembering.

The models have random weights and the tokenizer of the embedded ones. Each run is a process of its
own, because what it imports is part of what is tested.
"""

import json
import shutil
from pathlib import Path

import pytest

SPEC = """
mechanism: 1
circuit: tiny
task: {family: entity_tracking, boxes: 2, rows: 40, seed: 0}
groups:
  some_heads: {heads: {0: [0]}, at: last}
claims:
  learnt_nothing: {kind: accuracy, at_most: 0.6}
  knows_it: {kind: accuracy, on: ft, at_least: 0.99}
  moves_nothing: {kind: cmap, group: some_heads, donor: ft, recipient: base, recovers_at_least: 0.5}
"""

VERDICTS = {
    "learnt_nothing.base": "pass",
    "learnt_nothing.ft": "pass",
    "knows_it.ft": "fail",
    "moves_nothing.pair": "inconclusive",
}

REPORTER = """
import json, os, pathlib, sys

def pytest_unconfigure(config):
    heavy = [m for m in ("torch", "transformers", "transformer_lens") if m in sys.modules]
    who = os.environ.get("PYTEST_XDIST_WORKER", "main")
    pathlib.Path(f"modules-{who}.json").write_text(json.dumps(heavy))
"""


class Run:
    """A finished run: exit code, result file, and which heavy modules it had imported."""

    def __init__(self, pytester, *arguments):
        pytester.makeconftest(REPORTER)
        for old in pytester.path.glob("modules-*.json"):
            old.unlink()
        pytester.path.joinpath("tiny.yaml").write_text(SPEC.lstrip())
        self.run = pytester.runpytest_subprocess(
            "-p", "no:hypothesispytest", "--mechanism-json", "out.json", *map(str, arguments)
        )
        path = pytester.path / "out.json"
        self.result = json.loads(path.read_text()) if path.exists() else None
        self.modules = {
            p.stem.partition("-")[2]: json.loads(p.read_text())
            for p in pytester.path.glob("modules-*.json")
        }

    @property
    def verdicts(self):
        return {f"{c['claim']}.{c['role']}": c["verdict"] for c in self.result["claims"]}

    @property
    def counts(self):
        return {
            "loaded": self.result["checkpoints_loaded"],
            **self.result["measurements"],
        }

    @property
    def scores(self):
        return {f"{c['claim']}.{c['role']}": c["scores"] for c in self.result["claims"]}


@pytest.fixture(scope="session")
def first(tiny_models, tmp_path_factory):
    """Where the first run has left its store; to be copied."""
    return tmp_path_factory.mktemp("first"), {}


@pytest.fixture
def tiny(pytester, tiny_models, first, monkeypatch):
    """Runs the spec on the tiny pair, with the store of a first run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    pair = ("--model-pair", f"{tiny_models}/base,{tiny_models}/ft")
    folder, kept = first
    if not kept:
        kept["run"] = Run(pytester, *pair, "--mechanism-store", folder / "store")

    def run(*arguments, store=True):
        store_options = ()
        if store:
            shutil.copytree(folder / "store", pytester.path / "store", dirs_exist_ok=True)
            store_options = ("--mechanism-store", "store")
        return Run(pytester, *pair, *store_options, *arguments)

    run.first, run.store = kept["run"], folder / "store"
    return run


def entries(folder):
    return sorted(Path(folder).glob("*.measurement"))


def test_random_weights_pass_nothing_that_says_something(tiny):
    """On random weights, only trivial claims pass."""
    assert tiny.first.verdicts == VERDICTS
    assert tiny.first.run.ret == pytest.ExitCode.TESTS_FAILED


def test_first_run_measures_everything(tiny):
    """The first run loads both checkpoints and finds nothing in the store. Its red claims may load them once more, for
    parts of base in ft."""
    assert tiny.first.counts["from_store"] == 0
    assert tiny.first.counts["done"] >= 3
    assert tiny.first.counts["loaded"] in range(2, 6)
    assert tiny.first.modules["main"] == ["torch", "transformers", "transformer_lens"]


def test_second_run_imports_no_torch(tiny):
    """A second run on unchanged inputs takes all from the store, with the same scores."""
    again = tiny()

    assert again.modules == {"main": []}
    assert again.counts == {"loaded": 0, "done": 0, "from_store": len(entries("store"))}
    assert again.scores == tiny.first.scores


def test_collect_only_imports_no_torch(tiny):
    """`--collect-only` with a pair imports neither torch nor transformers, and has no result."""
    result = tiny("--collect-only", "-q", store=False)

    assert result.modules == {"main": []}
    assert result.run.ret == pytest.ExitCode.OK
    assert result.run.outlines[:2] == [
        "tiny.yaml::learnt_nothing::base",
        "tiny.yaml::learnt_nothing::ft",
    ]
    assert result.result is None


@pytest.mark.slow
def test_no_store_measures_anew(tiny):
    """`--mechanism-no-store` ignores a full store and gives the same scores."""
    result = tiny("--mechanism-no-store")

    assert result.counts == tiny.first.counts
    assert result.scores == tiny.first.scores
