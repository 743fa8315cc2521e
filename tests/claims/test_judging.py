"""Claims judged on observations that are made up, so that every way to be wrong can be tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.claims.cmap import Cmap
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.curve import DRAWS, Curve
from pytest_mechanism.claims.encodes import Encodes
from pytest_mechanism.claims.equivalent import Equivalent
from pytest_mechanism.claims.faithfulness import Faithfulness
from pytest_mechanism.claims.knockout import Knockout
from pytest_mechanism.claims.minimality import Minimality
from pytest_mechanism.claims.path import Path as PathClaim
from pytest_mechanism.claims.transfer import Transfer
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.cmap import CodeResult, HeadCode, HeadCodes
from pytest_mechanism.measurements.knockout import AttentionKnockout
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.spec.load import load
from pytest_mechanism.types import Observations, Setting

ROOT = Path(__file__).parents[2]
N = 504
CONTROL_ROWS = 140
IDS = [f"rows-{i}" for i in range(N)]
CLUSTERS = [f"context-{i // 7}" for i in range(N)]
ZERO, ONE = np.zeros(N), np.ones(N)

Fake = Callable[[Measurement], Observations]


def seen(rows: int = N, **values: Any) -> Observations:
    return Observations(
        IDS[:rows], CLUSTERS[:rows], {k: np.asarray(v, float)[:rows] for k, v in values.items()}
    )


def share(p: float, seed: int = 0) -> Any:
    """Ones on a share of the rows, spread over contexts."""
    found = np.zeros(N)
    found[np.random.default_rng(seed).permutation(N)[: round(p * N)]] = 1
    return found


CHANCE = share(1 / 7)


@pytest.fixture(scope="module")
def case() -> ClaimContext:
    spec = load(ROOT / "circuits" / "entity_tracking.yaml")
    shape = Shape(4, 4, 4, 64, 16, 300)
    return ClaimContext(
        "ft",
        spec.groups,
        spec.ablation,
        spec.task,
        0.95,
        {"base": shape, "ft": shape},
        Setting(0, "float32", "cpu", "reference"),
    )


def models(base: Any, ft: Any) -> Fake:
    return lambda m: seen(correct=base if m.on == "base" else ft)


def circuits(full: Any, whole: Any, unaided: Any, ablated: Any, chosen: Any) -> Fake:
    """Observations of the full model, of the circuit twice, of no head, and of random circuits."""

    def fake(m: Measurement) -> Observations:
        if isinstance(m.request, Performance):
            return seen(correct=full)
        if "random_0" in m.request.spelled():
            return seen(CONTROL_ROWS, **{f"random_{i}_correct": chosen for i in range(29)})
        if isinstance(m.request, HeadCodes):  # no head has changed places
            return coded(m.inputs[0], seen())
        return seen(
            circuit_correct=whole, circuit_without_oracle_correct=unaided, empty_correct=ablated
        )

    return fake


def status(verdict: Any) -> str:
    return str(verdict.status)


# -- accuracy


@pytest.mark.parametrize(
    ("p", "wanted"),
    [(0.9, "pass"), (0.8, "inconclusive"), (0.7, "fail"), (0.0, "fail"), (1.0, "pass")],
)
def test_accuracy_is_judged_on_its_bound(case: ClaimContext, p: float, wanted: str) -> None:
    """0.8 measured is not 0.8 shown."""
    claim = Accuracy(kind="accuracy", on="ft", at_least=0.8)
    assert status(claim.judge(case, models(ONE, share(p)))) == wanted


def test_an_accuracy_that_guessing_has_shows_nothing(case: ClaimContext) -> None:
    """However little is claimed; what must be gone may be at chance."""
    low = Accuracy(kind="accuracy", on="ft", at_least=0.01)
    verdict = low.judge(case, models(ONE, CHANCE))
    assert status(verdict) == "inconclusive"
    assert "not significantly better than guessing" in verdict.reason
    assert status(low.judge(case, models(ONE, share(0.9)))) == "pass"
    gone = Accuracy(kind="accuracy", on="ft", at_most=0.5)
    assert status(gone.judge(case, models(ONE, CHANCE))) == "pass"


def test_no_worse_than_a_model_at_chance_is_inconclusive(case: ClaimContext) -> None:
    """Two guessers are not worse than each other, and it means nothing."""
    claim = Accuracy(kind="accuracy", on="ft", not_worse_than="base", margin=0.1)
    verdict = claim.judge(case, models(CHANCE, CHANCE))
    assert status(verdict) == "inconclusive"
    assert "means nothing" in verdict.reason


def test_the_accepted_score_is_the_same_quantity_in_green_and_red(case: ClaimContext) -> None:
    """With two bounds, whichever fails, the first score is the accuracy."""
    claim = Accuracy(kind="accuracy", on="ft", at_least=0.6, not_worse_than="base", margin=0.02)
    high = share(0.9)
    low = high.copy()
    low[np.flatnonzero(high)[:60]] = 0
    green, red = claim.judge(case, models(high, high)), claim.judge(case, models(high, low))
    assert (status(green), status(red)) == ("pass", "fail")
    assert green.score.name == red.score.name == "accuracy"


# -- encodes


def encodes(case: ClaimContext, **values: Any) -> Any:
    claim = Encodes(kind="encodes", group="pos_transmitter", variable="position", at_least=0.75)
    return claim.judge(case, lambda _: seen(**values))


def test_heads_that_carry_the_variable_pass(case: ClaimContext) -> None:
    """The target comes out nearly as often as the model is right, and not under the control."""
    assert (
        status(encodes(case, patched=share(0.9), floor=ZERO, ceiling=share(0.95), control=ZERO))
        == "pass"
    )


def test_heads_that_do_no_more_than_random_ones_do_not_pass(case: ClaimContext) -> None:
    """What any head does is no property of these."""
    verdict = encodes(case, patched=share(0.9), floor=ZERO, ceiling=share(0.95), control=share(0.9))
    assert status(verdict) == "inconclusive"
    assert "do as well" in verdict.reason


def test_a_score_without_a_control_does_not_pass(case: ClaimContext) -> None:
    """Where no other head could have an effect, nothing can be said of these."""
    verdict = encodes(case, patched=share(0.9), floor=ZERO, ceiling=share(0.95))
    assert status(verdict) == "inconclusive"
    assert "no control" in verdict.reason


def test_a_model_at_chance_carries_nothing_that_could_be_shown(case: ClaimContext) -> None:
    """A fraction of a guess is no score, however near to 1."""
    verdict = encodes(case, patched=CHANCE, floor=ZERO, ceiling=CHANCE, control=ZERO)
    assert status(verdict) == "inconclusive"
    assert "does not solve the task" in verdict.reason


# -- cmap


def coded(m: Measurement, found: Observations) -> CodeResult:
    """What a measurement of cmap gives where all heads speak one code."""
    heads = (*m.request.heads, *getattr(m.request, "control", ()))
    codes = tuple(HeadCode(*head, agreement=1.0) for head in heads)
    return CodeResult(found.example_ids, found.clusters, found.values, codes)


def cmap(case: ClaimContext, base: Any, ft: Any, **patched: Any) -> Any:
    claim = Cmap(
        kind="cmap", group="pos_transmitter", donor="ft", recipient="base", recovers_at_least=0.3
    )

    def fake(m: Measurement) -> Observations:
        if isinstance(m.request, Performance):
            return seen(correct=base if m.on == "base" else ft)
        return coded(m, seen(**patched))

    return claim.judge(case, fake)


def test_a_recovered_gain_passes_and_names_its_change(case: ClaimContext) -> None:
    """The fraction is judged, the raw change stands beside it, each with its control."""
    base = share(0.6)
    verdict = cmap(case, base, ONE, patched=np.maximum(base, share(0.8, 1)), control=base)
    assert status(verdict) == "pass"
    assert [s.name.split(":")[-1] for s in verdict.scores][1] == " change of accuracy"
    assert all(s.control is not None for s in verdict.scores)


@pytest.mark.parametrize(
    ("base", "ft", "reason"),
    [
        (share(0.8), share(0.8), "do not differ significantly"),
        (ZERO, CHANCE, "both answer at chance"),
        (ONE, share(0.6), "ft is worse than base on this task"),
    ],
)
def test_nothing_is_recovered_where_there_is_nothing_to_recover(
    case: ClaimContext, base: Any, ft: Any, reason: str
) -> None:
    """Equal models, two guessers, or a donor that is worse: inconclusive, whatever the patch does."""
    verdict = cmap(case, base, ft, patched=ft, control=base)
    assert status(verdict) == "inconclusive"
    assert reason in verdict.reason


def test_random_heads_that_recover_as_much_take_the_claim_back(case: ClaimContext) -> None:
    """The gain must be in these heads."""
    base = share(0.6)
    better = np.maximum(base, share(0.8, 1))
    verdict = cmap(case, base, ONE, patched=better, control=better)
    assert status(verdict) == "inconclusive"
    assert "recover as much" in verdict.reason


def test_the_log_probability_tells_a_small_share_from_nothing(case: ClaimContext) -> None:
    """Of the same patch, accuracy hears on the rows whose answer turns, the log-probability on all;
    both are kept under names of their own."""
    base, noise = share(0.7), np.random.default_rng(0).normal(0, 0.2, N)
    turned = base.copy()
    turned[np.flatnonzero(base == 0)[:20]] = 1
    likely = {0: -2.0 + noise, 1: -0.1 + noise / 10}
    low, high = (np.where(c == 1, likely[1], likely[0]) for c in (base, ONE))

    def fake(m: Measurement) -> Observations:
        if isinstance(m.request, Performance):
            ft = m.on == "ft"
            return seen(correct=ONE if ft else base, log_probability=high if ft else low)
        found = seen(
            patched=turned, control=base,
            patched_log_probability=low + 0.3 * (high - low), control_log_probability=low + noise / 50,
        )  # fmt: skip
        return coded(m, found)

    found = {
        of: Cmap(
            kind="cmap", group="pos_transmitter", donor="ft", recipient="base", of=of,
            recovers_at_least=0.1,
        ).judge(case, fake)
        for of in ("accuracy", "log_probability")
    }  # fmt: skip
    assert {of: v.status for of, v in found.items()} == {
        "accuracy": "inconclusive",
        "log_probability": "pass",
    }
    assert found["log_probability"].score.value == pytest.approx(0.3)
    assert "log-probability" in found["log_probability"].score.metric


# -- faithfulness and transfer


def test_a_faithful_circuit_passes(case: ClaimContext) -> None:
    """It does what the model does; random circuits do not."""
    full = share(0.9)
    claim = Faithfulness(kind="faithfulness", on="ft", between=(0.9, 1.1))
    assert status(claim.judge(case, circuits(full, full, full, ZERO, ZERO))) == "pass"


def test_of_circuit_with_and_without_oracle_positions_the_worse_counts(case: ClaimContext) -> None:
    """1.25 with the hint is fine in [0.9, 1.5]; 0.8 without it is not, although it is nearer to 1."""
    full = share(0.6)
    over, under = full.copy(), full.copy()
    over[np.flatnonzero(full == 0)[:75]] = 1
    under[np.flatnonzero(full == 1)[:60]] = 0
    claim = Faithfulness(kind="faithfulness", on="ft", between=(0.9, 1.5))
    verdict = claim.judge(case, circuits(full, over, under, ZERO, ZERO))
    assert status(verdict) == "fail"
    assert verdict.score.value == pytest.approx(0.8, abs=0.01)


def test_a_circuit_no_better_than_random_ones_does_not_pass(case: ClaimContext) -> None:
    """Then its size does the work, not its heads."""
    full = share(0.9)
    claim = Faithfulness(kind="faithfulness", on="ft", between=(0.9, 1.1))
    verdict = claim.judge(case, circuits(full, full, full, ZERO, full))
    assert status(verdict) == "inconclusive"
    assert "random circuits" in verdict.reason


def test_a_denominator_that_may_be_zero_gives_no_number(case: ClaimContext) -> None:
    """The silent model answers as well as the full one: nothing to normalise by."""
    full = share(0.9)
    claim = Faithfulness(kind="faithfulness", on="ft", between=(0.9, 1.1))
    verdict = claim.judge(case, circuits(full, full, full, full, ZERO))
    assert status(verdict) == "inconclusive"
    assert verdict.score is None


def transfer(case: ClaimContext, base: Any, fake: Fake, **fields: Any) -> Any:
    claim = Transfer.model_validate({"kind": "transfer", "from": "base", "to": "ft", **fields})

    def both(m: Measurement) -> Observations:
        if m.on == "base":
            return seen(correct=base)
        return fake(m)

    return claim.judge(case, both)


def test_a_circuit_that_beats_the_full_base_transfers(case: ClaimContext) -> None:
    """The paper's first claim."""
    full = share(0.95)
    verdict = transfer(
        case, share(0.7), circuits(full, full, full, ZERO, ZERO), beats={"model": "base"}
    )
    assert status(verdict) == "pass"


