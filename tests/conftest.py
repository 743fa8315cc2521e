"""pytest's own tool for running pytest inside a test; one thread a process, no network; signatures of the
packages below are checked, tensor shapes included."""

import os

from jaxtyping import install_import_hook

# before torch is imported: several workers with several threads each get in each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest_plugins = ["pytester"]

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
