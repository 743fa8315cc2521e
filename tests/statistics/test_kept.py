"""Estimates that outlive a process: the same numbers, and damage costs time alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from pytest_mechanism.statistics import estimates, kept
from pytest_mechanism.statistics.estimates import Estimate, Sampling, fraction, mean

HOW = Sampling(list("aabcd"), 0.95, 7)
ROWS = [0.1, 0.7, 1 / 3, 0.75, 0.2]


def both() -> list[Estimate]:
    return [
        mean(ROWS, HOW),
        fraction(ROWS, [0.0] * 5, [1.0, 2.0, 1.0, 1.0, 3.0], HOW, counted=False),
    ]


@pytest.fixture
def resampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bootstraps that were computed; nothing is remembered from other tests."""
    calls, right = [], stats.bootstrap

    def bootstrap(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return right(*arguments, **options)

    monkeypatch.setattr(stats, "bootstrap", bootstrap)
    monkeypatch.setattr(estimates, "remembered", {})
    return calls


def in_a_new_process(path: Path, asked: Callable[[], list[Estimate]] = both) -> list[Estimate]:
    estimates.remembered.clear()
    with kept.keeping(path):
        return asked()


def test_a_later_run_has_the_same_estimates_and_resamples_nothing(
    tmp_path: Path, resampled: list[int]
) -> None:
    """Equal to the last bit."""
    first = in_a_new_process(tmp_path / "store" / "claim.json")
    assert len(resampled) == 2
    assert in_a_new_process(tmp_path / "store" / "claim.json") == first
    assert len(resampled) == 2


def test_other_rows_and_another_revision_are_resampled(
    tmp_path: Path, resampled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is no answer to another question."""
    path = tmp_path / "claim.json"
    first = in_a_new_process(path)
    assert in_a_new_process(path, lambda: [mean([*ROWS[:4], 0.3], HOW)]) != first[:1]
    assert len(resampled) == 3
    in_a_new_process(path)
    monkeypatch.setattr(estimates, "REVISION", 0)
    in_a_new_process(path)
    assert len(resampled) == 7


def test_the_file_holds_what_was_asked_for_last(tmp_path: Path, resampled: list[int]) -> None:
    """A claim that changes leaves nothing behind."""
    path = tmp_path / "claim.json"
    for asked in (both, lambda: [mean(ROWS[::-1], HOW)]):
        in_a_new_process(path, asked)
    assert len(json.loads(path.read_text())["estimates"]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace("0.41", "0.42", 1),
        lambda text: "[" * 100_000,
        lambda _: json.dumps({"format": 1, "sha256": kept.checksum([]), "estimates": []}),  # type: ignore[arg-type]
    ],
    ids=["cut", "another format", "another number", "nested too deep", "a list"],
)
def test_a_damaged_file_is_written_anew(
    tmp_path: Path, resampled: list[int], damage: Callable[[str], str]
) -> None:
    """With the same estimates."""
    path = tmp_path / "claim.json"
    first, text = in_a_new_process(path), path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    assert in_a_new_process(path) == first
    assert (len(resampled), path.read_text()) == (4, text)


def test_what_cannot_be_kept_is_still_an_estimate(tmp_path: Path, resampled: list[int]) -> None:
    """A file where the folder should be: the estimates are there, and nothing is kept."""
    (tmp_path / "store").write_text("")
    first = in_a_new_process(tmp_path / "store" / "claim.json")
    assert in_a_new_process(tmp_path / "store" / "claim.json") == first
    assert len(resampled) == 4
