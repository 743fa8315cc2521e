"""Peak memory of the sweeps, above what the loaded model takes, beside that of one forward.

Each is measured in a child of its own, forked after loading; it warms up, so that the libraries'
buffers are there, and the parent looks at its anonymous memory while it works (pages of files come
and go with what else the machine does). All of it happens in a process that gives large blocks back
to the system as they are freed: what is seen is what the work holds, and not the holes that glibc
keeps for later, which differ from run to run by half a forward. Linux with glibc only.

python -m benchmarks.memory SHAPE ROWS TOKENS       prints JSON; `engines` calls it
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.shapes import Setting

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18), "MALLOC_TRIM_THRESHOLD_": str(1 << 18)}
"""Bytes of a block from which on glibc maps it by itself."""

OFTEN = 0.0005
"""Seconds between two measurements of memory."""


def available() -> bool:
    return platform.libc_ver()[0] == "glibc"


def apart(setting: Setting) -> list[dict[str, Any]]:
    """`table`, run in a new process whose allocator returns freed memory."""
    rows, length = setting.batch.base.tokens.ids.shape
    command = [sys.executable, "-m", "benchmarks.memory", setting.name, str(rows), str(length)]
    run = subprocess.run(  # noqa: S603 - this file
        command, env={**os.environ, **GIVE_BACK}, capture_output=True, text=True, check=True
    )
    result: list[dict[str, Any]] = json.loads(run.stdout)
    return result


def table(setting: Setting) -> list[dict[str, Any]]:
    """Peaks of sweeps and of one plain forward, and their ratio to it."""
    import torch

    from benchmarks import shapes, sweeps

    small = replace(setting, batch=shapes.pairs(setting.shape, 1, 4))

    @torch.no_grad()
    def forward() -> Any:
        return setting.plain(setting.batch.base.tokens.ids)

    def swept(of: Setting, everywhere: bool, name: str, every: int) -> Callable[[], Any]:
        measure = sweeps.sweep(setting=of, everywhere=everywhere, every=every)
        chosen = next(c for c in measure.contenders if c.name == name)
        return lambda: chosen.variants(chosen.runs(), range(0, measure.variants, every))

    def warm(own: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (forward(), own())[0]

    work = {"one plain forward": (forward, forward)}
    for everywhere, where in ((False, "last position"), (True, "all positions")):
        # memory does not grow with the heads where each is computed by itself
        for name, every in (("branch engine", 48 if everywhere else 2), ("transformer-lens", 72)):
            work[f"{name}, {where}"] = (
                swept(setting, everywhere, name, every),
                warm(swept(small, everywhere, name, every)),
            )
    peaks = {name: peak(*each) for name, each in work.items()}
    one = peaks["one plain forward"]
    return [
        {"shape": setting.name, "work": name, "bytes": result, "ratio": result / max(one, 1)}
        for name, result in peaks.items()
    ]


def held(process: int) -> int:
    """Bytes of anonymous memory."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise LookupError(process)


def peak(work: Callable[[], Any], warm: Callable[[], Any]) -> int:
    """Peak memory of ``work`` in bytes above the memory before it, after ``warm`` has run."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_in_child, args=(there, work, warm))
    child.start()
    there.close()
    try:
        here.recv()
        before = most = held(child.pid or 0)
        here.send("go")
        while not here.poll(OFTEN):
            most = max(most, held(child.pid or 0))
        here.recv()
        return most - before
    finally:
        here.close()
        child.join()


def _in_child(there: Connection, work: Callable[[], Any], warm: Callable[[], Any]) -> None:
    warm()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    there.send("ready")
    there.recv()
    work()
    there.send("done")


def main() -> None:
    warnings.simplefilter("ignore")
    import torch

    from benchmarks.shapes import make_setting

    torch.set_num_threads(1)
    name, rows, length = sys.argv[1:]
    print(json.dumps(table(make_setting(name, int(rows), int(length)))))


if __name__ == "__main__":
    main()
