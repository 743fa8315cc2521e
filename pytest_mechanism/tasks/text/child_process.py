"""Our own small programs that look at a stranger's file in a process of their own, with limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

PATIENCE = 120
"""Seconds until a process is given up, however busy the machine is."""


def run_module(
    module: ModuleType, given: Mapping[str, Any]
) -> subprocess.CompletedProcess[str] | None:
    """Run a module's file with ``given`` as JSON on its standard input; None if it does not end.

    Raises:
        OSError: no process can be started.
    """
    try:
        return subprocess.run(  # noqa: S603 - our own file
            [sys.executable, "-P", str(module.__file__)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
