"""``overlap``: the heads of two models' circuits, compared over several searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from evaluators import open_evaluator

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext, FoundCircuit
from pytest_mechanism.claims.heads_in_common import counts, members_of
from pytest_mechanism.claims.overlap import Overlap
from pytest_mechanism.claims.overlap_by_chance import by_chance, possible_members
from pytest_mechanism.cli import main
from pytest_mechanism.discovery import repeated
from pytest_mechanism.discovery.discover import Effort
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import AnyGroup, DiscoveredGroup, Group, Into
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.types import Observations, Setting, Verdict

Heads = Mapping[str, dict[int, list[int]]]
TASK = EntityTracking(EntityTrackingParameters(family="entity_tracking", rows=70))
READERS, SENDERS = {3: [0, 1, 2]}, {1: [4], 2: [5]}


def group(heads: dict[int, list[int]], name: str) -> Group:
    into = None if name == "readers" else Into(group="readers", via="q")
    return Group(heads=heads, at="last", into=into)


def circuit(heads: Heads) -> dict[str, Group]:
    return {name: group(of, name) for name, of in heads.items() if of}


def judged(
    found: Callable[[str, int], Heads],
    named: Heads | None = None,
    right: float = 1.0,
    reason: str | None = None,
    **fields: object,
) -> Verdict:
    """The verdict where searches find these heads, on models that are right in a share of rows."""
    groups: dict[str, AnyGroup] = {}
    for name in ("readers", "senders"):
        into = None if name == "readers" else Into(group="readers", via="q")
        groups[name] = DiscoveredGroup(heads="discovered", at="last", into=into)
    groups |= circuit(named or {})
    context = ClaimContext(
        "pair",
        groups,
        Ablation(),
        TASK,
        0.95,
        dict.fromkeys(("base", "ft"), Shape(6, 8, 8, 64, 16, 300)),
        Setting(0, "float32", "cpu", "reference"),
        lambda on, number: FoundCircuit(circuit(found(on, number)), reason),
    )

    def measure(_: Measurement) -> Observations:
        rows = [f"row-{i}" for i in range(70)]
        return Observations(rows, rows, {"correct": (np.arange(70) < 70 * right).astype(float)})

    claim = Overlap.model_validate({"kind": "overlap", "jaccard_at_least": 0.5, **fields})
    return claim.judge(context, measure)  # type: ignore[arg-type]


def values(verdict: Verdict) -> dict[str, float]:
    return {score.name: round(score.value, 4) for score in verdict.scores}


def test_indices_are_counted_over_all_groups_and_in_each() -> None:
    """base has 5 heads, ft 6: 4 of them are the same, and a head of another group is another head."""
    both = {
        "base": {"readers": READERS, "senders": SENDERS},
        "ft": {"readers": {3: [0, 1, 7]}, "senders": {1: [4], 2: [5], 0: [0]}},
    }
    found = values(judged(lambda on, _: both[on]))
    of = "of the circuits of base and ft"
    assert found == {
        f"jaccard {of}": round(4 / 7, 4),
        f"precision {of}": round(4 / 6, 4),
        f"recall {of}": round(4 / 5, 4),
        "jaccard of two searches on base": 1.0,
        "jaccard of two searches on ft": 1.0,
        f"jaccard {of}, readers": 0.5,
        f"precision {of}, readers": round(2 / 3, 4),
        f"recall {of}, readers": round(2 / 3, 4),
        f"jaccard {of}, senders": round(2 / 3, 4),
        f"precision {of}, senders": round(2 / 3, 4),
        f"recall {of}, senders": 1.0,
    }


def test_one_circuit_in_both_models_passes_and_random_circuits_do_not_reach_it() -> None:
    """The floor is the overlap that 95 random circuits in 100 do not exceed."""
    verdict = judged(lambda *_: {"readers": READERS, "senders": SENDERS})
    assert (verdict.status, verdict.score.control.value < 0.3) == ("pass", True)  # type: ignore[union-attr]


def test_mlps_are_compared_and_drawn_as_heads_are() -> None:
    """Two of four members are shared. By chance, an MLP of six is often the same, a head of 48 seldom."""
    named = Group(heads={3: [0]}, mlps={2: "last"}, at="last")
    other = Group(heads={4: [1]}, mlps={2: "last"}, at="last")
    circuits = {"base": members_of({"g": named}, ["g"]), "ft": members_of({"g": other}, ["g"])}
    assert counts("jaccard", circuits["base"], circuits["ft"]) == (1, 3)
    shape = Shape(6, 8, 8, 64, 16, 300)
    groups: dict[str, AnyGroup] = {"g": named}
    about = ClaimContext(
        "pair", groups, Ablation(), TASK, 0.95, {"ft": shape},
        Setting(0, "float32", "cpu", "reference"),
    )  # fmt: skip
    possible = {
        kind: possible_members(about, "ft", circuits["ft"], "g", kind, circuits["ft"]["g"])
        for kind in ("heads", "mlps")
    }
    assert possible["mlps"] == {(layer, "mlp", "last") for layer in range(6)}
    assert possible["heads"] == {*shape.heads()}
    floor = by_chance(about, "ft", [circuits["base"]] * 3, [circuits["ft"]] * 3)
    # three searches share an MLP with probability 1/6 each: two or more in 7 %, three in 0.5 %
    assert floor["recall"].value == pytest.approx(2 / 6)


def test_a_search_that_does_not_offer_what_a_group_names_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It could never find these members, so the overlap would mean nothing."""
    (tmp_path / "x.yaml").write_text(
        "mechanism: 1\ncircuit: x\ntask: {family: entity_tracking, boxes: 7}\n"
        "groups: {g: {mlps: {2: last}, at: last, find: {}}}\n"
        "claims: {same: {kind: overlap, jaccard_at_least: 0.5}}\n"
    )
    assert main(["lint", str(tmp_path / "x.yaml")]) == 2
    assert (
        "group g names mlps, and its find offers heads alone (write find: {members: [heads, mlps]}), so a search "
        "on ft cannot find these"
    ) in capsys.readouterr().err


