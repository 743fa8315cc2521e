"""A process that dies, is terminated or is interrupted: the run is never green, and no file is half written
or lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pytest_mechanism import cli
from pytest_mechanism.commands import doctor

RED, STOPPED = pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED

KILL = """
import os, pathlib, signal, sys
sys.path.insert(0, {path!r})
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if "second::base" in pyfuncitem.nodeid and not pathlib.Path("killed").exists():
        pathlib.Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILL_LATE = """
import os, signal, sys
sys.path.insert(0, {path!r})
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        os.kill(os.getpid(), signal.SIGKILL)
"""
WAIT = """
import pathlib, sys, time
sys.path.insert(0, {path!r})
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if "second::base" in pyfuncitem.nodeid:
        pathlib.Path("started").touch()
        time.sleep(60)
"""


@pytest.fixture
def two(project):
    """Claims with accepted scores, of which an update would change some."""
    project.spec("first", "second")
    project.values(first=0.9, second=0.9)
    project.accept()
    project.values(first=0.8)
    return project


def conftest(project, text):
    project.pytester.makeconftest(text.format(path=str(project.third_party)))


def content(project):
    return json.loads((project.path / "out.json").read_text())


@pytest.mark.slow
def test_a_killed_worker_is_red(two):
    """The claim that it was at is an error in the file; those of its successor are judged."""
    conftest(two, KILL)

    result = two.run("-q", "-n", "1", "--mechanism-json", "out.json")

    observed = content(two)
    verdicts = {f"{c['claim']}.{c['role']}": c["verdict"] for c in observed["claims"]}
    assert result.ret == observed["exit_code"] == RED
    assert verdicts.pop("second.base") == "error"
    assert set(verdicts) == {"first.base", "first.ft", "second.ft"}
    assert observed["not_run"] == []
    reason = next(c["reason"] for c in observed["claims"] if c["verdict"] == "error")
    assert "crashed while running" in reason


def test_a_killed_worker_loses_no_accepted_score(two):
    """During an update, the scores that the worker had not written stay as they were, and the run reports it."""
    before = two.accepted()
    conftest(two, KILL)

    result = two.run("-q", "-n", "1", "--snapshot-update", "--mechanism-json", "out.json")

    after = two.accepted()
    assert result.ret == RED
    assert set(after) == set(before)
    assert any("accepted scores included" in reason for reason in content(two)["reasons"])


@pytest.mark.slow
@pytest.mark.parametrize("text", [KILL, KILL_LATE])
def test_workers_that_do_not_come_back(two, text):
    """A worker is killed in a claim, or after all claims: the run is red and lists the missing claims."""
    conftest(two, text)

    result = two.run("-q", "-n", "1", "--max-worker-restart=0", "--mechanism-json", "out.json")

    observed = content(two)
    assert result.ret == observed["exit_code"] != 0
    assert len(observed["claims"]) + len(observed["not_run"]) == 4
    assert any("ended early" in reason for reason in observed["reasons"])


def started(project, *arguments):
    """A run that waits in the middle of its claims."""
    conftest(project, WAIT)
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "-q", "--model-pair",
         "./base,./ft", "--mechanism-json", "out.json", "--snapshot-update", *arguments],
        cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        # a job in the background of a shell ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    waited = time.monotonic()
    while not (project.path / "started").exists():
        assert time.monotonic() - waited < 100, "it did not start"
        assert run.poll() is None, run.stdout.read().decode()
        time.sleep(0.05)
    return run


ENDS = {
    f"{number.name} {where}": (number, workers)
    for number in (signal.SIGINT, signal.SIGTERM)
    for where, workers in (("here", []), ("and workers", ["-n", "1"]))
}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(end, marks=[] if name == "SIGINT here" else pytest.mark.slow, id=name)
        for name, end in ENDS.items()
    ],
)
def test_a_run_that_is_told_to_end(two, end):
    """The run is not green. The result file lists the unfinished claims or does not exist, and the scores are
    complete."""
    number, workers = end
    before = two.accepted()
    run = started(two, *workers)

    os.killpg(run.pid, number)
    text = run.communicate(timeout=300)[0].decode()

    assert run.returncode not in (0, RED)
    assert "Traceback" not in text
    assert set(two.accepted()) == set(before)
    path = two.path / "out.json"
    if path.exists():
        observed = content(two)
        assert observed["exit_code"] == run.returncode == STOPPED
        assert "circuit.yaml::second::ft" in observed["not_run"]
    else:
        assert number == signal.SIGTERM


SAID = "pytest-mechanism: interrupted; finished measurements are kept\n"


def test_a_command_that_is_interrupted(tmp_path, monkeypatch, capsys):
    """One line, and a shell's exit code for it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "read_specs", interrupted)

    assert cli.main(["doctor", "--model-pair", "zoo:base,zoo:ft"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == SAID


def test_a_command_that_is_interrupted_at_its_start(monkeypatch, capsys):
    """While its modules are imported: likewise, without a traceback."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "make_parser", interrupted)
    assert cli.main(["doctor"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == SAID


def test_the_script_imports_no_command_before_it_can_be_interrupted():
    """The commands import pytest and pydantic, which takes a second."""
    text = "import sys, pytest_mechanism.cli; print({'pytest', 'pydantic'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
