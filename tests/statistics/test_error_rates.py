"""How often claims pass by luck, and how often an unchanged model is red: docs/error-rates.md."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import warm_python

from pytest_mechanism.registry import claim_kinds
from pytest_mechanism.statistics import dependence, estimates
from recipes.simulation import __main__ as simulation
from recipes.simulation.__main__ import LEAST_PASSED, MOST_FALSE, RESULTS, SETTINGS, name_of
from recipes.simulation.setting import Simulated

ROOT = Path(__file__).parents[2]
OURS = {
    name: kind
    for name, kind in claim_kinds().items()
    if kind.__module__.startswith("pytest_mechanism.")
}
KNOWN = json.loads(RESULTS.read_text())
ROWS = 30 * 7

TOO_OFTEN = {"{kind: equivalent, margin: 0.1}": "3,000 further runs"}
"""Claims that pass too often at their threshold, with words of the page about them."""

MISSED: dict[str, str] = {}
"""Claims that are red too often at the recommended rows, likewise."""


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)
    monkeypatch.setattr(dependence, "RESAMPLES", 199)
    monkeypatch.setattr(dependence, "PERMUTATIONS", 3)


def test_every_kind_is_simulated_and_has_a_line_of_1000_draws() -> None:
    """A kind that is added is added here too, and simulated."""
    assert {*OURS} == {setting.kind for setting in SETTINGS}
    assert {*KNOWN} == {name_of(setting) for setting in SETTINGS}
    assert {result["draws"] for result in KNOWN.values()} == {1000}


def test_the_page_has_the_figures_of_the_simulation() -> None:
    """The table is the one that the script writes."""
    page = (ROOT / "docs" / "error-rates.md").read_text()
    assert page.endswith("\n".join([*simulation.table(KNOWN), ""]))


def test_every_figure_meets_its_target_or_the_page_says_why_not() -> None:
    """At most 5 % pass at the threshold, at least 90 % of unchanged models pass, within sampling error."""
    error = simulation.sampling_error(MOST_FALSE, 1000)
    assert {name for name, of in KNOWN.items() if of["false"] > MOST_FALSE + error} == {*TOO_OFTEN}
    error = simulation.sampling_error(LEAST_PASSED, 1000)
    missed = {
        name for name, of in KNOWN.items() if of["rows"] and of["passed"] < LEAST_PASSED - error
    }
    assert missed == {*MISSED}
    page = (ROOT / "docs" / "error-rates.md").read_text()
    assert all(reason in page for reason in (*TOO_OFTEN.values(), *MISSED.values()))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.kind}-{SETTINGS.index(s)}")
@pytest.mark.slow
def test_a_few_draws_do_not_contradict_the_table(setting: Simulated) -> None:
    """Of 8 runs at the threshold at most 3 pass: at a rate of 5 %, more do in one test of 2,700."""
    rng = np.random.default_rng(1)
    passed = [setting.judge(rng, setting.at_threshold, ROWS).status == "pass" for _ in range(8)]
    assert sum(passed) <= 3
    unchanged = [setting.judge(rng, setting.unchanged, 2 * ROWS).status for _ in range(3)]
    assert "pass" in unchanged


def test_the_true_scores_are_those_that_are_stated() -> None:
    """The mean score at the threshold is the threshold: worst-of-several scores aside."""
    rng = np.random.default_rng(2)
    for setting in SETTINGS:
        if setting.kind not in ("accuracy", "faithfulness", "path", "curve", "decodable"):
            continue
        scores = [setting.judge(rng, setting.at_threshold, ROWS).judged[0].score for _ in range(12)]
        mean = np.mean([score.value for score in scores])
        error = np.std([score.value for score in scores]) / np.sqrt(12)
        wanted = -setting.at_threshold if setting.kind == "path" else setting.at_threshold
        assert abs(mean - wanted) < 4 * error, setting.kind


@pytest.mark.slow
def test_the_script_simulates_the_kinds_that_it_is_given(tmp_path: Path) -> None:
    """The other lines of the table stay."""
    results, page = tmp_path / "r.json", tmp_path / "page.md"
    results.write_text(RESULTS.read_text())
    page.write_text((ROOT / "docs" / "error-rates.md").read_text())
    command = [*warm_python.COMMAND, "-m", "recipes.simulation", "path", "--draws", "5"]
    subprocess.run(
        [*command, "--results", results, "--page", page],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    changed = json.loads(results.read_text())
    assert {name for name in changed if changed[name]["draws"] == 5} == {
        name for name in KNOWN if "kind: path" in name
    }
