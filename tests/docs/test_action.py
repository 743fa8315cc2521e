"""The GitHub action and the workflows that the pages show."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm_python
import yaml
from blocks import ROOT

from pytest_mechanism.commands.init import UNKNOWN, WORKFLOW
from pytest_mechanism.report.comment import marker
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.json_file import JsonFile
from tests.report.pages import claim, report_of

ACTION = ROOT / "action.yml"
PAGES = ("README.md", "docs/gate-a-release.md")


def checked(schema: str, path: Path) -> str:
    """What check-jsonschema says about a file; it holds the schemas of SchemaStore, so no network is needed."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() + done.stderr.strip()


def workflows(page: str) -> list[str]:
    """The workflows of a page."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    return [block for block in blocks if "runs-on:" in block]


def test_the_action_is_what_github_reads() -> None:
    """It follows the schema of actions."""
    assert checked("vendor.github-actions", ACTION) == "ok -- validation done"


@pytest.mark.parametrize("page", PAGES)
def test_a_workflow_of_a_page_is_what_github_reads(page: str, tmp_path: Path) -> None:
    """It follows the schema of workflows."""
    found = workflows(page)
    assert found
    for text in found:
        (tmp_path / "gate.yml").write_text(text)
        assert checked("vendor.github-workflows", tmp_path / "gate.yml") == "ok -- validation done"


def test_the_schemas_refuse_a_mistake(tmp_path: Path) -> None:
    """A step that neither uses an action nor runs a command."""
    (tmp_path / "gate.yml").write_text(
        "on: push\njobs: {a: {runs-on: x, steps: [{shell: bash}]}}\n"
    )
    assert "ok" not in checked("vendor.github-workflows", tmp_path / "gate.yml").split()[0]


ACTIONLINT = shutil.which("actionlint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def job_of_the_action() -> str:
    """The action's inputs and steps as a workflow that others call: actionlint reads no actions."""
    head, steps = ACTION.read_text("utf-8").split("  steps:\n")
    inputs = yaml.safe_load(head)["inputs"]
    called = {
        name: {"type": "string", "default": inputs[name].get("default", "")} for name in inputs
    }
    return (
        f"on: {{workflow_call: {{inputs: {json.dumps(called)}}}}}\n"
        "jobs:\n  action:\n    runs-on: ubuntu-latest\n"
        f"    steps:\n{''.join(f'  {line}' for line in steps.splitlines(keepends=True))}"
    ).replace('"${{ github.token }}"', '""')


def linted(folder: Path, **files: str) -> str:
    """What actionlint (with shellcheck, where that is installed) says about workflows beside our action."""
    assert ACTIONLINT is not None
    place = folder / ".github" / "workflows"
    place.mkdir(parents=True)
    (folder / ".git").mkdir()
    shutil.copy(ACTION, folder)
    for name, text in files.items():
        (place / f"{name}.yml").write_text(text)
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [ACTIONLINT, "-no-color"], env=os.environ | {"PATH": paths}, cwd=folder, capture_output=True,
        text=True, check=False,
    ).stdout  # fmt: skip


@pytest.mark.skipif(ACTIONLINT is None, reason="actionlint is not installed")
def test_actionlint_finds_nothing_in_our_workflows(tmp_path: Path) -> None:
    """Those of the pages, the one that `init` writes, and the action: expressions, scripts, deprecated actions."""
    files = {Path(page).stem: "".join(workflows(page)) for page in PAGES}
    files["init"] = WORKFLOW.replace("{package}", UNKNOWN)
    files["action"] = job_of_the_action()
    assert linted(tmp_path, **files) == ""


@pytest.mark.skipif(ACTIONLINT is None, reason="actionlint is not installed")
def test_actionlint_sees_a_mistake_in_the_action_and_in_its_use(tmp_path: Path) -> None:
    """An output that no step has, and an input that the action does not have."""
    action = job_of_the_action().replace("steps.comment.outputs", "steps.coment.outputs")
    use = workflows("README.md")[0].replace("specs:", "spec:")
    found = linted(tmp_path, action=action, use=use)
    assert "coment" in found
    assert 'input "spec" is not defined' in found


