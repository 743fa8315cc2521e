"""``pytest-mechanism sweep``: many candidates against one base, one table, one exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from pytest_mechanism.cli import main
from pytest_mechanism.commands import gates
from pytest_mechanism.commands.sweep import changed_role
from pytest_mechanism.report.candidates import (
    MARKS,
    Candidate,
    Claimed,
    claims_of,
    mark,
    outcome_of,
    table_lines,
)

CONFTEST = """
import json, os, pathlib, sys, time

def pytest_configure(config):
    pair = next(a for a in config.invocation_params.args if a.startswith("--model-pair"))
    found = {"bad": 0.1, "doubt": 0.5}
    score = next((v for name, v in found.items() if name in pair), 0.9)
    pathlib.Path("values.json").write_text(json.dumps({"holds": {"base": 0.9, "ft": score}}))
    if "dies" in pair:
        os.kill(os.getpid(), 9)
    if "edits" in pair:
        spec = pathlib.Path("spec.yaml")
        spec.write_text(spec.read_text().replace("rows: 20", "rows: 30"))
    if "hangs" in pair:
        pathlib.Path("hanging").touch()
        time.sleep(600)
"""
"""What the claim finds follows from the candidate's label."""


@pytest.fixture
def sweep(project, monkeypatch, capsys):
    """Runs the command in a project with some candidates: exit code, standard output, sweep.json."""
    monkeypatch.setattr(gates, "PRELOADED", ())  # the claims of the project need no torch
    project.spec("holds", name="spec")
    project.pytester.makeconftest(
        f"import sys\nsys.path.insert(0, {str(project.third_party)!r})\n{CONFTEST}"
    )

    def run(*candidates, options=()):
        code = main(
            ["sweep", "spec.yaml", "--base", "./base", "--candidates", *candidates, *options]
        )
        written = project.path / "mechanism-sweep" / "sweep.json"
        content = json.loads(written.read_text()) if written.exists() else None
        return code, capsys.readouterr(), content

    return run


def outcomes(content):
    """Label -> outcome, in the order of the table."""
    return {candidate["label"]: candidate["outcome"] for candidate in content["candidates"]}


def test_one_bad_candidate_makes_the_sweep_red_and_stops_no_other(sweep, project):
    """A candidate that fails, one whose gate dies, one that cannot be read and one that is undecided are not
    green; the table has them before the green one."""
    for name in ("good", "bad", "dies", "doubt"):
        project.checkpoint(name)

    code, out, content = sweep("./good", "./gone", "./doubt", "./dies", "./bad")

    assert code == 1, out.err
    assert outcomes(content) == {
        "bad": "red",
        "gone": "error",
        "dies": "error",
        "doubt": "inconclusive",
        "good": "green",
    }
    reasons = {candidate["label"]: candidate["reason"] for candidate in content["candidates"]}
    assert (
        reasons["gone"] == "cannot be read: no folder './gone'"
    )  # without the list of checkpoints
    lines = [line.split()[:2] for line in out.out.splitlines()]
    shown = [line for line in lines if line and line[0] in outcomes(content)]
    assert shown == [[label, outcome] for label, outcome in outcomes(content).items()]
    results = {c["label"]: c["result"] for c in content["candidates"]}
    assert results["good"] == "candidates/good.json"
    good = json.loads((project.path / "mechanism-sweep" / results["good"]).read_text())
    assert good["pair"]["ft"]["label"] == "good"


def test_a_spec_that_fails_on_the_base_model_allows_no_conclusion_about_a_candidate() -> None:
    """The reason of a red candidate says so, before the number of other red claims."""
    claim = {"id": "c.yaml::a::base", "circuit": "c", "claim": "a", "role": "base", "verdict": "fail",
             "reason": "low", "meaning": "nothing", "cause": "reference_fails"}  # fmt: skip
    other = {**claim, "cause": "refuted", "role": "ft"}
    assert outcome_of(1, {"claims": [claim, other]}) == (
        "red",
        "a on base: low; nothing (and 1 more)",
    )
    assert outcome_of(1, {"claims": [other]}) == ("red", "a on ft: low")
    unaccepted = {**other, "cause": "not_accepted", "reason": "no baseline yet"}
    assert outcome_of(1, {"claims": [unaccepted, other]})[1] == "a on ft: low (and 1 more)"
    assert outcome_of(1, {"claims": [unaccepted]}) == ("red", "a on ft: no baseline yet")
    of_another_spec = {**other, "id": "d.yaml::a::ft", "circuit": "d"}
    assert outcome_of(1, {"claims": [of_another_spec, other]})[1] == "d.a on ft: low (and 1 more)"


