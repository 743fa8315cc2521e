"""Masks over the whole model, and the controls of a mask: which verdict follows from which results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_mechanism.causes import Cause
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.cmap import Cmap
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.encodes import Encodes
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.dcm import DcmMask, MaskResult
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.spec.definition import definition
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.types import Head, Observations, Setting, Verdict

N = 140
GROUPS = {
    "fetchers": Group(heads={3: [0, 1]}, at="last"),
    "mover": Group(heads={2: [2]}, at="last"),
    "detector": Group(heads={1: [3]}, at="query_label"),
}
CASE = ClaimContext(
    "ft",
    GROUPS,
    Ablation(),
    EntityTracking(EntityTrackingParameters(family="entity_tracking", rows=N)),
    0.95,
    {"ft": Shape(4, 8, 8, 64, 8, 300)},
    Setting(0, "float32", "cpu", "reference"),
)


def share(p: float) -> Any:
    ones = np.zeros(N)
    ones[np.random.default_rng(0).permutation(N)[: round(p * N)]] = 1
    return ones


ZERO, GOOD, GUESS = share(0), share(0.95), share(1 / 7)


def ids(prefix: str) -> tuple[list[str], list[str]]:
    return ([f"{prefix}-{i}" for i in range(N)],) * 2


def mask_of(
    heads: Sequence[Head], patched: Any = GOOD, mlps: Sequence[int] = (), draw: int = 0
) -> MaskResult:
    return MaskResult(
        *ids(f"validation/{draw}"),
        {"patched": patched, "floor": ZERO},
        selected=tuple(heads),
        selected_mlps=tuple(mlps),
    )


def judge(
    mask: MaskResult,
    nulls: Mapping[str, MaskResult] | None = None,
    draws: Sequence[Sequence[Head]] = (),
    columns: Mapping[str, Any] | None = None,
    **fields: Any,
) -> tuple[Verdict, list[Measurement]]:
    """The verdict where masks select this, and what was measured."""
    claim = Encodes(
        kind="encodes",
        heads="learned",
        **{"group": "mover", "variable": "position", "at_least": 0.5} | fields,
    )
    asked: list[Measurement] = []

    def fake(measurement: Measurement) -> Observations:
        asked.append(measurement)
        request = measurement.request
        if isinstance(request, DcmMask):
            if request.null != "none":
                return (nulls or {})[request.null]
            return mask_of(draws[request.draw - 1], draw=request.draw) if request.draw else mask
        assert isinstance(request, Interchange)
        good = GOOD if request.heads or request.mlps else ZERO
        values = {"patched": good, "floor": ZERO, "ceiling": GOOD} | dict(columns or {})
        if request.has_control:
            values["control"] = ZERO
        return Observations(*ids("test"), values)

    return claim.judge(CASE, fake), asked  # type: ignore[arg-type]


def request_of(asked: Sequence[Measurement], kind: type[Any]) -> Any:
    return next(m.request for m in asked if isinstance(m.request, kind))


# -- a mask over the model


@pytest.mark.parametrize(
    ("group", "over", "layers", "mlps"),
    [
        ("mover", "heads", 4, 0),
        ("mover", "heads_and_mlps", 4, 4),
        ("detector", "heads", 3, 0),
        ("detector", "heads_and_mlps", 3, 3),
    ],
)
def test_the_mask_is_over_everything_that_can_have_an_effect(
    group: str, over: str, layers: int, mlps: int
) -> None:
    """All heads, and MLPs if asked; before the last token, nothing of the last layer reaches the answer."""
    _, asked = judge(mask_of(GROUPS[group].members()), group=group, mask_over=over)
    request = request_of(asked, DcmMask)
    heads = [(layer, head) for layer in range(layers) for head in range(8)]
    assert (list(request.heads), list(request.mlps)) == (heads, list(range(mlps)))
    assert request.at == GROUPS[group].at


def test_what_is_found_is_named_beside_the_group() -> None:
    """The heads found, out of how many, and how many of them are the group's."""
    verdict, asked = judge(mask_of([(2, 2), (2, 5)]), mask_over="heads")
    assert verdict.status == "pass"
    assert (
        "DCM over 32 heads finds 2.2 2.5; of these 1 of 2 are in group mover, which has 1"
        in verdict.reason
    )
    assert "heads selected by DCM: 2.2 2.5 of 32 heads" in verdict.score.metric
    control = request_of(asked, Interchange).control
    assert [layer for layer, _ in control] == [2, 2]
    assert {(2, 2), (2, 5)}.isdisjoint(control)