def test_no_step_pastes_an_input_into_a_script() -> None:
    """An input inside a script would be run as code; steps take inputs from variables."""
    for step in yaml.safe_load(ACTION.read_text("utf-8"))["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_gives_the_action_only_inputs_that_it_has(page: str) -> None:
    """GitHub only warns about others."""
    inputs = yaml.safe_load(ACTION.read_text("utf-8"))["inputs"]
    for text in workflows(page):
        (job,) = yaml.safe_load(text)["jobs"].values()
        for step in job["steps"]:
            if "pytest-mechanism@" in step.get("uses", "") or step.get("uses") == "./":
                assert set(step["with"]) <= set(inputs)
                assert "model-pair" in step["with"]


def test_the_gitlab_job_of_the_page_is_what_gitlab_reads(tmp_path: Path) -> None:
    """It follows the schema of GitLab's pipelines."""
    text = (ROOT / "docs" / "gate-a-release.md").read_text("utf-8")
    (job,) = [b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "after_script:" in b]
    (tmp_path / "job.yml").write_text(job)
    assert checked("vendor.gitlab-ci", tmp_path / "job.yml") == "ok -- validation done"


GH = """#!/usr/bin/env python3
import json, pathlib, sys
given = sys.argv[1:]
with pathlib.Path("calls").open("a") as calls:
    calls.write(json.dumps(given) + "\\n")
if "--paginate" in given:
    print(pathlib.Path("ids").read_text(), end="")
elif given[:2] == ["api", "user"]:
    sys.exit("who am I?")  # GitHub's answer to the token of a job
"""


def script(name: str) -> str:
    """A step's script."""
    steps = yaml.safe_load(ACTION.read_text("utf-8"))["runs"]["steps"]
    return next(step["run"] for step in steps if step.get("name") == name)


def run_script(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A step as GitHub runs it, with our commands and the folder's own first in the path."""
    paths = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    given = {
        "PATH": os.pathsep.join(paths),
        "RESULTS": "out",
        "GITHUB_OUTPUT": "outputs",
        "RUNNER_TEMP": str(folder),
        "NAME": "",
    }
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script(name)],
        env=os.environ | given | {"SPECS": "circuits", "MODEL_PAIR": "base=./a,ft=./b"} | environment,
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "method", "path"),
    [
        ("", "POST", "repos/o/r/issues/5/comments"),
        ("7\n9\n", "PATCH", "repos/o/r/issues/comments/9"),
    ],
    ids=["first", "later"],
)
def test_a_comment_replaces_the_one_of_an_earlier_push(
    ids: str, method: str, path: str, tmp_path: Path
) -> None:
    """Which begins with the marker; a stand-in records what GitHub's command line is given."""
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin" / "gh"
    gh.write_text(GH)
    gh.chmod(0o755)
    (tmp_path / "ids").write_text(ids)
    place = {"GITHUB_REPOSITORY": "o/r", "PR": "5", "NAME": "circuits-base-ft"}
    done = run_script("Comment on the pull request", tmp_path, **place)
    assert done.returncode == 0, done.stderr
    _, listed, written = map(json.loads, (tmp_path / "calls").read_text().splitlines())
    assert 'user.login == ""' in listed[-1]
    assert f'startswith("{marker("circuits-base-ft")}")' in listed[-1]
    assert written == ["api", "--silent", "--method", method, path, "-F", "body=@out/comment.md"]


@pytest.mark.parametrize(
    ("specs", "arguments", "given"),
    [
        ("a.yaml  b.yaml\n", "", ["a.yaml", "b.yaml"]),
        ("'my specs/a.yaml'", "-q\n-m 'role(name=\"ft\")'", ["my specs/a.yaml", "-q", "-m", 'role(name="ft")']),
        ("*.yaml", '-k "one or two" "$(touch x)" ;', ["*.yaml", "-k", "one or two", "$(touch x)", ";"]),
    ],
)  # fmt: skip
def test_words_of_an_input(specs: str, arguments: str, given: list[str], tmp_path: Path) -> None:
    """Quotes keep spaces, lines separate too, and nothing in them is run or expanded."""
    (tmp_path / "bin").mkdir()
    pretended = tmp_path / "bin" / "pytest"
    pretended.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    pretended.chmod(0o755)
    done = run_script("Test", tmp_path, SPECS=specs, ARGUMENTS=arguments)
    assert done.returncode == 0, done.stderr
    ours = ("--model-pair=", "--mechanism-json=", "--mechanism-report=")
    assert [line for line in done.stdout.splitlines() if not line.startswith(ours)] == given
    assert not (tmp_path / "x").exists()


