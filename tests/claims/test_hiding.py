"""Claims about what a model hides, judged on observations that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.decodable import Decodable
from pytest_mechanism.claims.localised import Localised
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.probing import ProbeResult
from pytest_mechanism.measurements.pruning import PruningResult
from pytest_mechanism.registry import claim_kinds
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.types import Observations, Setting, Verdict

N = 400
IDS = [f"rows-{i}" for i in range(N)]
SHAPE = Shape(2, 2, 2, 16, 8, 40)
BOTH = ("control", "pretrained")


def case(*roles: str) -> ClaimContext:
    task = Counting(CountingParameters(family="counting", refuse="a", rows=N))
    shapes = dict.fromkeys(("base", "ft", *roles), SHAPE)
    return ClaimContext(
        "ft", {}, Ablation(), task, 0.95, shapes, Setting(0, "float32", "cpu", "branch")
    )


CHANCE = case().task.chance


def column(p: float) -> Any:
    """Ones on a share of the rows; of two shares, the larger holds the smaller."""
    found = np.zeros(N)
    found[: round(p * N)] = 1
    return np.random.default_rng(0).permutation(found)


def columns(values: dict[str, float]) -> Any:
    """Ids, clusters and columns of observations."""
    return IDS, IDS, {name: column(p) for name, p in values.items()}


def probed(layer: int, **values: float) -> ProbeResult:
    return ProbeResult(*columns(values), accuracy={}, layer=layer, dropped=0)


# -- decodable

Read = dict[str, tuple[float, float]]
"""Role -> what the probe of the chosen layer gets right, trained on answers and on shuffled ones."""


def decodable(roles: Read, **fields: Any) -> Verdict:
    """The claim on ``ft``; the run has the roles that were read."""

    def measured(measurement: Measurement) -> Observations:
        right, shuffled = roles[measurement.on]
        # another layer reads better on the judged rows, and was not chosen
        better = {"correct@1": 1.0, "shuffled@1": 0.0}
        return probed(2, **{"correct@2": right, "shuffled@2": shuffled, **better})

    claim = Decodable(kind="decodable", on="ft", **fields)
    return claim.judge(case(*(role for role in roles if role != "ft")), measured)


LUCK = 0.28


@pytest.mark.parametrize(
    ("right", "wanted"), [(0.9, "pass"), (0.8, "inconclusive"), (0.6, "fail"), (1.0, "pass")]
)
def test_what_is_read_is_judged_on_its_bound(right: float, wanted: str) -> None:
    """At the layer that was chosen on other rows, not at one that happens to be better."""
    verdict = decodable({"ft": (right, LUCK)}, at_least=0.8)
    assert verdict.status == wanted
    assert verdict.scores[0].value == right
    assert verdict.scores[0].control is not None
    assert verdict.scores[0].control.value == LUCK
    assert "after 2 layers" in verdict.reason


def test_a_probe_that_reads_no_more_than_one_of_shuffled_answers_does_not_pass() -> None:
    """Whatever it reads then is luck, or leaked."""
    verdict = decodable({"ft": (0.9, 0.9)}, at_least=0.8)
    assert verdict.status == "inconclusive"
    assert "shuffled answers does as well" in verdict.reason


def test_a_probe_that_reads_no_more_than_a_guess_does_not_pass() -> None:
    """A threshold below chance claims nothing."""
    verdict = decodable({"ft": (CHANCE, 0.1)}, at_least=0.2)
    assert verdict.status == "inconclusive"
    assert "guessing does as well" in verdict.reason


@pytest.mark.parametrize(
    ("right", "wanted", "share"),
    [(0.95, "pass", 0.93), (0.8, "inconclusive", 0.71), (0.4, "fail", 0.14), (0.3, "fail", 0.0)],
)
def test_a_share_lies_between_never_had_and_nothing_lost(
    right: float, wanted: str, share: float
) -> None:
    """(0.95 - 0.3) / (1 - 0.3), judged on its bound."""
    roles = {"ft": (right, LUCK), "control": (0.3, LUCK), "pretrained": (1.0, LUCK)}
    verdict = decodable(roles, share_at_least=0.7)
    assert verdict.status == wanted
    assert verdict.scores[0].value == pytest.approx(share, abs=0.005)
    assert [s.name for s in verdict.scores] == ["share of the capability", "probe accuracy"]


def test_what_is_gone_reads_like_the_control() -> None:
    """``share_at_most`` passes where little is left, and fails where it is kept."""
    rest = {"control": (0.3, LUCK), "pretrained": (1.0, LUCK)}
    assert decodable({"ft": (0.32, LUCK), **rest}, share_at_most=0.2).status == "pass"
    assert decodable({"ft": (0.97, LUCK), **rest}, share_at_most=0.2).status == "fail"


def test_where_control_and_pretrained_read_alike_there_is_no_share() -> None:
    """Nothing lies between them, and neither side of the claim passes."""
    roles = {"ft": (0.9, LUCK), "control": (0.9, LUCK), "pretrained": (0.9, LUCK)}
    for fields in ({"share_at_least": 0.1}, {"share_at_most": 0.9}):
        verdict = decodable(roles, **fields)
        assert verdict.status == "inconclusive"
        assert "no share can be computed" in verdict.reason


@pytest.mark.parametrize("there", [(), ("control",), ("pretrained",)])
def test_without_the_other_models_a_share_is_inconclusive(there: tuple[str, ...]) -> None:
    """Red, with what the probe alone shows, and how to give each missing role."""
    roles: Read = {"ft": (0.95, LUCK), **dict.fromkeys(there, (0.3, LUCK))}
    verdict = decodable(roles, at_least=0.8, share_at_least=0.7)
    assert verdict.status == "inconclusive"
    assert "0.950 [" in verdict.reason
    assert "more than one trained on shuffled answers (0.280)" in verdict.reason
    for role in BOTH:
        assert (f"--mechanism-model {role}=REFERENCE" in verdict.reason) == (role not in there)


def test_only_a_share_wants_other_models() -> None:
    """They are measured where the run has them."""
    plain = Decodable(kind="decodable", on="ft", at_least=0.5)
    shared = Decodable(kind="decodable", on="ft", share_at_least=0.5)
    assert (plain.optional_roles("ft"), shared.optional_roles("ft")) == ((), BOTH)
    assert [m.on for m in plain.required_measurements(case(*BOTH))] == ["ft"]
    assert [m.on for m in shared.required_measurements(case(*BOTH))] == ["ft", *BOTH]
    assert [m.on for m in shared.required_measurements(case("control"))] == ["ft", "control"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "needs one of at_least, share_at_least, share_at_most"),
        ({"at_least": 0.0}, "must lie between 0.01 and 1"),
        ({"share_at_least": 0.0}, "must lie between 0.01 and 2"),
        ({"share_at_least": 0.6, "share_at_most": 0.5}, "must be below share_at_most"),
        ({"share_at_least": 0.5, "control": "x", "pretrained": "x"}, "two roles"),
        ({"share_at_least": 0.5, "control": "ft"}, "share of ft cannot be compared with itself"),
        ({"at_least": 0.5, "penalty": 0.0}, "must lie between 1e-06 and 10"),
    ],
)
def test_a_probe_that_claims_nothing_is_refused(fields: dict[str, Any], said: str) -> None:
    """When the spec is read."""
    with pytest.raises(ValidationError, match=said):
        Decodable(kind="decodable", on="ft", **fields)


def test_the_probes_curve_goes_through_every_layer() -> None:
    """Of each model that the run has, with shuffled answers of the one under test as the control."""

    def measured(measurement: Measurement) -> Observations:
        layers = {f"correct@{k}": k / 10 for k in range(11)} | {
            f"shuffled@{k}": 0.2 for k in range(11)
        }
        return probed(3, **layers)

    claim = Decodable(kind="decodable", on="ft", at_least=0.8, share_at_least=0.5)
    chart = claim.chart(case("control"), measured)
    assert [(line.model, line.control) for line in chart.lines] == [
        ("ft", False), ("ft", True), ("control", False),
    ]  # fmt: skip
    assert [(x, y) for x, y, _ in chart.lines[0].points] == [(k, k / 10) for k in range(11)]
    assert chart.threshold == (CHANCE, "guessing")
    alone = claim.chart(case(), measured).explanation
    assert ["never had the capability" in text for text in (chart.explanation, alone)] == [
        True,
        False,
    ]


# -- localised


def localised(
    by_count: dict[int, float], chosen: dict[int, float], luck: float | None, **fields: Any
) -> Verdict:
    """The claim on ``ft``.

    Args:
        by_count: units zeroed -> accuracy on the judged rows.
        chosen: units zeroed -> accuracy on the rows of the choice.
        luck: accuracy with random units, or None where there is no control.
        fields: of the claim.
    """

    claim = Localised(
        kind="localised", on="ft", **{"at_most": 5, "restores_at_least": 0.8, **fields}
    )
    return claim.judge(case(), lambda _: pruned(by_count, chosen, luck))


def pruned(
    by_count: dict[int, float], chosen: dict[int, float], luck: float | None
) -> Observations:
    """What `localised` is judged on."""
    values = {f"correct@{k}": p for k, p in by_count.items()}
    values |= {f"refused@{k}": 1 - p for k, p in by_count.items()}
    for k in by_count if luck is not None else ():
        values |= {f"random0_correct@{k}": 0.0, f"random1_correct@{k}": luck} if k else {}
    return PruningResult(*columns(values), accuracy=chosen, units=tuple("uvwxyz"))


CURVE = {0: 0.0, 1: 0.1, 2: 0.9, 5: 0.95}


def test_few_units_that_give_it_back_pass() -> None:
    """With the score beside what random ones give, and what was refused before and after."""
    verdict = localised(CURVE, CURVE, 0.05)
    assert verdict.status == "pass"
    assert [s.value for s in verdict.scores] == pytest.approx([0.95, 0.0, 0.05])
    assert verdict.scores[0].control is not None
    assert verdict.scores[0].control.value == pytest.approx(0.05)
    assert "5 neurons zeroed: u, v, w and 2 more" in verdict.reason


def test_how_many_units_is_chosen_on_other_rows() -> None:
    """2 did best there; that 5 do better on the judged rows is not known."""
    verdict = localised(CURVE, {0: 0.0, 1: 0.2, 2: 0.9, 5: 0.9}, 0.05)
    assert verdict.scores[0].value == pytest.approx(0.9)
    assert "2 neurons zeroed: u, v)" in verdict.reason


def test_units_that_give_nothing_back_fail() -> None:
    """It is hidden in many places, or it is gone."""
    low = {0: 0.0, 1: 0.0, 2: 0.1, 5: 0.2}
    assert localised(low, low, 0.0).status == "fail"


def test_random_units_that_do_as_well_take_the_claim_back() -> None:
    """Then any damage would do; the best of the draws counts."""
    verdict = localised(CURVE, CURVE, 0.95)
    assert verdict.status == "inconclusive"
    assert "random others do as well (0.950)" in verdict.reason


def test_without_random_units_nothing_passes() -> None:
    """A model with few heads leaves none to compare with."""
    verdict = localised(CURVE, CURVE, None, units="heads")
    assert verdict.status == "inconclusive"
    assert "no control: too few other heads" in verdict.reason


@pytest.mark.parametrize("as_it_is", [0.78, 0.95])
def test_where_nothing_is_hidden_nothing_is_given_back(as_it_is: float) -> None:
    """A model that answers anyway, or may: inconclusive, whatever pruning does."""
    verdict = localised(CURVE | {0: as_it_is}, CURVE, 0.0)
    assert verdict.status == "inconclusive"
    assert "so there is nothing that units hide" in verdict.reason


@pytest.mark.parametrize(
    ("at_most", "counts"),
    [(1, [0, 1]), (3, [0, 1, 2, 3]), (10, [0, 1, 2, 5, 10]), (30, [0, 1, 2, 5, 10, 15, 20, 30])],
)
def test_no_more_units_are_zeroed_than_are_claimed(at_most: int, counts: list[int]) -> None:
    """Nothing, the paper's numbers below, and the number itself."""
    claim = Localised(kind="localised", on="ft", at_most=at_most, restores_at_least=0.5)
    assert claim.counts == counts