def test_a_claim_about_a_group_that_is_not_found_does_not_pass() -> None:
    """The heads found carry the variable, and the group's are not among them."""
    verdict, _ = judge(mask_of([(2, 5)]), mask_over="heads")
    assert (verdict.status, verdict.cause) == ("inconclusive", Cause.UNDECIDED)
    assert "it does not find 2.2 of group mover, so other parts carry position" in verdict.reason


def test_a_mask_that_selects_none_finds_nothing() -> None:
    verdict, _ = judge(mask_of([]), mask_over="heads")
    assert verdict.status == "fail"
    assert verdict.reason.endswith("DCM over 32 heads finds nothing: its mask selects none")


def test_selected_heads_that_move_no_target_are_nothing_found() -> None:
    """A mask may select heads by chance; on rows that no mask has seen they do nothing."""
    columns = {"patched": ZERO, "floor": share(0.02)}
    verdict, _ = judge(mask_of([(0, 1), (3, 3)], ZERO), columns=columns, mask_over="heads")
    assert verdict.status == "fail"
    assert (
        "DCM over 32 heads finds nothing: the 2 that its mask selects do not give the target more often than no patch"
        in verdict.reason
    )


def test_a_model_at_chance_is_inconclusive_and_nothing_is_found() -> None:
    """Nor are its controls measured."""
    columns = {"patched": share(0.02), "floor": share(0.02), "ceiling": GUESS}
    verdict, asked = judge(
        mask_of([(0, 1)], ZERO), columns=columns, mask_over="heads", mask_controls=True
    )
    assert verdict.status == "inconclusive"
    assert "does not solve the task" in verdict.reason
    assert "DCM over 32 heads finds nothing" in verdict.reason
    assert len(asked) == 2


def test_nothing_found_fits_a_claim_that_nothing_carries_a_variable() -> None:
    """With at_most, finding nothing passes and is said."""
    fields = {"mask_over": "heads", "at_least": None, "at_most": 0.1}
    verdict, _ = judge(mask_of([]), **fields)
    assert verdict.status == "pass"
    assert "finds nothing" in verdict.reason


def test_found_mlps_are_patched_and_have_a_control_of_mlps() -> None:
    """As many other MLPs; both are named."""
    verdict, asked = judge(mask_of([(2, 2)], mlps=[2]), mask_over="heads_and_mlps")
    request = request_of(asked, Interchange)
    assert (request.heads, request.mlps) == (((2, 2),), (2,))
    assert len(request.control) == len(request.control_mlps) == 1
    assert request.control_mlps != (2,)
    assert verdict.score.control.name == "1 random head of the same layers and 1 random MLP"
    assert "DCM over 32 heads and 4 MLPs finds 2.2 MLP 2" in verdict.reason
    assert (
        "heads and MLPs selected by DCM: 2.2 MLP 2 of 32 heads and 4 MLPs" in verdict.score.metric
    )


def test_mlps_alone_have_a_control_too() -> None:
    """A mask may find no head; then the group is not found."""
    verdict, asked = judge(mask_of([], mlps=[1, 2]), mask_over="heads_and_mlps")
    request = request_of(asked, Interchange)
    assert (request.control, set(request.control_mlps)) == ((), {0, 3})
    assert verdict.score.control.name == "2 random MLPs"
    assert (verdict.status, verdict.cause) == ("inconclusive", Cause.UNDECIDED)


# -- controls

NULLS = {
    "shuffled_targets": mask_of([(1, 1)], share(0.15)),
    "random_weights": mask_of([(0, 3), (1, 2)], ZERO),
}
DRAWS = [[(2, 2)], [(2, 2), (1, 0)], [(2, 2)], []]


def test_controls_are_in_the_message_and_beside_the_score() -> None:
    """How often each head is chosen, and what broken masks select and give."""
    verdict, _ = judge(mask_of([(2, 2)]), NULLS, DRAWS, mask_controls=True)
    assert verdict.status == "pass"
    assert verdict.reason.partition("; chosen")[2] == (
        " in 5 draws of rows: 2.2 4/5, 1.0 1/5; the mask gives 95.0 % of its validation targets; with shuffled "
        "targets a mask selects 1 part and gives 15.0 % of its targets (no patch: 0.0 %); with random weights a "
        "mask selects 2 parts and gives 0.0 % of its targets (no patch: 0.0 %)"
    )
    name = "mover encodes position"
    values = {score.name: round(score.value, 3) for score in verdict.scores}
    assert values == {
        name: 1.0,
        f"{name}, shuffled targets": 0.15,
        f"{name}, random weights": 0.0,
        f"{name}, stability": 0.5,
    }
    assert verdict.scores[-1].metric.endswith("2.2 4/5, 1.0 1/5")
    assert verdict.scores[-1].clusters == 5


