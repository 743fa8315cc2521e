"""The real model in the cache is the one that this project names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from recipes.real import fetch


def test_the_file_is_the_pinned_one(real_gguf: Path) -> None:
    """Byte by byte."""
    with real_gguf.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == fetch.SHA256


def test_a_second_call_does_nothing(real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither downloads nor converts."""
    files = [fetch.gguf_file(), *fetch.folder().iterdir()]
    before = [path.stat().st_mtime_ns for path in files]
    monkeypatch.setattr(fetch, "download", pytest.fail)
    monkeypatch.setattr(fetch, "convert", pytest.fail)
    assert fetch.fetch() == real_cache
    assert [path.stat().st_mtime_ns for path in files] == before
