"""The GitHub action and the workflows that the pages show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from blocks import ROOT

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


@pytest.mark.slow
@pytest.mark.parametrize(("candidate", "code"), [("planted_ft", 0), ("planted_rerouted", 1)])
def test_the_scripts_of_the_action_gate_a_pair(candidate: str, code: int, tmp_path: Path) -> None:
    """All but the installation: exit code, result, page, comment and badge."""
    spec = (ROOT / "circuits" / "entity_tracking_paper.yaml").read_text("utf-8")
    (tmp_path / "spec.yaml").write_text(spec)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    steps = yaml.safe_load(ACTION.read_text("utf-8"))["runs"]["steps"]
    scripts = {step["name"]: step["run"] for step in steps if "run" in step}
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SPECS": "spec.yaml", "MODEL_PAIR": f"zoo:planted_base,zoo:{candidate}",
        "ARGUMENTS": "-q -p no:cacheprovider", "RESULTS": "out", "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(tmp_path),
    }  # fmt: skip
    done = [
        subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", scripts[name]],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )
        for name in ("Test", "Comment and badge")
    ]  # fmt: skip
    assert [script.returncode for script in done] == [code, 0], done[0].stdout[-3000:]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"mechanism.json", "mechanism.html", "comment.md", "badge.svg"}
    assert ("::error file=spec.yaml,line=" in done[0].stdout) == (code == 1)
