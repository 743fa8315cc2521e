"""The Python with imported libraries does what an ordinary Python does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm_python

SAID = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["SAID"], sys.path[0], sys.stdin.read(), __name__)
sys.stderr.write("to the other stream\\n")
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1), ("1 / 0", 1), ("os._exit(7)", 7)],
)
@pytest.mark.parametrize("option", ["-c", "-m"])
def test_it_does_what_an_ordinary_python_does(
    option: str, ending: str, code: int, tmp_path: Path
) -> None:
    """The same arguments, folder, environment, streams and exit code."""
    (tmp_path / "said.py").write_text(SAID + ending)
    what = SAID + ending if option == "-c" else "said"
    ran = [
        subprocess.run(
            [*python, option, what, "one", "--two"],
            cwd=tmp_path, env={**os.environ, "SAID": "yes", "PYTHONPATH": "elsewhere"},
            input="typed", capture_output=True, text=True, check=False,
        )
        for python in ([sys.executable], warm_python.COMMAND)
    ]  # fmt: skip
    assert [done.returncode for done in ran] == [code, code]
    assert ran[0].stdout == ran[1].stdout
    assert [done.stderr.splitlines()[0] for done in ran] == ["to the other stream"] * 2
    assert ran[0].stderr.splitlines()[-1] == ran[1].stderr.splitlines()[-1]


def test_it_ends_with_the_process_that_a_test_ends(tmp_path: Path) -> None:
    """A test that gives up on a process leaves none behind."""
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    started = subprocess.Popen([*warm_python.COMMAND, "-c", code], cwd=tmp_path)
    written = tmp_path / "pid"
    while not (written.exists() and written.read_text()):
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    path = Path("/proc") / written.read_text()
    for _ in range(600):
        if not path.exists():
            return
        time.sleep(0.05)
    pytest.fail("it still runs")
