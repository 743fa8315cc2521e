"""The benchmark of ``compare``: how it deals rows into draws, and what it counts."""

from __future__ import annotations

import numpy as np

from benchmarks.compared import dealt, of_clusters, rates
from pytest_mechanism.claims.other_places import OtherPlaces
from pytest_mechanism.comparison.members import ComparedMember, Comparison, Exchange
from pytest_mechanism.types import Observations


def test_contexts_are_dealt_into_equal_draws() -> None:
    """Each context to one draw, with all its rows; a rest is left out."""
    clusters = ["a", "a", "b", "c", "d", "e"]
    result = Observations([*"uvwxyz"], clusters, {"total": np.arange(6.0)})
    hands = dealt(clusters, 2)
    assert hands == [["a", "b"], ["c", "d"]]
    first = of_clusters(result, hands[0])
    assert (first.example_ids, [*first.values["total"]]) == (["u", "v", "w"], [0.0, 1.0, 2.0])


def member(name: str, change: float, q: float) -> ComparedMember:
    exchange = Exchange("ft", change, (change - 0.01, change + 0.01), q)
    return ComparedMember(name, (), (exchange,), None, q)


def compared(*members: ComparedMember) -> Comparison:
    return Comparison(members, OtherPlaces({}), 0.05, 0.05, {}, "", 30)


def test_a_star_on_an_unchanged_member_is_a_false_discovery() -> None:
    """2.1 changed by all rows, 2.2 did not; of three draws, one reports both, one 2.1 alone, one nothing."""
    whole = compared(member("2.1", 0.5, 0.0), member("2.2", 0.01, 1.0))
    both = compared(member("2.1", 0.5, 0.0), member("2.2", 0.2, 0.0))
    right = compared(member("2.1", 0.5, 0.0), member("2.2", 0.01, 1.0))
    none = compared(member("2.1", 0.02, 1.0), member("2.2", 0.01, 1.0))
    found = rates(whole, [both, right, none], 0.0)
    assert (found.unchanged, found.reported, found.wrong, found.stars) == (1, 2, 1, 3)
    assert (found.sure, found.false_discovery_rate) == (1, round(0.5 / 3, 4))
