"""A Python whose large libraries are imported already, for tests that start many processes.

``python -I -S tests/warm_python.py -m pytest ...`` does what ``python -m pytest ...`` does, with the same arguments,
folder, environment, streams and exit code, in a process that is forked from one in which torch, transformers and
transformer-lens are imported: six seconds of a processor that every gate would spend alike. The package itself is
imported anew in each. Processes with other options than ``-m`` and ``-c``, and those on systems that do not fork or
have no pidfd, are ordinary ones. What a process imports, how much time it takes, and how it bears a signal must be
tested in an ordinary one.

The first process starts the server. It ends with the test run.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

ADDRESS = "MECHANISM_TESTS_WARM_PYTHON"
"""Environment variable: folder of the server's socket. Without it, processes are ordinary."""
OWNER = "MECHANISM_TESTS_OWNER"
"""Environment variable: the process with which the server ends."""

COMMAND = [sys.executable, "-I", "-S", __file__]
"""Stands for ``sys.executable`` in the command of a process."""


def prepare() -> None:
    """Tell all processes of this test run where the server is, or will be."""
    import tempfile

    if hasattr(os, "pidfd_open") and ADDRESS not in os.environ:
        os.environ[ADDRESS] = tempfile.mkdtemp(prefix="warm-")
        os.environ[OWNER] = str(os.getpid())


def script(path: Path, *arguments: str) -> Path:
    """An executable file that does what Python does with these arguments and those that it is given."""
    import shlex

    path.write_text(f'#!/bin/sh\nexec {shlex.join([*COMMAND, *arguments])} "$@"\n')
    path.chmod(0o755)
    return path


# in the process that a test starts


def main(arguments: list[str]) -> None:
    """Runs Python with these arguments in a fork of the server."""
    import json

    folder = os.environ.get(ADDRESS)
    if not arguments or arguments[0] not in ("-m", "-c") or not folder:
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
    order = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    content = json.dumps(order).encode()
    with connected(Path(folder)) as server:
        socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(content)
        status = server.recv(1)
    os._exit(status[0] if status else 1)


def connected(folder: Path) -> socket.socket:
    """A connection to the server, which is started where there is none."""
    import fcntl
    import subprocess

    address = folder / "socket"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            environment.pop("PYTHONPATH", None)
            with (folder / "log").open("w") as log:
                server = subprocess.Popen(
                    [sys.executable, __file__, "serve"],
                    cwd="/", env=environment, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            while not address.exists():
                if server.poll() is not None:
                    said = (folder / "log").read_text()
                    sys.exit(f"the tests' warm Python did not start: {said}")
                time.sleep(0.05)
    server_socket = socket.socket(socket.AF_UNIX)
    server_socket.connect(str(address))
    return server_socket


# in the server


def serve() -> None:
    """Import the libraries, then fork a process for each connection until the owner ends."""
    import gc
    import shutil

    owner = os.pidfd_open(int(os.environ[OWNER]))
    import_libraries()
    gc.collect()
    gc.freeze()
    folder = Path(os.environ[ADDRESS])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "unnamed"))
    listener.listen(64)
    (folder / "unnamed").rename(folder / "socket")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while listener in select.select([listener, owner], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(owner)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            attend(connection)
            os._exit(0)
        connection.close()
    shutil.rmtree(folder, ignore_errors=True)


def import_libraries() -> None:
    """Those of a gate, in the package's own way. The package itself is forgotten again, and so are libraries with a
    plugin, which pytest wants to import itself."""
    import importlib
    from importlib.metadata import entry_points

    from pytest_mechanism.model_families import tracr

    for name in (
        "scipy.optimize", "scipy.stats", "safetensors.torch", "tokenizers", "torch", "transformers",
        "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama", "transformers.modeling_utils",
    ):  # fmt: skip
        importlib.import_module(name)
    plugins = {
        entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group="pytest11")
    }
    forgotten = {tracr.__name__.partition(".")[0], *plugins}
    for name in [name for name in sys.modules if name.partition(".")[0] in forgotten]:
        del sys.modules[name]


def attend(connection: socket.socket) -> None:
    """Start the process that a connection asks for, and send its exit code. It ends if the connection does."""
    import json

    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    content = b""
    while len(content) < int.from_bytes(head, "big"):
        content += connection.recv(1 << 20)
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        connection.close()
        become(json.loads(content), streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(process)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.killpg(process, signal.SIGKILL)  # whoever waited for it was ended
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))


def become(order: dict[str, Any], streams: list[int]) -> None:
    """Be the process: its streams, folder, environment and arguments; run its code; exit."""
    import atexit
    import runpy
    import threading
    import traceback

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    here = str(Path(__file__).parent)
    search = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*search, *(path for path in sys.path if path != here)]
    option, what, *rest = order["arguments"]
    code = 0
    try:
        if option == "-m":
            sys.path.insert(0, order["folder"])
            sys.argv[:] = [what, *rest]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, "")
            sys.argv[:] = ["-c", *rest]
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main(sys.argv[1:])
