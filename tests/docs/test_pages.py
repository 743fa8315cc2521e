"""What the docs say is what happens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, blocks, install, play, run

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


@pytest.mark.slow
def test_from_installing_to_a_gate_on_a_pair_of_ones_own(tmp_path: Path) -> None:
    """Five commands to green, with heads discovered; then the gate in CI, and a failure read."""
    from copying import make_pair

    make_pair(tmp_path)
    first = list(play(ROOT / "docs" / "first-spec.md", tmp_path))
    assert len(first) == 6
    assert "5 passed" in first[4].output
    named = load(tmp_path / "found.yaml")
    assert not named.sought
    assert {"ft", "pair"} <= {role for claim in named.claims.values() for role in claim.roles()}
    spec = (tmp_path / "circuits" / "copying.yaml").read_text()
    shown = next(
        block.text
        for block in blocks((ROOT / "docs" / "first-spec.md").read_text("utf-8"))
        if block.language == "yaml"
    )
    for line in shown.splitlines():  # what the page shows is what was written
        assert line.partition("   #")[0].partition("[ant")[0].rstrip() in spec, line

    gate = list(play(ROOT / "docs" / "gate-a-release.md", tmp_path))
    assert json.loads((tmp_path / "mechanism.json").read_text())["exit_code"] == 0
    assert "no accepted baseline yet" in gate[0].output
    scores = {p.name for p in (tmp_path / "circuits" / "__scores__").iterdir()}
    assert scores == {"base+ft", "released+candidate"}

    trusted = list(play(ROOT / "docs" / "trust.md", tmp_path))
    assert "5 passed" in trusted[0].output

    failure = list(play(ROOT / "docs" / "read-a-failure.md", tmp_path))
    assert "FAIL" in failure[0].output
    assert load(tmp_path / "circuits" / "found.yaml").groups.keys() == {"induction", "previous"}
    assert {p.suffix for p in (tmp_path / "pictures").iterdir()} == {".svg", ".png"}


def test_how_to_write_a_claim_kind(tmp_path: Path) -> None:
    """The page's package, installed and used."""
    ran = list(play(ROOT / "docs" / "write-a-claim-kind.md", tmp_path))
    assert "2 passed" in ran[-1].output


def test_a_request_of_another_package_is_costed_and_checked_ahead(tmp_path: Path) -> None:
    """`doctor` adds up its rows, and says before anything is measured which rows it cannot have."""
    page = (ROOT / "docs" / "write-a-claim-kind.md").read_text("utf-8")
    files = {each.options["file"]: each.text for each in blocks(page) if "file" in each.options}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    install(tmp_path, tmp_path)

    def doctor(old: str, new: str) -> tuple[int, str]:
        claim = files["certain/claim.py"]
        assert old in claim
        (tmp_path / "certain" / "claim.py").write_text(claim.replace(old, new))
        pair = "--model-pair base=zoo:base,ft=zoo:ft"
        status, printed = run(f"pytest-mechanism doctor certain.yaml {pair}", tmp_path, 120)
        return status, next(line for line in printed.splitlines() if "sure::base" in line)

    status, line = doctor("Cost(rows=self.rows)", "Cost(rows=10**9)")
    assert (status, "runs, about" in line) == (0, True)
    assert int(line.split("about ")[1].removesuffix(" min")) > 1000
    status, line = doctor('stream="rows")', 'stream="rows", positions=("nowhere",))')
    assert status == 1
    assert "has no position 'nowhere'; valid:" in line
