"""A pair whose second checkpoint is read while the first is measured: header, report and result file."""

from __future__ import annotations

import json

import pytest

from pytest_mechanism.checkpoints import read_ahead


@pytest.fixture
def large(project, monkeypatch):
    """A project whose weights all count as large."""
    monkeypatch.setattr(read_ahead, "LARGE", 1)
    project.spec("good: {at_least: 0.1}")
    project.values(good=0.9)
    return project


def test_the_report_names_the_fingerprint_that_the_header_lacks(large):
    """The header comes before ft is read; the section of the run and the result file come after."""
    result = large.run("--mechanism-json", "out.json")
    mark = json.loads((large.path / "out.json").read_text())["pair"]["ft"]["fingerprint"]
    lines = [line for line in result.outlines if line.startswith("mechanism: ft = ")]
    assert "read while base is measured" in lines[0]
    assert f"fingerprint {mark[:12]}" in lines[1]
    assert (len(mark), len(lines), result.ret) == (64, 2, pytest.ExitCode.OK)


def test_a_checkpoint_compared_with_itself_is_still_said(large):
    """Once both are read."""
    result = large.run(pair="./base,again=./base")
    result.stdout.fnmatch_lines(["*base and ft are the same checkpoint, so nothing is compared*"])


def test_weights_that_cannot_be_read_make_the_run_red(large, monkeypatch):
    """Even where no claim asked for them: the result file could not say what was compared."""
    (large.path / "conftest.py").write_text(
        "import pathlib, pytest\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_collection_finish():\n"
        f"    pathlib.Path({str(large.path / 'ft' / 'model.safetensors')!r}).unlink()\n"
    )
    result = large.run("--mechanism-json", "out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*ft/model.safetensors*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.slow
def test_workers_compare_the_fingerprints_of_all(large):
    """Under xdist nothing is read later, since every worker must see the same checkpoints."""
    result = large.run_on_a_worker()
    result.stdout.fnmatch_lines(["mechanism: ft = ./ft (label ft), fingerprint *"])
