"""``same_profile`` on effects that are known: which verdict, and which members its reason names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_mechanism.claims.moved_work import sentences
from pytest_mechanism.claims.other_places import other_places
from pytest_mechanism.claims.patched_alone import ALL_UP_TO
from pytest_mechanism.claims.profile_stages import Stage, stages
from pytest_mechanism.claims.profiles import StageProfile, known_measurements
from pytest_mechanism.claims.same_profile import SameProfile
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.matching import LayerMatch, MatchResult
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.plugin.score_entry import score_entry
from pytest_mechanism.statistics import drift
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.types import Observations, Verdict
from recipes.simulation.setting import RESULTS, SHAPE, context_of
from recipes.simulation.world import measured

N = 140
NOISE = np.random.default_rng(0).normal(0, 1, N)
BEFORE = {"2.0 logits": 0.5, "3.1 logits": 0.3, "1.1 v": 0.4}
NO_MATCH = {"row": np.zeros(7), "layers": ()}


def judge(now: Mapping[str, float], matches: Any = None, **fields: Any) -> Verdict:
    """The verdict on a base with `BEFORE` and an ft with the shares ``now``, by member and readers."""

    def effects(request: Any, on: str) -> Mapping[str, Any]:
        total = -8 + NOISE
        of = BEFORE if on == "base" else now
        return {"total": total} | {
            name: total * of.get(f"{name} {request.via or 'logits'}", 0.0) + 0.01 * NOISE[::-1]
            for name in request.senders
        }

    answers = {
        "Performance": {"correct": (NOISE < 1).astype(float)},
        "EffectProfile": effects,
        "HeadMatching": matches or NO_MATCH,
    }
    claim = SameProfile.model_validate({"kind": "same_profile", **fields})
    context = replace(context_of(N), role="pair")
    return require_safeguards(claim.judge(context, measured(answers, RESULTS)), claim.kind)


def test_the_same_profile_passes() -> None:
    """And keeps the change of every member: 20 into the logits, 10 into v of head 2.0."""
    verdict = judge(BEFORE)
    assert (verdict.status, len(verdict.members)) == ("pass", 30)


def test_who_fell_silent_and_who_took_over_are_named() -> None:
    """With the group, the readers, both shares and the interval; the loss before the gain."""
    verdict = judge({**BEFORE, "2.0 logits": 0.0, "2.3 logits": 0.5})
    assert (verdict.status, verdict.cause) == ("fail", "refuted")
    lost, gained = verdict.reason.split(": ", 1)[1].split("; ")
    assert lost.startswith(
        "head 2.0 of a fell silent towards the logits: 0.50 -> 0.00 of the whole prompt's effect on "
        "the answer (change -0.50 ["
    )
    assert gained.startswith("head 2.3 (in no group) took over towards the logits: ")


def test_a_member_whose_reader_fell_silent_comes_last_and_says_so() -> None:
    """Head 1.1 writes what it wrote; head 2.0 no longer reads it."""
    verdict = judge({"3.1 logits": 0.3})
    first, second = verdict.reason.split(": ", 1)[1].split("; head ")
    assert first.startswith("head 2.0 of a fell silent")
    assert second.startswith("1.1 of b fell silent towards v of a")
    assert second.endswith("its readers fell silent: head 2.0)")


def test_a_change_within_the_margin_passes_and_one_on_it_does_not() -> None:
    """The whole interval must be within."""
    within, on = (judge({**BEFORE, "2.0 logits": 0.5 + x}) for x in (0.05, 0.1))
    assert (within.status, on.status) == ("pass", "inconclusive")


def test_a_head_outside_may_do_no_more_than_is_allowed() -> None:
    """Even where both models agree: head 3.1 is in no group and does .3."""
    allowed, too_much = (judge(BEFORE, outside_at_most=x) for x in (0.4, 0.2))
    assert (allowed.status, too_much.status) == ("pass", "fail")
    assert too_much.reason.startswith("head 3.1 (in no group) towards the logits: 0.")


def test_a_member_outside_counts_by_what_it_may_do() -> None:
    """A noisy .08 of head 3.2 may be more than .1; the sure .09 of head 3.1 is not."""
    noisy = Observations(
        [str(i) for i in range(N)],
        range(N),
        {"total": np.full(N, -8.0), "3.1": np.full(N, -0.72), "3.2": -0.64 + 4 * NOISE},
    )
    at = Stage("last", (), None, "the logits", ((3, 1), (3, 2)), (), {})
    profile = StageProfile(at, {"3.1": ((3, 1),), "3.2": ((3, 2),)}, noisy, noisy)
    claim = SameProfile.model_validate({"kind": "same_profile", "outside_at_most": 0.1})
    (verdict,) = claim.outside(replace(context_of(N), role="pair"), [profile], 0.1)
    assert verdict.status == "inconclusive"
    assert verdict.reason.startswith("head 3.2 (in no group)")


def test_a_group_with_a_member_elsewhere_is_refused() -> None:
    """Nothing would be measured at its place."""
    group = Group.model_validate({"heads": {2: [0]}, "mlps": {1: "object"}, "at": "last"})
    problem = SameProfile(kind="same_profile").members_problem(group)
    assert problem is not None
    assert "names the MLP of layer 1 at object, and a profile is measured at" in problem


def test_bands_of_heads_are_not_accepted_as_members(spec: Any) -> None:
    """A later run may leave other heads in them."""
    verdict = judge(BEFORE)
    band = replace(verdict.members[0], member="other heads of layers 0 to 1")
    verdict = replace(verdict, members=(*verdict.members, band))
    claim = SameProfile(kind="same_profile")
    made = score_entry(spec, claim, verdict)
    assert made is not None
    assert len(made["members"]) == len(verdict.members) - 1


def match(layer: int, order: list[int], codes: float = 1.0) -> LayerMatch:
    """Head i of base is head order[i] of ft."""
    writes = np.full((4, 4), 0.05)
    for head, other in enumerate(order):
        writes[head, other] = 0.98
    return LayerMatch(layer, tuple(map(tuple, writes.tolist())), (codes,) * 4)


def result_of(*layers: LayerMatch) -> MatchResult:
    return MatchResult((), (), {}, layers=layers)


def test_a_layer_in_another_order_is_recognised() -> None:
    """By the best assignment of heads; heads that stayed are not named."""
    found = other_places(result_of(match(2, [2, 1, 0, 3]), match(3, [0, 1, 2, 3])))
    assert found.moved == {(2, 0): (2, 2), (2, 2): (2, 0)}
    assert found.sentences("base") == [
        "layer 2's heads are those of base in another order: 0 -> 2, 2 -> 0"
    ]


def test_a_head_in_another_basis_is_recognised() -> None:
    """It writes the same, and reads z of the other model as something else."""
    found = other_places(result_of(match(1, [0, 1, 2, 3], codes=0.1)))
    assert (found.moved, found.turned) == ({}, ((1, 0), (1, 1), (1, 2), (1, 3)))


def test_work_that_moved_to_another_head_is_no_other_order() -> None:
    """The silent head matches none, so the layer is not the base's in another order."""
    layer = match(2, [0, 1, 3, 2])
    writes = [list(row) for row in layer.writes]
    writes[3] = [0.0] * 4  # nobody writes what head 3 wrote
    moved = replace(layer, writes=tuple(map(tuple, writes)))
    assert other_places(result_of(moved)).moved == {}


