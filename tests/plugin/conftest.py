"""Small projects to run the plugin in, whose claims need no model.

A third-party claim kind, `fixed`, reads its scores from ``values.json``, so that every verdict and
every drift can be brought about exactly. Checkpoints are folders that no test loads.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

# Imported here, since pytester forgets what an inner run imports and libraries that are written
# in C cannot be imported twice.
import pytest_mechanism.cli
import pytest_mechanism.plugin.collectors
import pytest_mechanism.report.reporters
import pytest_mechanism.report.terminal
import pytest_mechanism.runner.evaluator
import pytest_mechanism.statistics.estimates  # noqa: F401
from pytest_mechanism import registry
from pytest_mechanism.checkpoints.reference import ZOO

FIXED = '''
"""A claim kind of somebody else's package."""

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, StrictStr

from pytest_mechanism.claims.base import Claim, Roles, listed
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.thresholds import Fraction
from pytest_mechanism.statistics import honesty, verdicts
from pytest_mechanism.types import Control, Score

WITHOUT_SCORE = (
    "at_chance", "reference_fails", "no_difference", "not_comparable", "model_missing"
)


class Fixed(Claim):
    if_red: ClassVar[str] = "the number in the file is lower than claimed"
    thresholds: ClassVar[tuple[str, ...]] = ("at_least", "near_at_most")
    needs_groups: ClassVar[bool] = False
    kind: Literal["fixed"]
    reads: StrictStr
    on: Roles = Field(default_factory=lambda: ["base", "ft"])
    at_least: Fraction = 0.5
    near_at_most: Fraction | None = None

    def roles(self):
        return listed(self.on)

    def models(self, role):
        return ("base", "ft") if role == "pair" else (role,)

    def required_measurements(self, case):
        if self.value(case) == "crash early":
            raise KeyError("required_measurements")
        return ()

    def value(self, case):
        found = json.loads(Path("values.json").read_text())[self.reads]
        return found[case.role] if isinstance(found, dict) else found

    def judge(self, case, measured):
        value = self.value(case)
        if value == "error":
            raise MechanismError("this model cannot be asked")
        if value == "no score":
            return verdicts.inconclusive("nothing can be said", "at least 0.5")
        if value in WITHOUT_SCORE:
            return getattr(verdicts, value)("nothing to see", "at least 0.5")
        doubt = None
        if isinstance(value, list):
            value, doubt = value
        if isinstance(value, str):
            raise RuntimeError("a bug in the claim kind")
        score = Score(
            name="fixed score",
            value=value,
            interval=(value - 0.0625, value + 0.0625),
            confidence=case.confidence,
            n=100,
            clusters=20,
            standard_error=0.03125,
            metric="what values.json says",
            better="higher",
            setting=case.setting,
            control=Control("a coin", 0.25, (0.125, 0.375)),
        )
        verdict = verdicts.at_least(score, self.at_least)
        if self.near_at_most is not None:
            near = replace(score, name="a score near by", better="lower")
            bounded = verdicts.within(near, -1.0, self.near_at_most)
            verdict = verdicts.together([verdict, bounded])
        if doubt == "forgets its control":
            return verdict
        if doubt:
            return getattr(honesty, doubt)(verdict, "that is how it is")
        fine = honesty.not_needed("the number comes from a file")
        return replace(verdict, control=fine, chance=fine)
