"""Measurement contexts over every family, loaded as a user's folder is: reference, weights, self-checks."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from configs import random_model, save
from opening import opened

from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.methods.context import MeasurementContext


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The checkpoint of a family, made once for each seed."""

    @cache
    def of(family: str, seed: int = 0) -> Path:
        return save(random_model(family, seed), tmp_path_factory.mktemp(family))

    return of


@pytest.fixture(scope="session")
def context_of(folder: Callable[..., Path]) -> Callable[..., MeasurementContext]:
    """The measurement context of a family's checkpoint, loaded once."""

    @cache
    def of(
        family: str, engine: str = "branch", dtype: str = "float32", seed: int = 0
    ) -> MeasurementContext:
        if engine == "reference":  # the same weights, which passed the same checks
            fast = of(family, "branch", dtype, seed)
            return replace(fast, engine=ReferenceEngine(fast.model.wrapped), cache={})
        return opened(folder(family, seed), engine=engine, dtype=dtype)

    yield of
    of.cache_clear()
    gc.collect()