def test_a_candidate_about_which_nothing_holds_is_not_green() -> None:
    """Its only claim warns; the table has a mark for it."""
    claim = {"id": "c::a::ft", "claim": "a", "role": "ft", "models": ["ft"], "verdict": "warn",
             "score": 0.1, "reason": "low"}  # fmt: skip
    content = {"claims": [claim], "reasons": [], "not_run": [], "exit_code": 0}
    assert outcome_of(0, content)[0] == "inconclusive"
    found = Candidate("one", "./one", "f", "inconclusive", "", claims=claims_of(content))
    assert mark(found, "c::a::ft") == "w"
    assert any("w warn" in line for line in table_lines([found]))


def test_a_checkpoint_that_changed_during_a_sweep_is_noticed() -> None:
    """The gate saw other files than those that the table would name."""
    pair = {"base": {"fingerprint": "b"}, "ft": {"fingerprint": "new"}}
    assert changed_role({"pair": pair}, {"base": "b", "ft": "old"}) == "ft"
    assert changed_role({"pair": pair}, {"base": "b", "ft": "new"}) is None


def test_a_spec_that_changes_during_a_sweep_is_noticed(sweep, project):
    """Candidates that other claims may have judged are errors; those before keep their outcome."""
    for name in ("good", "edits", "later"):
        project.checkpoint(name)

    code, out, content = sweep("./good", "./edits", "./later")

    assert code == 1, out.err
    assert outcomes(content) == {"edits": "error", "later": "error", "good": "green"}
    assert "a spec changed during the sweep" in content["candidates"][0]["reason"]


def test_green_candidates_alone_give_exit_code_0(sweep, project):
    """Beside each other, from a file with comments."""
    for name in ("one", "two"):
        project.checkpoint(name)
    (project.path / "list.txt").write_text("# nightly\n\n./two\n")

    code, _, content = sweep("./one", options=["--candidates-from", "list.txt", "-n", "2"])

    assert code == 0
    assert outcomes(content) == {"one": "green", "two": "green"}


def test_equal_files_are_named(sweep, project):
    """A copy of a candidate keeps its own label and its own result."""
    project.checkpoint("one")
    shutil.copytree(project.path / "one", project.path / "copy")

    _, out, content = sweep("./one", "./copy")

    assert "copy has the same files as one" in out.out
    assert {c["label"]: c["same_as"] for c in content["candidates"]} == {"one": None, "copy": "one"}
    assert (project.path / "mechanism-sweep" / "candidates" / "copy.json").exists()


def test_only_results_of_an_earlier_sweep_are_removed(sweep, project):
    """Not other files in a folder with the name of the output, such as a checkpoint's."""
    files = project.path / "mechanism-sweep" / "candidates"
    files.mkdir(parents=True)
    project.checkpoint("mechanism-sweep/candidates")
    kept = {path: path.read_bytes() for path in files.iterdir()}
    (files / "old.json").write_text('{\n "mechanism_json": 1,\n "pair": {}}')

    code, out, _ = sweep("./ft", "config=./mechanism-sweep/candidates")

    assert (code, out.err.count("\n")) == (2, 1)
    assert "config.json exists and is no result file" in out.err
    assert {path: path.read_bytes() for path in files.iterdir()} == kept


def test_a_sweep_that_does_not_start_leaves_nothing_of_an_earlier_one(sweep, project):
    """Neither tables nor results, which a later step would read as this one's; no other file is removed or replaced."""
    project.checkpoint("good")
    assert sweep("./good")[0] == 0
    (project.path / "spec.yaml").write_text("mechanism: 1\n")

    assert sweep("./good")[::2] == (2, None)
    left = [path.name for path in (project.path / "mechanism-sweep").rglob("*") if path.is_file()]
    assert left == ["good.log"]

    project.spec("holds", name="spec")
    (project.path / "mechanism-sweep" / "sweep.md").write_text("my notes")
    code, out, _ = sweep("./good")
    assert (code, out.err.count("\n")) == (2, 1)
    assert (project.path / "mechanism-sweep" / "sweep.md").read_text() == "my notes"


