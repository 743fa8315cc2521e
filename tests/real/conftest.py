"""A real pretrained chat model, fetched into a cache outside the repository (`recipes.real.fetch`).

Every test of this folder is marked ``real``: ``pytest -m real tests`` runs them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.real import fetch

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder, before pytest selects by marks. Tests marked so take minutes and run first, so
    that no worker waits for them at the end."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)
    items.sort(key=lambda item: item.get_closest_marker("real") is None)


@pytest.fixture(scope="session")
def real_cache() -> Path:
    """The cache with the real model, or a skip that says which command fetches it."""
    if not fetch.is_there():
        pytest.skip(
            f"the real model is not in {fetch.cache()}; '{fetch.COMMAND}' fetches it (a 98 MB "
            f"download), and {fetch.VARIABLE} names another cache"
        )
    return fetch.cache()


@pytest.fixture(scope="session")
def real_gguf(real_cache: Path) -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, Q4_1. Not to be changed."""
    return real_cache / fetch.FILE


@pytest.fixture(scope="session")
def real_folder(real_cache: Path) -> Path:
    """The same model as a checkpoint's folder, float32. Not to be changed."""
    return real_cache / fetch.FOLDER