@pytest.mark.parametrize("null", NULLS)
def test_a_broken_mask_that_does_as_well_leaves_no_pass(null: str) -> None:
    """A method that fits anything shows nothing."""
    nulls = NULLS | {null: mask_of([(1, 1)], GOOD)}
    verdict, _ = judge(mask_of([(2, 2)]), nulls, DRAWS, mask_controls=True)
    assert (verdict.status, verdict.cause) == ("inconclusive", Cause.CONTROL_AS_GOOD)
    broken = null.replace("_", " ")
    assert f"a mask learned with {broken} gives its targets as often (95.0 %)" in verdict.reason


def test_an_upper_bound_shows_its_controls_and_needs_none() -> None:
    """A variable that is not carried: no mask does better than a broken one."""
    nulls = {null: mask_of([], ZERO) for null in NULLS}
    fields = {"at_least": None, "at_most": 0.1, "mask_controls": True}
    verdict, _ = judge(mask_of([], ZERO), nulls, [[], [], [], []], **fields)
    assert verdict.status == "pass"
    assert "chosen in 5 draws of rows: nothing" in verdict.reason
    assert not any("stability" in score.name for score in verdict.scores)


def test_all_masks_are_planned_and_differ_in_one_thing() -> None:
    """Five draws and two broken masks, over the same heads."""
    claim = Encodes(
        kind="encodes", group="mover", variable="position", at_least=0.5, heads="learned",
        mask_over="heads_and_mlps", mask_controls=True, mask_training="published",
    )  # fmt: skip
    requests = [m.request for m in claim.required_measurements(CASE)]
    assert [(r.draw, r.null) for r in requests] == [
        (0, "none"),
        *((draw, "none") for draw in range(1, 5)),
        (0, "shuffled_targets"),
        (0, "random_weights"),
    ]
    assert {(r.heads, r.mlps, r.training) for r in requests} == {
        (requests[0].heads, (0, 1, 2, 3), "published")
    }
    assert [r.cost({}).weight_copies for r in requests] == [0] * 6 + [1]


# -- settings

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"mask_over": "heads", "heads": "all"},
        "mask_over is a setting of the mask: needs heads: learned",
    ),
    ({"mask_controls": True, "heads": "all"}, "mask_controls is a setting of the mask"),
    ({"mask_training": "published", "heads": "all"}, "mask_training is a setting of the mask"),
    (
        {"mask_training": "published", "mask_rate": 0.2},
        "mask_training: published has mask_rate: 0.1",
    ),
    ({"mask_training": "published", "mask_sparsity": 0.1}, "published has mask_sparsity: 0.01"),
    ({"mask_over": "layers"}, "'group', 'heads' or 'heads_and_mlps'"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    given = {"group": "mover", "variable": "position", "at_least": 0.5, "heads": "learned"} | fields
    with pytest.raises(ValueError, match=message):
        Encodes(kind="encodes", **given)


def test_cmap_takes_the_published_training() -> None:
    """Its masks are those of the paper's notebook."""
    claim = Cmap(
        kind="cmap", group="mover", donor="ft", recipient="base", heads="learned", variable="position",
        recovers_at_least=0.1, mask_training="published",
    )  # fmt: skip
    shapes = dict.fromkeys(("ft", "base"), CASE.shapes["ft"])
    context = replace(CASE, role="pair", shapes=shapes)
    trainings = {
        m.request.training
        for m in claim.required_measurements(context)
        if isinstance(m.request, DcmMask)
    }
    assert trainings == {"published"}


def test_defaults_leave_the_definition_as_it_was() -> None:
    """Accepted scores stay comparable; each other choice is another definition."""
    spec = load(Path(__file__).parents[2] / "circuits" / "entity_tracking.yaml")
    fields = {
        "group": "pos_transmitter",
        "variable": "position",
        "at_least": 0.5,
        "heads": "learned",
    }
    others: list[dict[str, Any]] = [
        {},
        {"mask_over": "group", "mask_controls": False, "mask_training": "standard"},
        {"mask_over": "heads"},
        {"mask_controls": True},
        {"mask_training": "published"},
    ]
    hashes = [definition(spec, Encodes(kind="encodes", **fields, **other)) for other in others]
    assert hashes[0] == hashes[1] == "22690ae5a0fe8f3a"
    assert len(set(hashes)) == 4