def test_a_quote_that_does_not_end_is_red(tmp_path: Path) -> None:
    """pytest is not run with half of the arguments."""
    done = run_script("Test", tmp_path, ARGUMENTS="-k 'one")
    assert (done.returncode, done.stdout) != (0, "")
    assert "unmatched single quote" in done.stderr


def test_a_run_without_a_result_has_a_comment_that_says_so(tmp_path: Path) -> None:
    """It replaces the comment of an earlier push, which may be green; no old badge stays."""
    (tmp_path / "out").mkdir()
    for name in ("comment.md", "badge.svg"):
        (tmp_path / "out" / name).write_text("of an earlier run")
    assert run_script("Comment and badge", tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["comment.md"]
    lines = (tmp_path / "out" / "comment.md").read_text("utf-8").splitlines()
    assert lines[:2] == [marker("circuits-base-ft"), "### ❓ pytest-mechanism: no result"]


@pytest.mark.parametrize("result", [True, False], ids=["result", "no result"])
def test_two_gates_of_a_pull_request_have_two_comments(result: bool, tmp_path: Path) -> None:
    """Their specs, labels or names tell them apart; other checkpoints of the same labels do not."""
    gates = {
        "circuits-base-ft": {},
        "circuits-base-ft2": {"MODEL_PAIR": "base=./a,ft2=./b"},
        "circuits-a.yaml-b.yaml-base-ft": {"SPECS": "circuits/a.yaml b.yaml"},
        "nightly-4-bits": {"NAME": "nightly -- 4 bits!"},
    }
    (tmp_path / "out").mkdir()
    if result:  # whose commands take seconds
        gates = {name: gates[name] for name in ("circuits-base-ft", "nightly-4-bits")}
        JsonFile(tmp_path / "out" / "mechanism.json").write(concluded(report_of(claim())))
    for name, given in gates.items():
        done = run_script("Comment and badge", tmp_path, **given)
        assert done.returncode == 0, done.stderr
        written = (tmp_path / "out" / "comment.md").read_text("utf-8")
        assert written.splitlines()[0] == marker(name)
        assert (tmp_path / "outputs").read_text().splitlines()[-1] == f"name={name}"
    moved = run_script("Comment and badge", tmp_path, MODEL_PAIR="base=hf:o/a@1,ft=hf:o/b@9")
    assert moved.returncode == 0
    assert (
        (tmp_path / "out" / "comment.md").read_text("utf-8").startswith(marker("circuits-base-ft"))
    )


PLANTED = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 7, rows: 70, seed: 0}
groups:
  pos_transmitter: {heads: {2: [6]}, at: last}
claims:
  solves: {kind: accuracy, on: [base, ft], at_least: 0.5}
  holds: {kind: encodes, on: ft, group: pos_transmitter, variable: position, at_least: 0.5}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("candidate", "code"), [("planted_ft", 0), ("planted_rerouted", 1)])
def test_the_scripts_of_the_action_gate_a_pair(candidate: str, code: int, tmp_path: Path) -> None:
    """All but the installation: exit code, result, page, comment and badge."""
    (tmp_path / "spec.yaml").write_text(PLANTED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mechanism.json").write_text("of an earlier run")
    (tmp_path / "bin").mkdir()
    warm_python.script(tmp_path / "bin" / "pytest", "-m", "pytest")
    given = {
        "SPECS": "spec.yaml", "MODEL_PAIR": f"zoo:planted_base,zoo:{candidate}",
        "ARGUMENTS": "-q -p no:cacheprovider --mechanism-no-locate", "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(tmp_path),
    }  # fmt: skip
    done = [run_script(name, tmp_path, **given) for name in ("Test", "Comment and badge")]
    assert [ended.returncode for ended in done] == [code, 0], done[0].stdout[-3000:]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"mechanism.json", "mechanism.html", "comment.md", "badge.svg"}
    assert ("::error file=spec.yaml,line=" in done[0].stdout) == (code == 1)