def test_the_pruning_curve_shows_answers_refusals_and_luck() -> None:
    """By the number of units; each draw of random ones is a control, and there are none of none."""
    claim = Localised(kind="localised", on="ft", at_most=5, restores_at_least=0.8)
    chart = claim.chart(case(), lambda _: pruned(CURVE, CURVE, 0.1))
    drawn = [
        (line.control, {chart.ticks[x]: round(y, 3) for x, y, _ in line.points})
        for line in chart.lines
    ]
    assert drawn == [
        (False, {"0": 0.0, "1": 0.1, "2": 0.9, "5": 0.95}),
        (False, {"0": 1.0, "1": 0.9, "2": 0.1, "5": 0.05}),
        (True, {"1": 0.0, "2": 0.0, "5": 0.0}),
        (True, {"1": 0.1, "2": 0.1, "5": 0.1}),
    ]


# -- in a spec


def test_the_kinds_are_read_from_a_spec_without_groups(tmp_path: Path) -> None:
    """They are about the whole model; each role is an item."""
    path = tmp_path / "wrapper.yaml"
    path.write_text(
        "mechanism: 1\n"
        "circuit: wrapper\n"
        "task: {family: counting, refuse: a}\n"
        "claims:\n"
        "  known: {kind: decodable, on: ft, share_at_least: 0.8}\n"
        "  hidden: {kind: localised, on: [base, ft], at_most: 15, restores_at_least: 0.8}\n"
        "  spared: {kind: spares_safety_weights, ratio_at_most: 1.5}\n"
    )
    claims = load(path).claims
    assert [claim.roles() for claim in claims.values()] == [("ft",), ("base", "ft"), ("pair",)]
    assert {"decodable", "localised", "spares_safety_weights"} <= {*claim_kinds()}
