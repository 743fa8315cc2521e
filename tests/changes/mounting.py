"""Scripts that mount file systems, out of sight of other processes."""

from __future__ import annotations

import subprocess

import pytest

NOT_PERMITTED = 77
"""Exit code of a script that may not mount."""


def run_with_mounts(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a bash script that may mount: as root, or as root of a user namespace. Elsewhere the test is skipped."""
    for privileges in ([], ["--map-root-user"]):
        done = subprocess.run(
            ["unshare", "--mount", *privileges, "bash", "-c", script, "bash", *map(str, arguments)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode != NOT_PERMITTED and not done.stderr.startswith("unshare: "):
            return done
    pytest.skip("only root, or root of a user namespace, may mount a file system")