def test_the_table_explains_each_of_its_letters():
    """That of a claim that only warns too."""
    claims = {verdict: Claimed(verdict, None, "") for verdict in MARKS}
    lines = list(table_lines([Candidate("a", "./a", None, "red", "", claims=claims)]))
    (legend,) = (line for line in lines if line.startswith("  . "))
    assert all(f"  {letter} {verdict} " in legend for verdict, letter in MARKS.items())


def test_a_candidate_that_no_claim_judges_is_not_green(sweep, project):
    """``applies_to`` leaves it out."""
    project.checkpoint("good")
    project.spec("holds", name="spec", top="applies_to: {labels: [base, ft]}")

    code, _, content = sweep("./good")

    assert (code, outcomes(content)) == (1, {"good": "error"})


@pytest.mark.parametrize(
    ("candidates", "options", "said"),
    [
        (["./base"], [], "label 'base' of the base"),
        (["./ft", "x/ft"], [], "label 'ft' of the candidate ./ft"),
        (["hf:org/name@a..b"], [], "a range of revisions needs the hub's history"),
        (["./ft"], ["--candidates-from", "no.txt"], "no.txt does not exist"),
        (["./ft"], ["-n", "0"], "from 1 to 1,000"),
        (
            ["./ft"],
            ["-o", "mechanism_no_store=true"],
            "name an empty folder with --mechanism-store",
        ),
    ],
)
def test_wrong_use_is_one_line_before_anything_runs(sweep, candidates, options, said):
    """Exit code 2, and no table."""
    code, out, content = sweep(*candidates, options=options)

    assert (code, content) == (2, None)
    assert said in out.err
    assert out.err.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(sweep, project):
    """Exit code 130; the finished candidate is in the table, the others were not run."""
    for name in ("good", "hangs", "never"):
        project.checkpoint(name)
    command = [
        sys.executable,
        "-m",
        "pytest_mechanism.cli",
        "sweep",
        "spec.yaml",
        "--base",
        "./base",
    ]
    process = subprocess.Popen(
        [*command, "--candidates", "./good", "./hangs", "./never"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(project.third_party)},
        # a job in the background of a shell ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while not (project.path / "hanging").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)

    content = json.loads((project.path / "mechanism-sweep" / "sweep.json").read_text())
    assert process.returncode == 130
    assert outcomes(content) == {"hangs": "not run", "never": "not run", "good": "green"}
    here = str(project.path)
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert here not in left.stdout


SPEC = """mechanism: 1
circuit: tiny
task: {family: entity_tracking, boxes: 2, rows: 40, seed: 0}
claims:
  learnt_nothing: {kind: accuracy, at_most: 0.6}
"""

COLD = """
import pathlib, sys

def pytest_configure():
    if not {"torch", "transformers", "transformer_lens"} <= set(sys.modules):
        pathlib.Path("cold").touch()
"""
"""Leaves a file where a gate has to import the large libraries."""


@pytest.mark.slow
def test_twenty_checkpoints_of_which_five_are_equal(tiny_models, pytester, monkeypatch, capsys):
    """16 are measured, the base once, and the one that learnt something is red. No gate imports the large libraries
    anew."""
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytester.path.joinpath("tiny.yaml").write_text(SPEC)
    pytester.makeconftest(COLD)
    names = []
    for number in range(19):
        name = f"step_{number}"
        shutil.copytree(tiny_models / "ft", pytester.path / name)
        weights = load_file(pytester.path / name / "model.safetensors")
        weights["lm_head.weight"] += min(number, 14) / 100  # the last five are equal
        save_file(weights, pytester.path / name / "model.safetensors", {"format": "pt"})
        names.append(f"./{name}")

    command = ["sweep", "tiny.yaml", "--base", str(tiny_models / "base"), "-n", "2"]
    code = main([*command, "--mechanism-no-locate", "--candidates", *names, "zoo:ft"])

    out = capsys.readouterr().out
    content = json.loads((pytester.path / "mechanism-sweep" / "sweep.json").read_text())
    assert code == 1
    assert "20 candidates, 16 different checkpoints" in out
    assert "17 measurements made" in out  # 16 candidates and one base
    assert list(outcomes(content).values()) == ["red", *["green"] * 19]
    assert content["candidates"][0]["label"] == "ft"
    copies = [c["label"] for c in content["candidates"] if c["same_as"] == "step_14"]
    assert copies == ["step_15", "step_16", "step_17", "step_18"]
    assert all(c["measured"] == 0 for c in content["candidates"] if c["same_as"])
    assert not (pytester.path / "cold").exists()
