"""What a child process does around its work. Imports nothing of this package."""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

MARK = "\n#answer#"
"""Precedes the answer: libraries may write to standard output as well."""


def main(run: Callable[[Any, Callable[[], None]], Any]) -> None:
    """Read the arguments from standard input and write the answer to standard output."""
    request = json.loads(sys.stdin.read())
    answer = run(request["arguments"], partial(limit, request["seconds"], request["size"]))
    sys.stdout.write(MARK + json.dumps(answer))


def limit(seconds: int, size: int) -> None:
    """Limit the computing time and the memory of this process from now on. Windows knows no such
    limits; the parent's timeout is all there is."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime) + 1
    for what, most in ((resource.RLIMIT_CPU, used + seconds), (resource.RLIMIT_AS, size)):
        hard = resource.getrlimit(what)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (soft, hard))
