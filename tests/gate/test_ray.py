"""``--mechanism-ray`` on two workers of this machine gives the results of a serial run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import warm_python

from tests.gate.test_workers import SPEC

KILLS = int(os.environ.get("MECHANISM_RAY_KILLS", "1"))
"""How many workers are killed in all."""

KILLS_A_RUN = 2
"""In one run: a third death of one measurement would be an error."""

RED = "  too_much: {kind: accuracy, on: base, at_least: 0.99}\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("ray") is None,
        reason="Ray is not installed: pip install 'pytest-mechanism[ray]'",
    ),
]


def start(
    folder: Path, *options: str, python: Sequence[str] = (sys.executable,)
) -> subprocess.Popen[str]:
    folder.mkdir()
    (folder / "workers.yaml").write_text(SPEC + RED)
    command = [*python, "-m", "pytest", "workers.yaml", "--model-pair=a=zoo:base,b=zoo:ft"]
    files = ["--mechanism-json=found.json", "--mechanism-store=store", "--snapshot-update"]
    return subprocess.Popen(
        [*command, *files, "--mechanism-no-locate", *options],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a job in the background of a shell ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def result(folder: Path) -> tuple[Any, bytes, Any]:
    """Verdicts, accepted scores and where measurements ran."""
    content = json.loads((folder / "found.json").read_text())
    verdicts = {c["id"]: (c["verdict"], c["reason"]) for c in content["claims"]}
    scores = (folder / "__scores__" / "a+b" / "workers.json").read_bytes()
    return verdicts, scores, content.get("ran_on")


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray's actors below a run."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        return [child for child in below if "ray::Worker" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def test_two_workers_come_to_the_serial_run_though_some_are_killed(tmp_path: Path) -> None:
    """The verdicts and the bytes of the score file are the same, red claims included. The result file says where
    each measurement ran. ``MECHANISM_RAY_KILLS=20`` kills more workers, in more runs."""
    serial = start(tmp_path / "serial", python=warm_python.COMMAND)
    output, _ = serial.communicate(timeout=900)
    assert serial.returncode == 1, output
    expected = result(tmp_path / "serial")
    assert expected[2] is None
    killed, number, draw = 0, 0, random.Random(0)
    while killed < KILLS:
        number += 1
        ray = start(tmp_path / f"ray{number}", "--mechanism-ray")
        at_most = min(KILLS, killed + KILLS_A_RUN)
        while ray.poll() is None and killed < at_most:
            time.sleep(draw.uniform(0.5, 4))
            if workers := workers_of(ray):
                draw.choice(workers).kill()
                killed += 1
        output, _ = ray.communicate(timeout=900)
        assert ray.returncode == 1, output

        actual = result(tmp_path / f"ray{number}")
        assert actual[:2] == expected[:2]
        assert {place["role"] for place in actual[2]} == {"base", "ft"}
        assert all(place["node"] and place["pid"] for place in actual[2])


def test_ctrl_c_leaves_no_actor(tmp_path: Path) -> None:
    """Exit code 2, as for every interrupted run."""
    ray = start(tmp_path / "ray", "--mechanism-ray")
    while not (workers := workers_of(ray)):
        assert ray.poll() is None, ray.communicate()
        time.sleep(0.2)
    ray.send_signal(signal.SIGINT)
    ray.communicate(timeout=300)

    _, alive = psutil.wait_procs(workers, timeout=60)
    assert (ray.returncode, alive) == (2, [])