@pytest.mark.parametrize(
    ("lucky", "status", "said"),
    [
        ([], "pass", None),
        ([28], "pass", None),
        ([27, 28], "fail", "2 of 29 random circuits of the same sizes do as well"),
        ([28, 40], "fail", "2 of 67 random circuits of the same sizes do as well"),
    ],
)
def test_a_random_circuit_that_does_as_well_is_looked_at_twice(
    case: ClaimContext, lucky: list[int], status: str, said: str | None
) -> None:
    """None of 29 may; where a single one does, none of 38 more."""
    full = share(0.95)
    drawn: list[int] = []

    def fake(m: Measurement) -> Observations:
        if "random_" not in m.request.spelled():
            return circuits(full, full, full, ZERO, ZERO)(m)
        names = list(m.request.alive)
        drawn.append(len(names))
        return seen(
            CONTROL_ROWS,
            **{f"{n}_correct": full if int(n[7:]) in lucky else ZERO for n in names},
        )

    verdict = transfer(case, share(0.7), fake, beats={"model": "base"})

    assert (verdict.status, verdict.cause) == (status, said and "control_as_good")
    assert said is None or said in verdict.reason
    assert drawn == ([29, 38] if len(lucky) == 1 or 40 in lucky else [29])


def test_what_is_compared_is_the_faithfulness_whatever_is_judged(case: ClaimContext) -> None:
    """The first score, which is the accepted one, is relative to the accuracy of `to` itself."""
    full = share(0.95)
    fake = circuits(full, full, full, ZERO, ZERO)
    for fields in ({"beats": {"model": "base"}}, {"faithfulness_at_least": 0.9}):
        verdict = transfer(case, share(0.7), fake, **fields)
        assert (verdict.score.name, verdict.score.value) == ("faithfulness", 1.0)
    both = transfer(case, share(0.7), fake, beats={"model": "base"}, faithfulness_at_least=0.9)
    assert [(part.status, part.threshold) for part in both.parts] == [
        ("pass", "at least 0.9"),
        ("pass", "at least 0"),
    ]


