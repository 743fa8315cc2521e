"""The parts of discovery that need no model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.discovery.claims import DraftClaim
from pytest_mechanism.discovery.discover import (
    Discovery,
    compare,
    connected,
    not_needed_reason,
    with_mlps_alive,
)
from pytest_mechanism.discovery.selection import candidates, chain, receivers_of, unshared
from pytest_mechanism.discovery.senders import members_before, senders
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.discovery.write import spec_text
from pytest_mechanism.fields.groups import DiscoveredGroup, Find, Group, Into
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.statistics.multiple import holm
from pytest_mechanism.types import Verdict

SHAPE = Shape(n_layers=3, n_heads=2, n_kv_heads=2, d_model=8, d_head=4, d_vocab=10)


def discovered_group(at: str, into: str | None = None, **find: float) -> DiscoveredGroup:
    reader = Into(group=into, via="q") if into else None
    return DiscoveredGroup(heads="discovered", at=at, into=reader, find=Find(**find))


def effect(value: float, width: float = 0.05) -> Estimate:
    return Estimate(value, (value - width, value + width), width / 2, 100, 20)


EFFECTS = {
    (0, 0): effect(-0.5),
    (0, 1): effect(-0.3, 0.4),
    (1, 0): effect(-0.08),
    (1, 1): effect(0.6),
}


def test_a_chain_goes_from_the_answer_back_to_the_input() -> None:
    """Whatever the order in the file, a group comes after the one it talks into."""
    groups = {
        "c": discovered_group("x", "b"),
        "a": discovered_group("x"),
        "b": discovered_group("x", "a"),
    }
    assert chain(groups) == ["a", "b", "c"]


def test_senders_are_the_heads_below_the_highest_receiver() -> None:
    """A head cannot talk to its own layer; all heads can talk to the logits."""
    assert senders(SHAPE, [(1, 0)]) == [(0, 0), (0, 1)]
    assert senders(SHAPE, [(0, 0)]) == []
    assert senders(SHAPE, None) == SHAPE.heads()


def test_candidates_by_count_are_the_most_negative() -> None:
    """The published rule: the spec's number of heads, strongest first; fewer of them are passed on."""
    find = Find(candidates=3, receivers=2)
    taken = candidates(EFFECTS, find)
    assert taken == [(0, 0), (0, 1), (1, 0)]
    assert receivers_of(taken, find) == [(0, 0), (0, 1)]


def test_candidates_by_effect_are_large_and_sure() -> None:
    """(0, 1) is large and not sure, (1, 0) sure and not large, (1, 1) helps: only (0, 0) is left."""
    find = Find(drops_at_least=0.1)
    taken = candidates(EFFECTS, find)
    assert taken == receivers_of(taken, find) == [(0, 0)]


def test_nothing_to_choose_from_chooses_nothing() -> None:
    """A group below the first layer has no senders."""
    assert candidates({}, Find()) == []


def test_of_two_groups_at_one_position_the_nearer_to_the_answer_yields() -> None:
    """Heads of the value fetcher that are also position transmitters leave the value fetcher."""
    groups = {
        "a": discovered_group("last"),
        "b": discovered_group("last", "a"),
        "c": discovered_group("query", "b"),
    }
    heads = {"a": [(2, 0), (1, 1)], "b": [(1, 1)], "c": [(1, 1)]}
    assert unshared(heads, groups) == {"a": [(2, 0)], "b": [(1, 1)], "c": [(1, 1)]}


def test_precision_recall_and_jaccard_of_a_discovered_group() -> None:
    """Two heads were discovered, one of the three right heads among them."""
    discovered = {"a": Group(heads={0: [0, 1], 1: [0]}, at="x")}
    published = {"a": Group(heads={0: [0], 2: [1]}, at="x")}
    assert compare(discovered, published) == {"a": (0.5, pytest.approx(1 / 3), 0.25)}


def test_holm_multiplies_the_smallest_by_the_number_of_tests() -> None:
    """And never lets a larger p become the smaller one."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_heads_that_minimality_takes_away_altogether_are_named() -> None:
    """Three heads that replace each other are not needed one by one; the message gives their names in YAML."""
    reason = not_needed_reason(
        ["movers"],
        {"movers": [(3, 2), (3, 1), (2, 0)], "readers": [(0, 0)]},
        {"movers": "last"},
    )
    assert "no head of group movers is needed" in reason
    assert reason.endswith("movers: {heads: {2: [0], 3: [1, 2]}}")


def test_members_of_other_kinds_come_before_their_readers() -> None:
    """An MLP cannot reach its own layer's heads or MLP; the attention of a layer can reach its MLP."""
    kinds = ("heads", "mlps", "attention_outputs")
    one_head = replace(SHAPE, n_heads=1)
    assert members_before(one_head, [(1, 0)], kinds) == [(0, 0), (0, "attention"), (0, "mlp")]
    assert members_before(one_head, [(1, "mlp")], kinds) == [
        (0, 0), (0, "attention"), (0, "mlp"), (1, 0), (1, "attention")
    ]  # fmt: skip
    assert members_before(one_head, None, ("mlps",)) == [(0, "mlp"), (1, "mlp"), (2, "mlp")]