def test_permuted_heads_are_compared_in_their_order() -> None:
    """A benign permutation is green, and said."""
    now = {"2.3 logits": 0.5, "3.1 logits": 0.3, "1.1 v": 0.4}
    assert judge(now).status == "fail"
    moved = {"row": np.zeros(7), "layers": (match(2, [3, 1, 2, 0]),)}

    def effects(request: Any, on: str) -> Mapping[str, Any]:
        total = -8 + NOISE
        of = BEFORE if on == "base" else now
        columns = {"total": total}
        for name, ((layer, part),) in request.senders.items():
            reads = request.via is None or (2, 0 if on == "base" else 3) in request.receivers
            share = of.get(f"{layer}.{part} {request.via or 'logits'}", 0.0) * reads
            columns[name] = total * share + 0.01 * NOISE[::-1]
        return columns

    answers = {
        "Performance": {"correct": (NOISE < 1).astype(float)},
        "EffectProfile": effects,
        "HeadMatching": moved,
    }
    claim = SameProfile.model_validate({"kind": "same_profile"})
    verdict = claim.judge(replace(context_of(N), role="pair"), measured(answers, RESULTS))
    assert verdict.status == "pass"
    assert verdict.reason.startswith(
        "layer 2's heads are those of base in another order: 0 -> 3, 3 -> 0; in this order, largest of 30"
    )


