"""`--mechanism-engine`, and what a run says that could not use the engine asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.model_families import layers

SPEC = """
mechanism: 1
circuit: tiny
task: {family: entity_tracking, boxes: 2, rows: 40, seed: 0}
groups:
  some_heads: {heads: {0: [0]}, at: last}
claims:
  learnt_nothing: {kind: accuracy, on: base, at_most: 0.6}
  knows_it: {kind: accuracy, on: ft, at_least: 0.99}
  moves_nothing: {kind: cmap, group: some_heads, donor: ft, recipient: base, recovers_at_least: 0.5}
"""
VERDICTS = {"learnt_nothing": "pass", "knows_it": "fail", "moves_nothing": "inconclusive"}


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        code: exit code.
        lines: of its output.
        claims: as the result file has them.
    """

    code: int
    lines: list[str]
    claims: list[dict[str, Any]]

    def by_name(self, key: str) -> dict[str, Any]:
        return {claim["claim"]: claim[key] for claim in self.claims}


@pytest.fixture
def run(
    tiny: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., RunResult]:
    """Runs the spec on a tiny pair, in this process: pytester would forget what the run imports,
    and torch cannot be imported twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    for name in [n for n in os.environ if n.startswith(("GITHUB_", "PYTEST_XDIST"))]:
        monkeypatch.delenv(name)
    tmp_path.joinpath("tiny.yaml").write_text(SPEC.lstrip())
    result = tmp_path / "out.json"

    def of(*arguments: str) -> RunResult:
        result.unlink(missing_ok=True)
        pair = f"base={tiny('llama-gqa')},ft={tiny('llama')}"
        ours = ("--model-pair", pair, "--mechanism-no-store", "--mechanism-json", str(result))
        plain = ("-p", "no:hypothesispytest", "--capture=no", f"--rootdir={tmp_path}", "tiny.yaml")
        capsys.readouterr()
        code = int(pytest.main([*plain, *ours, *arguments]))
        printed = capsys.readouterr()
        claims = json.loads(result.read_text())["claims"] if result.exists() else []
        return RunResult(code, [*printed.out.splitlines(), *printed.err.splitlines()], claims)

    return of


def test_an_engine_that_does_not_exist_is_a_usage_error(run: Callable[..., RunResult]) -> None:
    """One line that names those that do."""
    result = run("--mechanism-engine", "nonsense")
    assert (result.code, result.claims) == (pytest.ExitCode.USAGE_ERROR, [])
    (line,) = [line for line in result.lines if line.strip()]
    assert line == "ERROR: --mechanism-engine: unknown engine 'nonsense'; valid: branch, reference"


@pytest.mark.slow
def test_a_run_without_the_engine_asked_for_says_so_and_has_the_references_scores(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., RunResult]
) -> None:
    """A sentence below the table and a note on each claim; nothing else differs."""
    branch, reference = run(), run("--mechanism-engine", "reference")
    monkeypatch.setattr(layers, "CACHE_ARGUMENTS", ())
    instead = run()

    why = "the layers take no cache of keys and values"
    base, ft = (
        f"{role} was measured by the reference engine, not by branch: {why}"
        for role in ("base", "ft")
    )
    assert [instead.lines.count(note) for note in (base, ft)] == [1, 1]
    assert instead.by_name("notes") == {
        "learnt_nothing": [base],
        "knows_it": [ft],
        "moves_nothing": [base, ft],
    }
    for result in (branch, reference):
        assert not any(why in line for line in result.lines)
        assert set(map(tuple, result.by_name("notes").values())) == {()}

    for result in (branch, reference, instead):
        assert result.by_name("verdict") == VERDICTS
    assert instead.by_name("score") == reference.by_name("score")
    for name, score in branch.by_name("score").items():
        assert score == pytest.approx(reference.by_name("score")[name], abs=1e-5)