def test_all_kinds_of_members_compete_by_the_same_effect() -> None:
    """By rank and by threshold; a whole attention output yields to a head of its layer, and makes room for the
    next member."""
    effects = {
        (1, "attention"): effect(-1.0),
        (2, "mlp"): effect(-0.9),
        (1, 1): effect(-0.8),
        (2, "attention"): effect(-0.5),
        (2, 0): effect(-0.1),
        (0, "mlp"): effect(-0.05),
    }
    by_effect = [(2, "mlp"), (1, 1), (2, "attention")]
    assert candidates(effects, Find(drops_at_least=0.2)) == by_effect
    assert candidates(effects, Find(candidates=1)) == [(1, "attention")]
    assert candidates(effects, Find(candidates=3)) == by_effect
    assert candidates(effects, Find(candidates=9)) == [(2, "mlp"), (1, 1), (2, 0), (0, "mlp")]


def test_an_attention_output_yields_to_a_group_further_from_the_answer_that_has_its_head() -> None:
    """The published rule for a head that is a candidate of two groups."""
    groups = {"a": discovered_group("last"), "b": discovered_group("last", "a")}
    members = {"a": [(1, "attention"), (2, "mlp")], "b": [(1, 0), (2, "mlp")]}
    assert unshared(members, groups) == {"a": [], "b": [(1, 0), (2, "mlp")]}


def test_a_group_whose_reader_found_no_member_with_its_input_is_left_out() -> None:
    """The reader found heads, and the group is read through the input of MLPs."""
    into = Into(group="a", via="input")
    find = Find(members=["heads", "mlps"])
    groups = {
        "a": DiscoveredGroup(heads="discovered", at="last", find=find),
        "b": DiscoveredGroup(heads="discovered", at="last", into=into, find=find),
    }
    kept, unread = connected(groups, {"a": [(1, 0)], "b": [(0, 1)]})
    assert kept == {"a": [(1, 0)]}
    assert unread == {"b": "group b is left out, since no MLPs were found for its readers, a"}


def test_a_circuit_without_mlps_keeps_them_all_alive() -> None:
    """Where a search that may find MLPs found none, none is ablated and none can join; named groups stay."""
    named = Group(heads={0: [0]}, at="last")
    find = Find(members=["heads", "mlps"], drops_at_least=0.3)
    offered = {"a": DiscoveredGroup(heads="discovered", at="last", find=find), "b": named}
    settled = with_mlps_alive(offered)
    assert settled["a"].searched == ("heads",)
    assert settled["a"].find == Find(drops_at_least=0.3)
    assert settled["b"] == named


def test_a_claim_that_does_not_hold_is_written_as_a_comment(tmp_path: Path) -> None:
    """The comment gives its score; the spec contains the other claims and is valid."""
    spec = load(ZOO.parents[1] / "circuits" / "entity_tracking.yaml")
    movers = {"movers": Group(heads={1: [0]}, at="last")}
    discovery = Discovery(movers, (Stage("movers", "last", None, None, {}, {}, (), ()),), None)
    at_least = {"kind": "accuracy", "at_least": 0.5}
    path = {"kind": "path", "group": "movers", "drops_at_least": 0.1}
    claims = [
        DraftClaim("solves_task", at_least, {"base": Verdict("pass", "it does", "at least 0.5")}),
        DraftClaim(
            "movers_is_heard", path, {"base": Verdict("inconclusive", "no control", "drops")}
        ),
    ]
    (tmp_path / "found.yaml").write_text(spec_text(spec, discovery, claims, "m", "1234", "base"))
    written = load(tmp_path / "found.yaml")
    assert list(written.claims) == ["solves_task"]
    assert (
        "  # movers_is_heard: {kind: path, on: base, group: movers, drops_at_least: 0.1}\n"
        "  #   does not hold on held-out rows: inconclusive, no control\n"
    ) in (tmp_path / "found.yaml").read_text()