def test_other_heads_refute_the_claim() -> None:
    """Searches on one model agree, those on two models do not."""
    other = {"readers": {5: [5, 6, 7]}, "senders": {4: [1, 2]}}
    same = {"readers": READERS, "senders": SENDERS}
    verdict = judged(lambda on, _: same if on == "base" else other)
    assert (verdict.status, verdict.cause) == ("fail", "refuted")


def test_searches_that_do_not_agree_with_each_other_refute_nothing() -> None:
    """Each finds other heads, on one model too: the models' circuits need not differ."""
    verdict = judged(lambda on, i: {"readers": {n: [i + 4 * (on == "ft")] for n in (3, 4, 5)}})
    assert (verdict.status, verdict.cause) == ("inconclusive", "undecided")
    assert "two searches on one model do not overlap more" in verdict.reason


def test_heads_that_the_spec_names_are_not_searched_on_their_model() -> None:
    """Only ``to`` is searched, for the number of times that the claim says."""
    asked: list[tuple[str, int]] = []

    def found(on: str, number: int) -> Heads:
        asked.append((on, number))
        return {"readers": READERS, "senders": SENDERS}

    verdict = judged(found, {"readers": READERS, "senders": {1: [4]}}, searches=3)
    assert asked == [("ft", 0), ("ft", 1), ("ft", 2)]
    assert (verdict.scores[0].value, verdict.scores[0].clusters) == (4 / 5, 3)


def test_a_group_that_was_not_found_counts_as_missing_and_is_named() -> None:
    """Recall falls, and the reason of the search stands in the verdict."""
    same = {"readers": READERS, "senders": SENDERS}
    verdict = judged(
        lambda on, i: {} if on == "ft" and i else same, reason="no heads found for group senders"
    )
    assert values(verdict)["recall of the circuits of base and ft"] == 0.25
    nothing = judged(lambda on, _: {} if on == "ft" else same, reason="no heads found")
    assert (nothing.status, nothing.reason) == (
        "inconclusive",
        "no search on ft found a head; search 0 on base: no heads found",
    )


def test_an_unsettled_verdict_asks_for_searches_and_not_for_rows() -> None:
    """Rows of the task would decide nothing."""
    both = {
        "base": {"readers": READERS, "senders": SENDERS},
        "ft": {"readers": {3: [0, 1, 7]}, "senders": {1: [4], 2: [5]}},
    }
    verdict = judged(lambda on, _: both[on], searches=2)
    assert verdict.cause == "unsettled"
    assert "searches would decide (now 2)" in verdict.reason
    assert "rows" not in verdict.reason