@pytest.mark.parametrize(
    ("ft", "kept", "cause", "compared"),
    [
        (0.6, 1.0, "accuracy_loss", 1.0),  # the circuit does what is left of the model
        (0.6, 0.5, "refuted", 0.5),  # the model is worse, and its circuit does not explain it
        (0.95, 0.5, "refuted", 0.5),
    ],
)
@pytest.mark.parametrize("more", [{}, {"faithfulness_at_least": 0.8}])
def test_an_accuracy_loss_is_no_mechanism_finding(
    case: ClaimContext, ft: float, kept: float, cause: str, compared: float, more: dict[str, Any]
) -> None:
    """`beats` is judged as claimed and fails; the cause says whether the mechanism is what failed,
    and the compared score hears nothing of the loss."""
    full = share(ft)
    whole = full.copy()
    whole[np.flatnonzero(full)[round(kept * full.sum()) :]] = 0
    fake = circuits(full, whole, whole, ZERO, ZERO)
    verdict = transfer(case, share(0.9), fake, beats={"model": "base"}, **more)
    assert (verdict.status, verdict.cause) == ("fail", cause)
    assert verdict.score.value == pytest.approx(compared, abs=0.01)
    assert ("does not reach the threshold either" in verdict.reason) == (cause == "accuracy_loss")


