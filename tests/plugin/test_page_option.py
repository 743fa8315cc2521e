"""``--mechanism-report``: the page of a run, and paths at which none can be written."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def mixed(project):
    """A claim that passes on base and fails on ft."""
    project.spec("good: {at_least: 0.75}")
    project.values(good={"base": 0.9, "ft": 0.25})
    return project


def test_a_run_writes_its_page(mixed):
    """With the claims, whatever the verdict; a second run replaces it."""
    for _ in range(2):
        assert mixed.run("--mechanism-report", "page.html").ret == pytest.ExitCode.TESTS_FAILED
    html = (mixed.path / "page.html").read_text("utf-8")
    assert "<title>Red: ft against base" in html
    assert "circuit.yaml::good::ft" in html


def test_a_report_that_fails_is_in_the_exit_code_of_the_result_file(project):
    """Programs that read the file learn what pytest ended with, also where something else was lost."""
    project.spec("good: {at_least: 0.75}")
    project.values(good=0.9)
    (project.path / "conftest.py").write_text(
        "from pathlib import Path\ndef pytest_collection_finish():\n    Path('runs').touch()\n"
    )
    result = project.run("--mechanism-history", "runs", "--mechanism-json", "out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    written = json.loads((project.path / "out.json").read_text("utf-8"))
    assert written["exit_code"] == pytest.ExitCode.USAGE_ERROR
    assert written["conclusion"]["state"] == "not_judged"


def test_workers_write_one_page(mixed):
    """The controller of xdist writes it."""
    mixed.run_on_a_worker("--mechanism-report", "page.html")
    html = (mixed.path / "page.html").read_text("utf-8")
    assert html.count('<details class="claim') == 2


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (".", "is a folder; name a file"),
        ("gone/page.html", "cannot be written: no such folder"),
        ("values.json", "exists and is no such output of pytest-mechanism"),
        ("/proc/page.html", "cannot be written: *"),
    ],
)
def test_a_path_without_a_page_is_one_line_before_any_measurement(mixed, path, said):
    """Exit code 4, nothing is collected, and the file that is there stays."""
    before = (mixed.path / "values.json").read_text()
    result = mixed.run("--mechanism-report", path)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --mechanism-report: *{said}*"])
    result.stdout.no_fnmatch_line("*collected*")
    assert (mixed.path / "values.json").read_text() == before


def test_a_run_that_stops_early_leaves_no_older_page(mixed):
    """A run with a bad pair removes the page of an earlier run, which is about other models."""
    mixed.run("--mechanism-report", "page.html")
    mixed.run("--mechanism-report", "page.html", pair="./base,./gone")
    assert not (mixed.path / "page.html").exists()
