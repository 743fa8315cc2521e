"""Is a score still the one that was accepted?"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.statistics.drift import Tolerance, compare

TOLERANCE = Tolerance(atol=0.001, drift=0.05)


def entry(
    value: float,
    interval: tuple[float, float] | None = None,
    better: str | float = "higher",
    fingerprints: str = "old",
    definition: str = "d",
) -> dict:
    return {
        "value": value,
        "interval": interval or (value - 0.01, value + 0.01),
        "better": better,
        "fingerprints": {"base": fingerprints},
        "definition": definition,
    }


def new(*args, **kwargs) -> dict:
    return entry(*args, fingerprints="new", **kwargs)


CASES = {
    "nothing accepted": (entry(0.8), None, "new", None),
    "unchanged": (entry(0.8), 0.8, "same", 0.0),
    "within atol": (entry(0.8005), 0.8, "same", 0.0005),
    "beyond atol": (entry(0.802), 0.8, "moved", 0.002),
    "better by itself": (entry(0.9), 0.8, "moved", 0.1),
    "new, equal": (new(0.8), 0.8, "changed", 0.0),
    "new, a little worse": (new(0.76), 0.8, "changed", -0.04),
    "new, worse, not surely": (new(0.73, (0.70, 0.76)), 0.8, "changed", -0.07),
    "new, surely worse": (new(0.73, (0.71, 0.745)), 0.8, "worse", -0.07),
    "new, better": (new(0.9), 0.8, "better", 0.1),
    "new, a little better": (new(0.84), 0.8, "changed", 0.04),
    "lower is better: worse": (new(0.3, better="lower"), 0.2, "worse", 0.1),
    "lower is better: not surely": (new(0.3, (0.24, 0.36), "lower"), 0.2, "changed", 0.1),
    "lower is better: better": (new(0.1, better="lower"), 0.2, "better", -0.1),
    "target: worse above": (new(1.2, better=1.0), 1.0, "worse", 0.2),
    "target: worse below": (new(0.8, better=1.0), 1.0, "worse", -0.2),
    "target: other side": (new(1.1, better=1.0), 0.9, "changed", 0.2),
    "target: as far": (new(1.1, (1.0, 1.2), 1.0), 0.9, "changed", 0.2),
    "target: nearer": (new(1.0, better=1.0), 0.8, "better", 0.2),
    "target: interval holds it": (new(1.2, (0.9, 1.5), 1.0), 1.0, "changed", 0.2),
    "defined anew": (entry(0.5, definition="other"), 0.8, "new", None),
}


@pytest.mark.parametrize(("received", "accepted", "state", "amount"), CASES.values(), ids=CASES)
def test_a_score_is_compared_with_the_accepted_one(
    received: dict, accepted: float | None, state: str, amount: float | None
) -> None:
    """Unchanged checkpoints may not move; new ones may not be surely worse; better is reported."""
    result = compare(received, None if accepted is None else entry(accepted), TOLERANCE)
    assert (state, amount if amount is None else pytest.approx(amount)) == (
        result.state,
        result.amount,
    )


@pytest.mark.parametrize(
    ("received", "cause"),
    [
        (new(0.5, (0.4, 0.6)), "fell_behind"),
        (entry(0.5), "moved"),
        (entry(0.8, definition="other"), "redefined"),
        (entry(0.8) | {"name": "another"}, "redefined"),
    ],
)
def test_what_makes_a_claim_red_that_holds(received: dict, cause: str) -> None:
    """Behind, moved, or of another definition or quantity."""
    assert (
        compare(
            received, entry(0.8) | {"name": "one"} if "name" in received else entry(0.8), TOLERANCE
        ).cause
        == cause
    )


@pytest.mark.parametrize(
    ("state", "red"),
    [
        ("nothing accepted", False),
        ("unchanged", False),
        ("beyond atol", True),
        ("new, equal", False),
        ("new, surely worse", True),
        ("new, better", False),
    ],
)
def test_only_worse_and_moved_are_red(state: str, red: bool) -> None:
    """A better score and a first one do not fail a release."""
    received, accepted, *_ = CASES[state]
    assert red == compare(received, accepted and entry(accepted), TOLERANCE).red


@pytest.mark.parametrize(
    ("case", "allowed", "reason"),
    [
        ("nothing accepted", 0.05, "no baseline yet; --snapshot-update accepts this score"),
        ("unchanged", 0.001, "matches the baseline 0.800"),
        (
            "beyond atol",
            0.001,
            "the score moved from 0.8000 to 0.8020 (allowed 0.001) on unchanged checkpoints: the tool "
            "or the machine changed",
        ),
        (
            "new, surely worse",
            0.05,
            "0.070 below the baseline 0.800 (allowed 0.05, significant)",
        ),
        ("new, better", 0.05, "0.100 above the baseline 0.800"),
        ("new, a little worse", 0.05, "0.040 below the baseline 0.800"),
        (
            "lower is better: worse",
            0.05,
            "0.100 above the baseline 0.200 (allowed 0.05, significant)",
        ),
        (
            "target: worse below",
            0.05,
            "0.200 below the baseline 1.000, 0.200 farther from 1 (allowed 0.05, significant)",
        ),
        ("target: nearer", 0.05, "0.200 above the baseline 0.800, 0.200 nearer to 1"),
        ("target: as far", 0.05, "0.200 above the baseline 0.900, equally far from 1"),
        ("new, equal", 0.05, "equal to the baseline 0.800"),
    ],
)
def test_a_drift_says_what_happened_and_what_was_allowed(
    case: str, allowed: float, reason: str
) -> None:
    """The reason is one line with both scores and the tolerance that applied."""
    received, accepted, *_ = CASES[case]
    result = compare(received, accepted and entry(accepted), TOLERANCE)
    assert (allowed, reason) == (result.allowed, result.reason)


@pytest.mark.parametrize(
    ("now", "what"),
    [
        ({"dtype": "float32"}, "the tool or the machine changed"),
        (
            {"dtype": "float32, 4bit weights", "versions": {"torch": "2", "numpy": "1"}},
            "the tool, the machine or one of these changed: dtype float32, 4bit weights (baseline: float32), "
            "torch 2 (baseline: 1)",
        ),
    ],
)
def test_what_was_set_otherwise_is_named_beside_the_machine(now: dict, what: str) -> None:
    """Of a score that moved on unchanged checkpoints: dtype, device, engine, libraries."""
    before = {"dtype": "float32", "versions": {"torch": "1", "numpy": "1"}}
    moved = compare(
        entry(0.9) | {"setting": before | now}, entry(0.8) | {"setting": before}, TOLERANCE
    )
    assert moved.red
    assert moved.finding.endswith(f"on unchanged checkpoints: {what}")


NOT_NUMBERS = [float("nan"), float("inf"), -float("inf"), None, "0.8", True, [0.8]]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
@pytest.mark.parametrize("fingerprints", ["old", "new"])
def test_an_accepted_score_that_is_no_number_matches_nothing(
    value: object, fingerprints: str
) -> None:
    """NaN or infinity in a stored file would otherwise let any score pass."""
    received = entry(0.8, fingerprints=fingerprints)
    with pytest.raises(ValueError, match="is not a finite number"):
        compare(received, {**entry(0.8), "value": value}, TOLERANCE)


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_a_received_score_that_is_no_number_is_refused(value: object) -> None:
    """Neither the score nor an end of its interval may be anything but finite."""
    for wrong in ({"value": value}, {"interval": (value, 0.9)}, {"interval": (0.7, value)}):
        with pytest.raises(ValueError, match="is not a finite number"):
            compare({**new(0.8), **wrong}, entry(0.8), TOLERANCE)


@settings(max_examples=150, deadline=None)
@given(
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(0, 1),
    st.sampled_from(["higher", "lower", 1.0]),
    st.floats(0, 0.5),
)
def test_a_score_that_got_no_worse_is_never_red(
    old: float, value: float, half: float, better: str | float, drift: float
) -> None:
    """On new checkpoints only a loss of the value itself beyond the tolerance can be red."""
    loss = {"higher": old - value, "lower": value - old}.get(better, abs(value - 1) - abs(old - 1))
    received = new(value, (value - half, value + half), better)
    result = compare(received, entry(old), Tolerance(0.001, drift))
    assert (result.red and loss <= drift - 1e-12) is False
    assert (result.state == "better") == (loss < -drift)


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        ({"2.0": 0.0, "2.1": -0.06}, {"2.0": 0.055, "2.1": -0.06}, "moved"),
        ({"2.0": 0.06, "2.1": -0.06}, {"2.0": 0.06, "2.1": -0.0601}, "same"),
    ],
    ids=["another member jumped", "the farthest member is another one by rounding"],
)
def test_an_unchanged_profile_is_compared_member_by_member(
    old: dict[str, float], new: dict[str, float], state: str
) -> None:
    """The score is that of the farthest member, which may be another one each time."""

    def profile(members: dict[str, float]) -> dict:
        value = max(members.values(), key=abs)
        return {**entry(value), "members": {name: [x, 0.01] for name, x in members.items()}}

    assert compare(profile(new), profile(old), TOLERANCE).state == state
