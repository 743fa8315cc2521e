"""What the docs say is what happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, play

from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))


def test_how_to_write_a_task(tmp_path: Path) -> None:
    """Each file, command, status and output of the page."""
    ran = list(play(ROOT / "docs" / "write-a-task.md", tmp_path))
    assert {each.status for each in ran} == {0, 2}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_spec_whose_task_writes_rows(path: Path) -> None:
    """No problem at lint, and pairs and variables for all rows."""
    spec = load(path)
    rows = spec.task.settings.rows
    assert len(spec.task.pairs(AnyWord(), rows)) == rows
    assert spec.task.variables
    for variable in spec.task.variables:
        assert len(spec.task.interchange(AnyWord(), variable, rows, "test")) == rows


def test_linting_the_examples_needs_no_torch() -> None:
    """Nor transformers: whoever edits a spec waits for neither."""
    code = (
        "import sys; from pytest_mechanism.cli import main; "
        f"code = main(['lint', {str(ROOT / 'docs' / 'examples')!r}]); "
        "print(code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip().splitlines()[-1] == "0 []", done.stdout + done.stderr
