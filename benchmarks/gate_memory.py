"""Peak memory of a whole gate beside what ``pytest-mechanism doctor`` announces.

Two checkpoints of GPT-2 small's shape (random weights, 50,257 words) are written to a folder, doctor
is asked, the gate is run, and its process is watched from outside. The model is counted once, as large
as its weights on disk; what is announced beside it is everything else: Python and libraries, the
copies that wrapping makes, activations, records. Ends with 1 where a figure misses its mark.

python -m benchmarks.gate_memory [--rows N] [--batch-size ROWS] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ZOO = Path(__file__).parents[1] / "pytest_mechanism" / "zoo"
SPEC = """mechanism: 1
circuit: memory
task: {{family: entity_tracking, boxes: 7, rows: {rows}, seed: 0}}
groups:
  value_fetcher:   {{heads: {{11: [0, 1, 2, 3]}}, at: last}}
  pos_transmitter: {{heads: {{9: [2]}}, at: last, into: {{group: value_fetcher, via: q}}}}
  pos_detector:    {{heads: {{5: [3]}}, at: query_label, into: {{group: pos_transmitter, via: v}}}}
ablation: {{value: positional_mean, prompts: 70}}
claims:
  solves: {{kind: accuracy, at_least: 0.6}}
  suffices: {{kind: faithfulness, between: [0.9, 1.1], random: 3}}
  transmits: {{kind: encodes, group: pos_transmitter, variable: position, at_least: 0.5}}
  fetches: {{kind: encodes, group: value_fetcher, variable: object, at_least: 0.5}}
  tells: {{kind: path, group: pos_transmitter, drops_at_least: 0.1}}
  improves: {{kind: cmap, group: value_fetcher, donor: ft, recipient: base, recovers_at_least: 0.5}}
"""
PYTHON = [sys.executable, "-m"]
QUIET = ["--tb=no", "-q", "--mechanism-no-store", "-p", "no:cacheprovider"]
OFTEN = 0.003
"""Seconds between two measurements of memory."""
MODEL, ANNOUNCED = 1.3, 0.25
"""Most memory, in sizes of the larger model above doctor's estimate; and the largest error of this estimate."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=140)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="keep the checkpoints here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        return report(folder, given.rows, given.batch_size)


def report(folder: Path, rows: int, batch: int) -> int:
    """Makes a checkpoint, runs ``doctor`` and the gate on it, and compares their memory."""
    size = max(checkpoint(folder / name, seed) for seed, name in enumerate("ab"))
    (folder / "memory.yaml").write_text(SPEC.format(rows=rows), encoding="utf-8")
    pair = ["--model-pair", "a,b"]
    doctor = subprocess.run(  # noqa: S603 - this package
        [*PYTHON, "pytest_mechanism.cli", "doctor", "memory.yaml", *pair, f"--batch-size={batch}"],
        cwd=folder, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = next(x for x in doctor.stdout.splitlines() if x.startswith("memory of"))
    print(line)
    total = 1e9 * float(re.findall(r"about ([\d.]+) GB", line)[0])
    print(f"before the gate, as doctor says: {doctor.stdout.count('runs, about')} claims run")
    peak = watched(
        [*PYTHON, "pytest", "memory.yaml", *pair, *QUIET, f"--mechanism-batch-size={batch}"],
        folder,
    )
    beside, measured = total - size, peak - size
    off = beside / measured - 1
    times = (peak - beside) / size
    print(f"gate: {peak / 1e9:.2f} GB at its peak; the larger model has {size / 1e9:.2f} GB")
    print(f"beside the model: {beside / 1e9:.2f} GB announced, {measured / 1e9:.2f} GB measured")
    print(f"announcement off by {off:+.0%} (at most {ANNOUNCED:.0%})")
    print(f"peak: {times:.2f} models and what was announced (at most {MODEL})")
    return int(abs(off) > ANNOUNCED or times > MODEL)


def checkpoint(folder: Path, seed: int) -> int:
    """A checkpoint of GPT-2 small's shape whose tokenizer has as many words; bytes of its weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    weights = folder / "model.safetensors"
    if not weights.exists():
        torch.manual_seed(seed)
        config = GPT2Config()
        GPT2LMHeadModel(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ZOO / "base" / name, folder / name)
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        words = tokenizer["model"]["vocab"]
        words |= {f"word{i}": i for i in range(len(words), config.vocab_size)}
        path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return weights.stat().st_size


def watched(command: list[str], folder: Path) -> int:
    """Peak memory of a command, in bytes."""
    import psutil

    print("$", " ".join(command[2:]), flush=True)
    child = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)  # noqa: S603
    process, peak = psutil.Process(child.pid), 0
    while child.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.Error:  # it has just ended
            break
        time.sleep(OFTEN)
    child.wait()
    return peak


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
