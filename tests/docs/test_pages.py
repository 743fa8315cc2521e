"""The pages' commands do what the pages say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, blocks, run, run_page

from pytest_mechanism.registry import claim_kinds
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord

PAGES = sorted(
    p
    for d in (".", "docs", "circuits", "benchmarks")
    for p in (ROOT / d).glob("*.md" if d == "." else "**/*.md")
)
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))


def test_how_to_write_a_task(tmp_path: Path) -> None:
    """Every command exits and prints as the page says; lint refuses two specs."""
    ran = list(run_page(ROOT / "docs" / "write-a-task.md", tmp_path))
    assert {command.status for command in ran} == {0, 2}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_spec_whose_task_writes_rows(path: Path) -> None:
    """An example loads, and its task writes pairs and interchange rows for all variables."""
    spec = load(path)
    rows = spec.task.settings.rows
    assert len(spec.task.pairs(AnyWord(), rows)) == rows
    assert spec.task.variables
    for variable in spec.task.variables:
        assert len(spec.task.interchange(AnyWord(), variable, rows, "test")) == rows


def test_every_claim_kind_has_a_row() -> None:
    """On the page of kinds, and its name in README's table."""
    page = (ROOT / "docs" / "claim-kinds.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.partition("| question | kinds |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(claim_kinds())
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(claim_kinds())
    assert f"There are {len(claim_kinds())} [kinds of claims]" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_table_has_a_heading(page: Path) -> None:
    """Rows after an empty line begin no table of their own: Markdown shows them as text with bars."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert [t for t in tables if not re.match(r".*\n\|[-:| ]+\|\n", t)] == []


def test_linting_the_examples_imports_no_large_library() -> None:
    """`lint` imports neither torch nor transformers nor scipy.stats: each takes longer than linting."""
    code = (
        "import sys; from pytest_mechanism.cli import main; "
        f"code = main(['lint', {str(ROOT / 'docs' / 'examples')!r}]); "
        "print(code, sorted({'torch', 'transformers', 'scipy.stats'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip().splitlines()[-1] == "0 []", result.stdout + result.stderr


@pytest.mark.slow
def test_from_installing_to_a_gate_on_a_pair_of_ones_own(tmp_path: Path) -> None:
    """The pages from the first spec to a red claim run on one pair, and heads are discovered."""
    from copying import make_pair

    make_pair(tmp_path)
    first = list(run_page(ROOT / "docs" / "first-spec.md", tmp_path))
    assert len(first) == 6
    assert "5 passed" in first[4].output
    named = load(tmp_path / "found.yaml")
    assert not named.discovers_heads
    assert {"ft", "pair"} <= {role for claim in named.claims.values() for role in claim.roles()}
    spec = (tmp_path / "circuits" / "copying.yaml").read_text()
    shown = next(
        block.text
        for block in blocks((ROOT / "docs" / "first-spec.md").read_text("utf-8"))
        if block.language == "yaml"
    )
    for line in shown.splitlines():  # the page shows the spec that `new` writes
        assert line.partition("   #")[0].partition("[ant")[0].rstrip() in spec, line

    gate = list(run_page(ROOT / "docs" / "gate-a-release.md", tmp_path))
    assert json.loads((tmp_path / "mechanism.json").read_text())["exit_code"] == 0
    assert "have no baseline yet" in gate[0].output
    scores = {p.name for p in (tmp_path / "circuits" / "__scores__").iterdir()}
    assert scores == {"base+ft", "released+candidate"}

    trusted = list(run_page(ROOT / "docs" / "trust.md", tmp_path))
    assert "5 passed" in trusted[0].output

    failure = list(run_page(ROOT / "docs" / "read-a-failure.md", tmp_path))
    assert "FAIL" in failure[0].output
    assert load(tmp_path / "circuits" / "found.yaml").groups.keys() == {"induction", "previous"}
    assert {p.suffix for p in (tmp_path / "pictures").iterdir()} == {".svg", ".png"}


def duration_on_ft(doctor: str) -> str:
    """The duration that doctor predicts for the page's claim on ft."""
    match = re.search(r"certain_of_the_box::ft +runs, about (.+)", doctor)
    assert match is not None, doctor
    return match[1]


@pytest.mark.slow
def test_how_to_write_a_claim_kind(tmp_path: Path) -> None:
    """The page's package runs and doctor counts its cost; without a safeguard its claim does not pass."""
    lint, doctor, gate = list(run_page(ROOT / "docs" / "write-a-claim-kind.md", tmp_path, 300))[-3:]
    assert "1 claims, 2 tests" in lint.output
    assert duration_on_ft(doctor.output).endswith(" s")
    assert "2 passed" in gate.output

    claim = tmp_path / "certain" / "claim.py"
    written = claim.read_text()
    claim.write_text(written.replace("Cost(rows=self.rows)", "Cost(rows=100_000 * self.rows)"))
    status, output = run(doctor.command, tmp_path, 300)
    assert status == 0
    assert not duration_on_ft(output).endswith(" s"), output  # doctor counts the request's own cost

    for safeguard, missing in (
        ("control=NO_TASK, ", "claim kind 'certain' neither compares the score with"),
        (", chance=NO_TASK", "claim kind 'certain' neither compares the model with chance"),
    ):
        assert safeguard in written
        claim.write_text(written.replace(safeguard, ""))
        status, output = run(f"{gate.command} --mechanism-no-locate", tmp_path, 300)
        assert status == 1
        assert "inconclusive" in output
        assert missing in " ".join(output.split())  # lines are fitted to the terminal
