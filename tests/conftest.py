"""pytest's own tool for running pytest inside a test; one thread a process, no network; signatures of the
packages below are checked, tensor shapes included."""

import gc
import os
import sys

import pytest
import scipy.optimize
import scipy.stats  # noqa: F401 - pytester forgets what an inner run imports, and C libraries cannot be imported twice
import shape_checks
import warm_python

# before torch is imported: several workers with several threads each get in each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# tests start hundreds of processes: each would compile the package anew where an image forbids to keep bytecode
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

warm_python.prepare()

pytest_plugins = ["pytester"]

shape_checks.check_shapes(
    f"pytest_mechanism.{package}" for package in ("engine", "model_families", "methods")
)


def pytest_runtest_logstart() -> None:
    """Each test has its own first calls, whichever tests ran before."""
    shape_checks.calls.clear()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and the libraries that they import stay to the end. Each of the hundreds of models that
    tests load and let go collects garbage, and need not look at all of them again."""
    gc.collect()
    gc.freeze()