def test_models_at_chance_have_no_circuit() -> None:
    """Nothing is searched."""

    def no_search(*_: object) -> Heads:
        raise AssertionError

    verdict = judged(no_search, right=0.1)
    assert (verdict.status, verdict.cause) == ("inconclusive", "reference_fails")


# -- specs and runs

SPEC = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 2, rows: 60, seed: 5}
groups:
  value_fetcher:   {heads: discovered, at: last}
  pos_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
claims:
  same_heads: {kind: overlap, jaccard_at_least: 0.5, searches: 2}
"""
NAMED = SPEC.replace("{heads: discovered, at: last, into", "{heads: {2: [6]}, at: last, into")


def test_a_spec_that_says_not_how_to_search_is_an_error_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``find:`` beside the named heads, it is valid."""
    path = tmp_path / "s.yaml"
    path.write_text(NAMED)
    assert main(["lint", str(path)]) == 2
    output = "".join(capsys.readouterr())
    assert f"{path}:8: claim same_heads: kind overlap searches the circuit of ft" in output
    assert "group pos_transmitter does not say how: write find: {}" in output
    path.write_text(NAMED.replace("at: last, into", "find: {}, at: last, into"))
    assert [*load(path).claims] == ["same_heads"]


def test_rows_from_a_file_are_no_fresh_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Searches on the same prompts would agree too well."""
    lines = [f'{{"prompt": "a{i} b", "answer": "c"}}' for i in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    path = tmp_path / "s.yaml"
    task = "{family: jsonl, file: rows.jsonl, rows: 40, seed: 0}"
    path.write_text(SPEC.replace("{family: entity_tracking, boxes: 2, rows: 60, seed: 5}", task))
    assert main(["lint", str(path)]) == 2
    assert "the rows of task jsonl come from a file" in "".join(capsys.readouterr())


def test_each_search_has_rows_of_its_own_and_each_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first on the spec's seed; two claims share their searches."""
    more = "  again: {kind: overlap, recall_at_least: 0.1, searches: 3}\n"
    (tmp_path / "s.yaml").write_text(SPEC + more)
    spec = load(tmp_path / "s.yaml")
    gate = open_evaluator("--model-pair", "base=zoo:planted_base,ft=zoo:planted_ft")
    seeds: list[tuple[str, int]] = []

    def find(context: ClaimContext, on: str, *_: object) -> FoundCircuit:
        seeds.append((on, context.task.settings.seed))
        return FoundCircuit({"value_fetcher": Group(heads={3: [1]}, at="last")})

    monkeypatch.setattr(repeated, "discover", find)
    monkeypatch.setattr(
        type(gate.runner),
        "measure",
        lambda *_: Observations(
            [*map(str, range(70))], [*map(str, range(70))], {"correct": [1.0] * 70}
        ),
    )
    for claim in spec.claims.values():
        gate.judge(spec, claim, "pair")
    fresh = [5, 5 + repeated.SEED_STEP, 5 + 2 * repeated.SEED_STEP]
    assert seeds == [
        *(("base", seed) for seed in fresh[:2]),
        *(("ft", seed) for seed in fresh[:2]),
        ("base", fresh[2]),
        ("ft", fresh[2]),
    ]


@pytest.mark.slow
def test_on_planted_models_the_planted_heads_are_found_in_both_and_not_in_a_random_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known answer: both models have heads 3.1, 3.4 and 2.6. Null: a model at chance has no circuit."""
    few = Effort(rank_rows=70, select_rows=42, threshold_rows=105)
    monkeypatch.setattr(repeated, "Effort", lambda: few)
    (tmp_path / "s.yaml").write_text(SPEC)
    spec = load(tmp_path / "s.yaml")
    claim = spec.claims["same_heads"]
    gate = open_evaluator("--model-pair", "base=zoo:planted_base,ft=zoo:planted_ft")
    verdict = gate.judge(spec, claim, "pair")
    gate.runner.checkpoint.release()
    assert verdict.status == "pass"
    assert {score.value for score in verdict.scores} == {1.0}
    assert verdict.scores[0].n == 6
