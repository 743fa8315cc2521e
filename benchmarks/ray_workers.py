"""A gate on Ray's workers of this machine beside the same gate in one process: wall-clock time, equal scores.

The specs are copies of ``circuits/entity_tracking.yaml`` with prompts of their own, so that there are enough
measurements for loading to matter little. Both runs begin with an empty store and compute with one thread a
process. The ratio means something only on a machine that does nothing else: the load is printed, too.

python -m benchmarks.ray_workers [--specs N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPEC = Path(__file__).parents[1] / "circuits" / "entity_tracking.yaml"
TARGET = 1.6
"""Ratio that two workers should reach."""


def gate(folder: Path, specs: int, *options: str) -> tuple[float, dict[str, Any], dict[str, bytes]]:
    """Seconds, verdicts by test, and accepted scores by file, of a gate in a new folder.

    Raises:
        SystemExit: the gate did not end with a verdict on each claim.
    """
    folder.mkdir()
    text = SPEC.read_text(encoding="utf-8")
    for number in range(specs):
        changed = text.replace("circuit: entity_tracking", f"circuit: tracking_{number}", 1)
        changed = changed.replace("seed: 0", f"seed: {number}", 1)
        (folder / f"tracking_{number}.yaml").write_text(changed, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", ".", "--model-pair=base=zoo:base,ft=zoo:ft"]
    files = ["--mechanism-json=found.json", "--mechanism-store=store", "--snapshot-update"]
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - pytest
        [*command, *files, "--mechanism-no-locate", *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    if done.returncode not in (0, 1) or not (folder / "found.json").exists():
        sys.exit(done.stdout + done.stderr)
    content = json.loads((folder / "found.json").read_bytes())
    verdicts = {claim["id"]: claim["verdict"] for claim in content["claims"]}
    scores = {path.name: path.read_bytes() for path in folder.glob("__scores__/*/*.json")}
    return seconds, verdicts, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--specs", type=int, default=8, help="number of specs (default: 8)")
    specs = parser.parse_args().specs
    with tempfile.TemporaryDirectory() as folder:
        before = os.getloadavg()[0]
        serial, *one = gate(Path(folder) / "serial", specs)
        ray, *many = gate(Path(folder) / "ray", specs, "--mechanism-ray")
    print(f"{os.cpu_count()} cores, load {before:.1f} before, {len(one[0])} claims")
    print(f"one process {serial:.0f} s, Ray {ray:.0f} s: {serial / ray:.2f}x (target {TARGET}x)")
    if one != many:
        sys.exit("the verdicts or the scores differ")
    print("the verdicts and the bytes of the score files are the same")


if __name__ == "__main__":
    main()
