"""The published selection rule on the published scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pytest_mechanism.methods.circuits.selection import (
    SelectionRule,
    candidates,
    minimal,
    minimality_score,
    ranked,
)

DATA = Path(__file__).parents[1] / "data"

LLAMA = SelectionRule(
    candidates={"value_fetcher": 58, "pos_transmitter": 10, "pos_detector": 25, "struct_reader": 5},
    yields={"value_fetcher": "pos_transmitter"},
)


def test_the_rule_gives_the_published_circuit_of_llama_7b() -> None:
    """72 of 72 heads, in the published order, from published scores and accuracies."""
    with np.load(DATA / "llama_7b_path_patching.npz") as archive:
        scores = {name: archive[name] for name in archive.files}
    accuracies = {
        group: {(e["layer"], e["head"]): (e["without_k"], e["without_k_and_head"]) for e in entries}
        for group, entries in json.loads((DATA / "llama_7b_minimality.json").read_text()).items()
    }
    published = {
        group: [tuple(head) for head in heads]
        for group, heads in json.loads((DATA / "llama_7b_circuit.json").read_text()).items()
    }
    found = {
        group: minimal(heads, accuracies[group], LLAMA.minimality)
        for group, heads in candidates(scores, LLAMA).items()
    }
    assert found == published
    assert sum(map(len, found.values())) == 72


def test_heads_are_ranked_from_the_most_negative() -> None:
    """Ties keep the order of layers and heads."""
    assert ranked([[0.0, -2.0], [-3.0, -2.0]], 3) == [(1, 0), (0, 1), (1, 1)]


def test_asking_for_more_heads_than_there_are_gives_all() -> None:
    """No head is invented."""
    assert len(ranked(np.zeros((2, 2)), 10)) == 4


def test_a_shared_head_stays_with_the_group_that_does_not_yield() -> None:
    """A and B both find head (0, 0); A yields."""
    scores = {"a": [[-2.0, -1.0]], "b": [[-5.0, 0.0]]}
    rule = SelectionRule({"a": 2, "b": 1}, {"a": "b"})
    assert candidates(scores, rule) == {"a": [(0, 1)], "b": [(0, 0)]}


@pytest.mark.parametrize(
    ("with_head", "without", "score"),
    [
        (0.5, 0.25, 1.0),
        (0.3, 0.3, 0.0),
        (0.2, 0.4, -0.5),
        (0.1, 0.0, float("inf")),
        (0.0, 0.0, 0.0),
    ],
)
def test_minimality_is_the_ratio_less_one(with_head: float, without: float, score: float) -> None:
    """And infinite where nothing is left without the head."""
    assert minimality_score(with_head, without) == score
