"""Small programs of ours that read a stranger's template, pattern or tokenizer in a process with limits.

`chat_child`, `pattern_child` and `gguf_child` are such programs; `child_main` is what they share.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pytest_mechanism.tasks.text.child_main import MARK

TIMEOUT = 120
"""Seconds until a process is given up, however busy the machine is."""


class ChildError(Exception):
    """The process ended without an answer; its text is the last line of its standard error."""


class ChildLimitError(ChildError):
    """The process took more time or memory than it may."""


def run_child(
    module: ModuleType,
    arguments: Mapping[str, Any],
    seconds: int,
    size: int,
    timeout: int = TIMEOUT,
) -> Any:
    """Call a module's ``run(arguments, limit)`` in a separate process.

    Args:
        module: one of the programs.
        arguments: as JSON.
        seconds: limit of its computing time.
        size: limit of its address space in bytes.
        timeout: seconds after which it is ended, however little it has computed.

    Raises:
        ChildError: there is no answer.
        OSError: no process can be started.
    """
    request = {"arguments": arguments, "seconds": seconds, "size": size}
    try:
        process = subprocess.run(  # noqa: S603 - our own file
            [sys.executable, "-P", str(module.__file__)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ChildLimitError from None
    _, mark, answer = process.stdout.rpartition(MARK)
    if mark:
        return json.loads(answer)
    last = (process.stderr.strip().splitlines() or [""])[-1]
    if process.returncode < 0 or not last or "memory" in last.casefold():
        raise ChildLimitError(last)
    raise ChildError(last)