def entry(verdict: Verdict, spec: Any, fingerprint: str) -> dict[str, Any]:
    made = score_entry(spec, SameProfile.model_validate({"kind": "same_profile"}), verdict)
    assert made is not None
    return made | {"fingerprints": {"ft": fingerprint}}


@pytest.fixture
def spec(tmp_path: Any) -> Any:
    from pytest_mechanism.spec.load import load

    path = tmp_path / "spec.yaml"
    path.write_text(
        "mechanism: 1\ncircuit: c\ntask: {family: entity_tracking, rows: 140}\n"
        "groups: {a: {heads: {2: [0]}, at: last}}\nclaims: {same: {kind: same_profile}}\n"
    )
    return load(path)


def test_a_new_checkpoint_that_leaves_the_accepted_profile_is_worse(spec: Any) -> None:
    """A loss of .08 is within the margin of .1 and beyond the drift of .05 from what was accepted; its member
    is named. The same profile from another checkpoint is not worse."""
    accepted = entry(judge(BEFORE), spec, "old")
    tolerance = drift.Tolerance(1e-3, 0.05)
    moved = entry(judge({**BEFORE, "2.0 logits": 0.42}), spec, "new")
    found = drift.compare(moved, accepted, tolerance)
    assert found.state == "worse"
    assert "1 of 30 heads and MLPs differs from the accepted profile" in found.finding
    assert "2.0 at last -> the logits -0.08 (now -0.08, accepted +0.00)" in found.finding
    assert not drift.compare(entry(judge(BEFORE), spec, "new"), accepted, tolerance).red


def test_no_shares_where_the_source_prompts_change_nothing() -> None:
    """Inconclusive, and not a division by zero."""

    def effects(request: Any, _: str) -> Mapping[str, Any]:
        return {name: np.zeros(N) for name in ("total", *request.senders)}

    answers: Mapping[str, Any] = {
        "Performance": {"correct": (NOISE < 1).astype(float)},
        "EffectProfile": effects,
    }
    claim = SameProfile.model_validate({"kind": "same_profile"})
    verdict = claim.judge(replace(context_of(N), role="pair"), measured(answers, RESULTS))
    assert verdict.status == "inconclusive"
    assert verdict.reason.startswith("the source prompts do not change the answer's logit")


def test_gradients_choose_among_many_heads() -> None:
    """With more heads than are patched one by one, they are what is known of a stage in advance."""
    wide = replace(SHAPE, n_heads=ALL_UP_TO)
    context = replace(context_of(N), shapes={"base": wide, "ft": wide})
    planned = known_measurements(context, "base", stages(context, "base"))
    assert [type(m.request) for m in planned] == [AttributionPatching] * 2


def test_of_many_heads_the_strongest_and_the_named_are_patched_alone() -> None:
    """The others together in bands, so that no head is left out: a head that the gradient misses shows there."""
    wide = replace(SHAPE, n_heads=ALL_UP_TO)
    asked: list[Any] = []

    def effects(request: Any, _: str) -> Mapping[str, Any]:
        asked.append(request)
        return dict.fromkeys(("total", *request.senders), -8 + NOISE)

    def gradients(request: Any, _: str) -> Mapping[str, Any]:
        columns = {f"{layer}.{head}": np.zeros(N) for layer, head in request.heads}
        columns["3.9"] = -np.ones(N)
        return columns | {f"slope {name}": values for name, values in columns.items()}

    answers: Mapping[str, Callable[..., Any] | Any] = {
        "Performance": {"correct": (NOISE < 1).astype(float)},
        "EffectProfile": effects,
        "AttributionPatching": gradients,
    }
    context = replace(context_of(N), role="pair", shapes={"base": wide, "ft": wide})
    claim = SameProfile.model_validate({"kind": "same_profile"})
    claim.judge(context, measured(answers, RESULTS))
    senders = asked[0].senders
    assert {"3.9", "2.0", "0.mlp", "3.mlp"} <= {*senders}
    assert (
        sorted(node for nodes in senders.values() for node in nodes if node[1] != "mlp")
        == wide.heads()
    )


def test_who_took_over_is_named_although_it_gained_less_than_the_margin() -> None:
    """A loss of .3 went to four heads; the one that got most is named, apart from those beyond the margin, and none
    that got nothing."""
    shared = {"2.1 logits": 0.09, "2.2 logits": 0.07, "2.3 logits": 0.07, "0.0 logits": 0.07}
    verdict = judge({**BEFORE, "2.0 logits": 0.2} | shared)
    lost, gained = verdict.reason.split(": ", 1)[1].split("; ")
    assert lost.startswith("head 2.0 of a does less towards the logits: 0.50 -> 0.20")
    assert gained.startswith(
        "some of the work of head 2.0 moved to head 2.1 (in no group), not surely more than the margin: 0.00 -> 0.09"
    )


