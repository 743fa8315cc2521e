"""Benches over every family, loaded as a user's folder is: reference, weights, self-checks."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from asked import TASK
from configs import random_model, save

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.reference import parse_reference
from pytest_mechanism.methods.bench import Bench
from pytest_mechanism.runner.options import Options
from pytest_mechanism.runner.runner import Runner


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The checkpoint of a family, made once for each seed."""

    @cache
    def of(family: str, seed: int = 0) -> Path:
        return save(random_model(family, seed), tmp_path_factory.mktemp(family))

    return of


def opened(folder: Path, role: str = "base", **options: str) -> Bench:
    """The bench of a checkpoint, from what a user would type."""
    reference = parse_reference(f"{role}={folder}", {}, folder)
    runner = Runner({role: reference}, {role: Fingerprint("weights", "words")}, Options(**options))
    bench: Bench = runner.bench(role, TASK)
    return bench


@pytest.fixture(scope="session")
def bench(folder: Callable[..., Path]) -> Callable[..., Bench]:
    """The bench of a family's checkpoint, loaded once."""

    @cache
    def of(family: str, engine: str = "branch", dtype: str = "float32", seed: int = 0) -> Bench:
        return opened(folder(family, seed), engine=engine, dtype=dtype)

    yield of
    of.cache_clear()
    gc.collect()