def test_beating_a_model_at_chance_is_a_matter_of_the_reference(case: ClaimContext) -> None:
    """It means nothing, and nothing about the candidate."""
    full = share(0.95)
    verdict = transfer(
        case, CHANCE, circuits(full, full, full, ZERO, ZERO), beats={"model": "base"}
    )
    assert (verdict.status, verdict.cause) == ("inconclusive", "reference_fails")


@pytest.mark.parametrize("fields", [{"faithfulness_at_least": 0.9}, {"beats": {"model": "base"}}])
def test_no_circuit_works_in_a_model_at_chance(case: ClaimContext, fields: dict[str, Any]) -> None:
    """Whatever is asked of it."""
    fake = circuits(CHANCE, CHANCE, CHANCE, ZERO, ZERO)
    assert status(transfer(case, ZERO, fake, **fields)) == "inconclusive"


# -- path


@pytest.mark.parametrize(
    ("group", "control", "wanted"),
    [(-3.0, 0.0, "pass"), (-3.0, -3.0, "inconclusive"), (-0.5, 0.0, "fail")],
)
def test_a_path_matters_more_than_that_of_random_heads(
    case: ClaimContext, group: float, control: float, wanted: str
) -> None:
    """A drop of at least 1 nat, beyond what other heads of the same layers do."""
    noise = np.random.default_rng(0).normal(0, 0.1, N)
    values = {"group": noise + group, "control": noise + control}
    columns = {**values, **{f"ratio {k}": np.expm1(v) for k, v in values.items()}}

    def fake(m: Measurement) -> Observations:
        return seen(correct=ONE) if isinstance(m.request, Performance) else seen(**columns)

    claim = PathClaim(kind="path", group="pos_transmitter", on="ft", drops_at_least=1.0)
    found = claim.judge(case, fake)
    assert (status(found), found.threshold) == (wanted, "drops at least 1")
    assert "]; claimed: drops at least 1" in found.reason
    assert found.judged[0].high == -1.0  # the score keeps its sign