def test_the_list_has_as_many_members_as_it_counts() -> None:
    """Four changed beyond the margin, and all four are listed; a sure gain of .004 is no work that moved."""
    now = {"2.3 logits": 0.3, "2.1 logits": 0.004, "0.mlp logits": 0.3}
    verdict = judge(now)
    counted, listed = verdict.reason.split(": ", 1)
    assert counted.startswith("5 of 30 heads and MLPs")
    named = listed.split("; ")
    assert [text for text in named if " 0.00 -> 0.00 " in text] == []
    assert "1 more head or MLP changed" in named
    assert len([text for text in named if " towards " in text]) == 4


def test_the_score_that_is_not_the_first_in_the_list_is_told_apart() -> None:
    """The judged change is that whose interval reaches farthest, of a noisy member that is not surely changed."""

    def effects(request: Any, on: str) -> Mapping[str, Any]:
        total = -8 + NOISE
        of = BEFORE if on == "base" else {**BEFORE, "2.0 logits": 0.3}
        columns = {
            name: total * of.get(f"{name} {request.via or 'logits'}", 0.0)
            for name in request.senders
        }
        if on == "ft" and request.via == "v" and "1.2" in columns:
            columns["1.2"] = columns["1.2"] - 1.0 + 12 * NOISE[::-1]
        return {"total": total} | columns

    answers = {
        "Performance": {"correct": (NOISE < 1).astype(float)},
        "EffectProfile": effects,
        "HeadMatching": NO_MATCH,
    }
    claim = SameProfile.model_validate({"kind": "same_profile"})
    verdict = claim.judge(replace(context_of(N), role="pair"), measured(answers, RESULTS))
    assert verdict.status == "fail"
    assert verdict.reason.startswith(
        "1 of 30 heads and MLPs changed by more than the margin (corrected for 30 comparisons): head 2.0 of a"
    )
    assert verdict.reason.endswith(
        "; the score is the change of head 1.2 towards v of a, whose interval reaches farthest, itself not surely "
        "beyond the margin"
    )
    assert "score" not in judge({**BEFORE, "2.0 logits": 0.0}).reason


def test_a_head_that_a_group_names_at_another_position_keeps_its_group() -> None:
    """Group b has head 1.1 at the object; what the head writes at the last position is told apart."""
    verdict = judge({**BEFORE, "1.1 logits": 0.4})
    (changed,) = [member for member in verdict.members if member.p < 0.05]
    assert (changed.group, changed.elsewhere) == (None, "b")
    assert (
        f"head 1.1 of b (here at {changed.at}) is new towards the logits: 0.00 -> 0.40"
        in verdict.reason
    )


def test_a_sentence_counts_what_it_leaves_out() -> None:
    """Four members are named."""
    members = judge({}).members
    changed = [replace(m, before=0.5, now=0.0, change=-0.5) for m in members[:6]]
    assert sentences(changed)[-1] == "2 more heads or MLPs changed"


def test_a_model_at_chance_is_not_compared() -> None:
    """On the reference it is the reference's fault."""
    claim = SameProfile.model_validate({"kind": "same_profile"})
    for bad, cause in (("base", "reference_fails"), ("ft", "at_chance")):
        answers: Mapping[str, Any] = {
            "Performance": lambda _, on, bad=bad: {
                "correct": np.zeros(N) if on == bad else np.ones(N)
            }
        }
        context = replace(context_of(N), role="pair")
        assert claim.judge(context, measured(answers, RESULTS)).cause == cause


def test_observations_of_other_rows_are_refused() -> None:
    """`check_paired`: both models must have been asked the same."""

    def measure(measurement: Any) -> Observations:
        ids = [f"{measurement.on}-{i}" for i in range(N)]
        columns = {"correct": np.ones(N), "total": -np.ones(N)}
        columns |= {name: -np.ones(N) for name in getattr(measurement.request, "senders", ())}
        return Observations(ids, ids, columns)

    claim = SameProfile.model_validate({"kind": "same_profile"})
    with pytest.raises(MeasurementError, match="different rows"):
        claim.judge(replace(context_of(N), role="pair"), measure)
