"""The published selection rule on the published scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from pytest_mechanism.claims.needed_heads import minimality_score
from pytest_mechanism.discovery.selection import candidates, minimal, ranked, unshared
from pytest_mechanism.fields.groups import DiscoveredGroup, Find, Group, Into
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head

DATA = Path(__file__).parents[1] / "data"


def discovered_group(at: str, into: str | None, via: str, count: int) -> DiscoveredGroup:
    reader = None if into is None else Into(group=into, via=via)
    return DiscoveredGroup(heads="discovered", at=at, into=reader, find=Find(candidates=count))


LLAMA = {
    "struct_reader": discovered_group("previous_query_label", "pos_detector", "v", 5),
    "pos_detector": discovered_group("query_label", "pos_transmitter", "v", 25),
    "pos_transmitter": discovered_group("last", "value_fetcher", "q", 10),
    "value_fetcher": discovered_group("last", None, "q", 58),
}
"""The published groups with the published numbers of candidates, as a spec has them."""


def effects(table: ArrayLike) -> dict[Head, Estimate]:
    """Scores [layers, heads], each without doubt."""
    return {
        (layer, head): Estimate(float(value), (float(value), float(value)), 0.0, 100, 20)
        for (layer, head), value in np.ndenumerate(np.asarray(table))
    }


def test_the_rule_gives_the_published_circuit_of_llama_7b() -> None:
    """72 of 72 heads, in the published order, from published scores and accuracies."""
    with np.load(DATA / "llama_7b_path_patching.npz") as archive:
        scores = {name: effects(archive[name]) for name in archive.files}
    accuracies = {
        group: {(e["layer"], e["head"]): (e["without_k"], e["without_k_and_head"]) for e in entries}
        for group, entries in json.loads((DATA / "llama_7b_minimality.json").read_text()).items()
    }
    published = {
        group: [tuple(head) for head in heads]
        for group, heads in json.loads((DATA / "llama_7b_circuit.json").read_text()).items()
    }
    taken = {name: candidates(scores[name], group.find) for name, group in LLAMA.items()}
    circuit = {
        name: minimal({head: minimality_score(*accuracies[name][head]) for head in heads})
        for name, heads in unshared(taken, LLAMA).items()
    }
    assert circuit == published
    assert sum(map(len, circuit.values())) == 72


def test_heads_are_ranked_from_the_most_negative() -> None:
    """Ties keep the order of layers and heads."""
    assert ranked(effects([[0.0, -2.0], [-3.0, -2.0]]))[:3] == [(1, 0), (0, 1), (1, 1)]


def test_asking_for_more_heads_than_there_are_gives_all() -> None:
    """No head is invented."""
    assert len(candidates(effects(np.zeros((2, 2))), Find(candidates=10))) == 4


def test_a_shared_head_stays_with_the_group_that_is_further_from_the_answer() -> None:
    """A and B both find head (0, 0) at one position, B writes to A; A yields."""
    groups = {
        "a": discovered_group("last", None, "q", 2),
        "b": discovered_group("last", "a", "q", 1),
    }
    heads = {"a": [(0, 0), (0, 1)], "b": [(0, 0)]}
    assert unshared(heads, groups) == {"a": [(0, 1)], "b": [(0, 0)]}


def test_a_group_whose_heads_the_spec_names_keeps_them_all() -> None:
    """The rule chooses among candidates, and these were chosen by the author."""
    groups = {"a": Group(heads={0: [0, 1]}, at="last"), "b": discovered_group("last", "a", "q", 1)}
    heads = {"a": [(0, 0), (0, 1)], "b": [(0, 0)]}
    assert unshared(heads, groups) == heads


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