'''

ENTRY_POINTS = "[pytest_mechanism.claims]\nfixed = fixed_kind:Fixed\n"

IMPORTED = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"

CONFIG = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "vocab_size": 64,
}


@pytest.fixture(scope="session")
def third_party(tmp_path_factory):
    """A folder as pip leaves one behind, with a claim kind in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "fixed_kind.py").write_text(FIXED)
    about = folder / "fixed_kind-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fixed-kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


class Project:
    """A folder with checkpoints ``base`` and ``ft`` and what a test puts beside them."""

    def __init__(self, pytester, third_party):
        self.pytester = pytester
        self.third_party = third_party
        self.path = pytester.path
        self.checkpoint("base")
        self.checkpoint("ft")

    def checkpoint(self, name, weights=None, **config):
        """A folder that looks like a checkpoint; other ``weights`` give another fingerprint."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG | config))
        (folder / "model.safetensors").write_text(weights or name)
        (folder / "tokenizer.json").write_text("{}")
        return folder

    def spec(self, *claims, name="circuit", top=""):
        """A spec; a claim is its name, or name and fields, as in ``"good: {at_least: 0.8}"``."""
        lines = [
            "mechanism: 1",
            f"circuit: {Path(name).name}",
            "task: {family: entity_tracking, rows: 20, seed: 0}",
            *([top] if top else []),
            "claims:",
        ]
        for claim in claims:
            title, _, fields = claim.partition(": ")
            inside = fields.strip("{}")
            more = f", {inside}" if inside else ""
            lines.append(f"  {title}: {{kind: fixed, reads: {title}{more}}}")
        path = self.path / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return path

    def values(self, **scores):
        """What claims find; a number for every role, or role -> number."""
        path = self.path / "values.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | scores))

    def run(self, *arguments, pair="./base,./ft"):
        """An inner pytest, in this process."""
        registry.claim_kinds.cache_clear()
        pair_options = [] if pair is None else ["--model-pair", pair]
        # hypothesis would be imported anew in each run, which takes a second; and the package is imported already,
        # of which pytest warns where an editable install left its egg-info beside it (the last -W wins)
        return self.pytester.runpytest_inprocess(
            "-p", "no:hypothesispytest", *pair_options, *map(str, arguments), "-W", IMPORTED
        )

    def run_on_workers(self, *arguments, workers=2, pair="./base,./ft"):
        """The same with xdist, whose workers do not get this process's sys.path."""
        self.pytester.makeconftest(f"import sys\nsys.path.insert(0, {str(self.third_party)!r})\n")
        return self.run("-n", workers, *arguments, pair=pair)

    def run_on_a_worker(self, *arguments, pair="./base,./ft"):
        """With one worker."""
        return self.run_on_workers(*arguments, workers=1, pair=pair)

    def result(self, *arguments, pair="./base,./ft"):
        """The result file of a run."""
        self.run("--mechanism-json", "out.json", *arguments, pair=pair)
        return json.loads((self.path / "out.json").read_text())

    def verdicts(self, *arguments, pair="./base,./ft"):
        """``claim.role`` -> verdict, as the result file says it."""
        claims = self.result(*arguments, pair=pair)["claims"]
        return {f"{c['claim']}.{c['role']}": c["verdict"] for c in claims}

    def score_file(self, name="circuit", pair="base+ft"):
        spec = self.path / name
        return spec.parent / "__scores__" / pair / f"{spec.name}.json"

    def accepted(self, name="circuit", pair="base+ft"):
        """``claim.role`` -> accepted value."""
        stored = json.loads(self.score_file(name, pair).read_text())
        return {key: entry["value"] for key, entry in stored["scores"].items()}

    def accept(self, *arguments, pair="./base,./ft"):
        return self.run("--snapshot-update", *arguments, pair=pair)


@pytest.fixture
def project(pytester, third_party, monkeypatch):
    monkeypatch.syspath_prepend(third_party)
    monkeypatch.setenv("PYTHONPATH", str(third_party))
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in [n for n in os.environ if n.startswith(("GITHUB_", "PYTEST_XDIST", "CI"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("BUILD_NUMBER", raising=False)
    registry.claim_kinds.cache_clear()  # an earlier test of this process read them without this folder
    yield Project(pytester, third_party)
    registry.claim_kinds.cache_clear()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Two Llamas of two layers, as Hugging Face folders."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("tiny")
    words = json.loads((ZOO / "base" / "config.json").read_text())["vocab_size"]
    for seed, name in enumerate(("base", "ft")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=words,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
        )
        LlamaForCausalLM(config).save_pretrained(root / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ZOO / "base" / file, root / name / file)
    return root