# -- minimality


def test_minimality_judges_one_quantity_and_names_the_head_that_is_not_needed(
    case: ClaimContext,
) -> None:
    """Whichever head is needed least, the accepted score keeps its name; the reason says which."""

    def without(unneeded: str) -> Fake:
        def fake(m: Measurement) -> Observations:
            if isinstance(m.request, Performance):
                return seen(correct=ONE)
            names = m.request.alive
            cost = {n: n.endswith("gone") and not n.startswith(unneeded) for n in names}
            columns = {
                f"{n}_correct": share(0.3) if lost else share(0.9) for n, lost in cost.items()
            }
            return seen(**columns)

        return fake

    claim = Minimality(kind="minimality", on="ft", costs_at_least=0.05)
    found = [
        claim.judge(case, without(head)) for head in ("pos_transmitter:2.2", "pos_detector:1.3")
    ]
    assert [status(v) for v in found] == ["fail", "fail"]
    assert {v.score.name for v in found} == {"least needed head"}
    assert [v.reason.split("comparisons): ")[1] for v in found] == [
        "2.2 of pos_transmitter",
        "1.3 of pos_detector",
    ]


# -- all of them


def test_too_few_contexts_give_no_interval(case: ClaimContext) -> None:
    """Three contexts are no sample, however many rows they give."""
    claim = Accuracy(kind="accuracy", on="ft", at_least=0.5)
    with pytest.raises(MeasurementError, match="20 rows come from 3 contexts"):
        claim.judge(case, lambda _: seen(20, correct=ONE))


