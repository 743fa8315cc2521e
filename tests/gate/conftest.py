"""``pytest SPEC --model-pair`` as a release engineer runs it, once for all workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import warm_python
from filelock import FileLock

ROOT = Path(__file__).parents[2]
Run = tuple[int, dict[str, Any], str]

REPORT_TORCH = """
import sys

def pytest_unconfigure(config):
    print("torch imported:", "torch" in sys.modules or "transformers" in sys.modules)
    print("statistics imported:", "scipy.stats" in sys.modules)
    print("data sets imported:", "datasets" in sys.modules or "pandas" in sys.modules)
"""


class Gate:
    """``pytest SPEC`` in a copy of the circuits; one store for all runs of all workers.

    Attributes:
        folder: where it runs.
        shared: what all workers of the test run have in common.
    """

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder, self.shared = folder, shared
        shutil.copytree(ROOT / "circuits", folder / "circuits")
        (folder / "conftest.py").write_text(REPORT_TORCH)

    def run(
        self,
        pair: str,
        *more: str,
        spec: str = "entity_tracking",
        locate: bool = False,
        python: Sequence[str] = warm_python.COMMAND,
    ) -> Run:
        """Exit code, result file, output."""
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        command = [*python, "-m", "pytest", f"circuits/{spec}.yaml", "-n0"]
        command += ["-p", "no:hypothesispytest", "--model-pair", pair]
        command += ["--mechanism-store", str(self.shared / "store")]
        if not locate:
            command.append("--mechanism-no-locate")
        done = subprocess.run(
            [*command, "--mechanism-json", str(result), *more],
            cwd=self.folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        content = json.loads(result.read_text()) if result.exists() else {}
        return done.returncode, content, done.stdout + done.stderr

    def once(self, pair: str, spec: str = "entity_tracking") -> Run:
        """The first run on a pair, by whichever worker asks first, in an ordinary process."""
        kept = self.shared / f"{spec} {pair.replace(':', '_')}.json"
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                kept.write_text(json.dumps(self.run(pair, spec=spec, python=[sys.executable])))
        code, content, output = json.loads(kept.read_text())
        return code, content, output


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Gate:
    root = tmp_path_factory.getbasetemp()
    shared = (root if worker_id == "master" else root.parent) / "gates"
    shared.mkdir(exist_ok=True)
    return Gate(tmp_path_factory.mktemp("gate"), shared)
