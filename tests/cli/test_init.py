"""``pytest-mechanism init``: the files of a new project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mechanism.cli import main
from pytest_mechanism.commands import init
from pytest_mechanism.registry import task_families
from pytest_mechanism.spec.load import load

READY = [
    name
    for name, kind in sorted(task_families().items())
    if not any(f.is_required() and n != "family" for n, f in kind.parameters.model_fields.items())
]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", READY)
def test_a_new_project_has_settings_a_workflow_and_a_spec_that_lints(
    family: str, tmp_path: Path
) -> None:
    """For each task that needs no setting."""
    assert main(["init", str(tmp_path / "new"), "--task", family]) == 0
    assert files(tmp_path / "new") == {
        "pytest.ini", ".github/workflows/mechanism.yml",
        "circuits/mechanism.schema.json", f"circuits/{family}.yaml",
    }  # fmt: skip
    assert load(tmp_path / "new" / "circuits" / f"{family}.yaml").task.family == family
    assert main(["lint", str(tmp_path / "new" / "circuits")]) == 0


def test_the_workflow_is_what_github_reads(tmp_path: Path) -> None:
    """It follows the schema of workflows."""
    main(["init", str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows",
         str(tmp_path / ".github" / "workflows" / "mechanism.yml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "ok -- validation done"


def test_what_exists_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Settings, workflow and spec; a second run changes nothing."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    assert main(["init", str(tmp_path)]) == 0
    assert not (tmp_path / "pytest.ini").exists()
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    capsys.readouterr()
    assert main(["init", str(tmp_path)]) == 0
    assert "wrote" not in capsys.readouterr().out
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--task=joson"], "no family 'joson'; did you mean 'jsonl'?"),
        (["--task=jsonl"], "--task jsonl needs file"),
    ],
)
def test_wrong_use_is_one_line(
    options: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """And nothing is written."""
    assert main(["init", str(tmp_path), *options]) == 2
    assert problem in capsys.readouterr().err
    assert files(tmp_path) == set()


def test_new_names_the_schema_where_init_wrote_it(tmp_path: Path) -> None:
    """Editors read the first line."""
    main(["init", str(tmp_path)])
    path = tmp_path / "circuits" / "mine.yaml"
    assert main(["new", str(path), "--task", "ioi"]) == 0
    first = path.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=mechanism.schema.json"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pytest-mechanism==1.2"),
        (
            {"url": "https://me:secret@example.org/a/b.git", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
            f"'pytest-mechanism @ git+https://example.org/a/b.git@{'0' * 40}'",
        ),
        ({"url": "file:///home/me/clone", "dir_info": {"editable": True}}, init.UNKNOWN),
        ({"url": "ssh://git@example.org/a", "vcs_info": {"commit_id": "0" * 40}}, init.UNKNOWN),
        ({"url": "https://x/a'b", "vcs_info": {"commit_id": "0" * 40}}, init.UNKNOWN),
        ([], "pytest-mechanism==1.2"),
        ("{", init.UNKNOWN),
    ],
    ids=["release", "commit", "folder", "ssh", "quote", "empty", "damaged"],
)  # fmt: skip
def test_the_workflow_installs_what_is_installed_here(
    origin: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release or a commit, and never a name, a password or a folder of this machine."""
    text = origin if origin is None or isinstance(origin, str) else json.dumps(origin)
    package = SimpleNamespace(version="1.2", read_text=lambda _: text)
    monkeypatch.setattr(init, "distribution", lambda _: package)
    assert init.installed() == expected


def test_where_the_package_comes_from_a_folder_init_asks_for_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Such a workflow cannot run before."""
    monkeypatch.setattr(init, "installed", lambda: init.UNKNOWN)
    assert main(["init", str(tmp_path)]) == 0
    workflow = (tmp_path / ".github" / "workflows" / "mechanism.yml").read_text()
    assert f"- run: pip install {init.UNKNOWN}" in workflow
    assert "from where it installs pytest-mechanism" in capsys.readouterr().out