@pytest.mark.parametrize(
    "claim",
    [
        Accuracy(kind="accuracy", on="ft", not_worse_than="base", margin=0.1),
        Equivalent(kind="equivalent", margin=0.1),
        Transfer.model_validate(
            {"kind": "transfer", "from": "base", "to": "ft", "beats": {"model": "base"}}
        ),
    ],
    ids=lambda claim: claim.kind,
)
def test_a_reference_whose_answers_fit_any_row_is_at_chance(
    case: ClaimContext, claim: Claim
) -> None:
    """Its accuracy is far above guessing, and the reason says how often the same answers fit other
    prompts."""
    full = share(0.95)
    of_ft = circuits(full, full, full, ZERO, ZERO)

    def fake(m: Measurement) -> Observations:
        return seen(correct=full, elsewhere=ONE * 0.95) if m.on == "base" else of_ft(m)

    verdict = claim.judge(case, fake)
    assert verdict.cause == "reference_fails"
    assert "chance 0.143; the same answers given to other prompts: 0.950" in verdict.reason


def test_a_model_that_needs_no_head_has_no_line_in_the_chart_of_a_curve(case: ClaimContext) -> None:
    """It does as well with every head ablated, so its faithfulness has no value."""
    claim = Curve(kind="curve", cpr_at_least=0.3)
    rankings = ["", *(f"random{i}@" for i in range(DRAWS))]
    names = [f"{name}{count}_correct" for name in rankings for count in (0, *claim.counts(case))]
    chart = claim.chart(case, lambda _: seen(correct=ONE, **dict.fromkeys(names, ONE)))
    assert chart.lines == ()


def test_knockouts_of_the_same_positions_share_a_measurement_of_the_layers_that_they_name(
    case: ClaimContext,
) -> None:
    """Not those of claims about other positions or another model, nor a layer that the model lacks. The curve
    measures the other layers, each once."""

    def claim(layer: int, to: str = "query_label", on: str = "ft") -> Knockout:
        settings = {"kind": "knockout", "from": "last", "to": to, "on": on, "drops_at_least": 0.1}
        return Knockout.model_validate(settings | {"from_layer": layer})

    claims = (claim(2), claim(0), claim(9), claim(1, "correct_object"), claim(3, on="base"))
    case = replace(case, claims=claims)
    asked: list[tuple[int, ...]] = []

    def fake(m: Measurement) -> Observations:
        if not isinstance(m.request, AttentionKnockout):
            return seen(correct=ONE)
        asked.append(m.request.starts)
        names = [f"{w}@{x}_correct" for w in ("pair", "random") for x in m.request.starts]
        return seen(**dict.fromkeys(names, ONE))

    for knockout in claims[:2]:
        knockout.judge(case, fake)
    assert asked == [(0, 2), (0, 2)]
    curve = claims[0].chart(case, fake)
    assert sorted(asked[2] + asked[3]) == [0, 1, 2, 3]
    assert [x for x, _, _ in curve.lines[0].points] == [0, 1, 2, 3, 4]


def test_rows_that_do_not_belong_together_are_not_compared(case: ClaimContext) -> None:
    """Equal numbers of rows are not the same rows."""
    claim = Accuracy(kind="accuracy", on="ft", not_worse_than="base", margin=0.1)

    def fake(m: Measurement) -> Observations:
        own = seen(correct=ONE)
        return own if m.on == "ft" else replace(own, example_ids=IDS[::-1])

    with pytest.raises(MeasurementError, match="different rows"):
        claim.judge(case, fake)


@pytest.mark.parametrize(
    "group", ["value_fetcher", "pos_transmitter", "pos_detector", "struct_reader"]
)
def test_control_heads_are_others_that_could_have_an_effect(case: ClaimContext, group: str) -> None:
    """As many as the group, none of it, and none that cannot reach the answer from there."""
    members = case.group(group, "ft")
    heads, _ = case.random_heads(members, "ft")
    assert len(heads) == len(members.members())
    assert set(heads).isdisjoint(members.members())
    if members.at != "last":
        assert all(layer < 3 for layer, _ in heads)
