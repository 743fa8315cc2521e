"""pytest's own tool for running pytest inside a test; one thread a process, no network; signatures of the
packages below are checked, tensor shapes included, unless `WITHOUT_SHAPES` is set."""

import gc
import os
import sys

import pytest
from jaxtyping import install_import_hook

WITHOUT_SHAPES = "MECHANISM_TESTS_WITHOUT_SHAPES"
"""Set to 1, signatures are not checked, which takes a third of the numerical tests' time: for a run that repeats
tests whose shapes were checked before."""

# before torch is imported: several workers with several threads each get in each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# tests start hundreds of processes: each would compile the package anew where an image forbids to keep bytecode
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ["pytester"]

if os.environ.get(WITHOUT_SHAPES) != "1":
    install_import_hook(
        [
            f"pytest_mechanism.{package}"
            for package in (
                "engine",
                "model_families",
                "methods",
            )
        ],
        "beartype.beartype",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and the libraries that they import stay to the end. Each of the hundreds of models that
    tests load and let go collects garbage, and need not look at all of them again."""
    gc.collect()
    gc.freeze()
