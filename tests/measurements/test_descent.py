"""Optimiser and schedule of a training, as settings."""

from __future__ import annotations

import math

import pytest

from pytest_mechanism.measurements.curve import TrainingCurve
from pytest_mechanism.measurements.descent import ADAMW, Descent, make_descent, too_gentle
from pytest_mechanism.measurements.recipe import Recipe

PAPER = Descent("sgd", 0.9, warm_up=4, decay="cosine")


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    """The full rate at the end of the warm-up, half of it midway through the decay, zero at the last step."""
    shares = [PAPER.share(step, 12) for step in range(1, 13)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[7] == pytest.approx(0.5)
    assert shares[11] == 0
    assert shares[3:] == sorted(shares[3:], reverse=True)
    assert {ADAMW.share(step, 12) for step in range(1, 13)} == {1.0}


@pytest.mark.parametrize("descent", [ADAMW, PAPER, Descent(warm_up=3), Descent(decay="cosine")])
def test_the_sum_of_the_shares_has_a_closed_form(descent: Descent) -> None:
    summed = math.fsum(descent.share(step, 17) for step in range(1, 18))
    assert descent.full_steps(17) == pytest.approx(summed)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("adamw", 0.9, 0, "none", 10), "momentum: only SGD takes it; valid with optimiser sgd"),
        (("adamw", 0.0, 0, "none", 10), "momentum: only SGD takes it; valid with optimiser sgd"),
        (
            ("sgd", None, 10, "none", 10),
            "warm_up: 10 of 10 steps never reach the learning rate; valid: less than steps",
        ),
        (
            ("adamw", None, 0, "cosine", 1),
            "decay: the last step has a learning rate of 0; valid: 2 steps or more",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(settings: tuple, says: str) -> None:
    with pytest.raises(ValueError, match="^" + says.replace("(", r"\(") + "$"):
        make_descent(*settings)


def test_sgd_has_momentum_unless_the_user_says_0() -> None:
    assert make_descent("sgd", None, 0, "none", 10) == Descent("sgd", 0.9)
    assert make_descent("sgd", 0.0, 0, "none", 10) == Descent("sgd", 0.0)


@pytest.mark.parametrize(
    ("descent", "rate", "gentle"),
    [
        (ADAMW, 1e-6, False),
        (ADAMW, 0.9e-6, True),
        (Descent(decay="cosine"), 1.5e-6, True),
        (Descent("sgd"), 1e-3, False),
        (Descent("sgd"), 0.9e-3, True),
        (Descent("sgd", 0.9), 1.1e-4, False),
        (Descent("sgd", 0.9), 0.9e-4, True),
        (Descent("sgd", 0.9, warm_up=8), 1.1e-4, True),
    ],
)
def test_a_training_that_cannot_change_a_model_is_refused(
    descent: Descent, rate: float, gentle: bool
) -> None:
    """Ten steps: AdamW must move a weight by 1e-5, SGD all weights together by 1e-2; schedule and momentum count."""
    assert (too_gentle(descent, rate, 10) is not None) == gentle


def test_a_refused_rate_comes_with_a_valid_rate() -> None:
    why = str(too_gentle(Descent("sgd", 0.9), 1e-5, 10))
    assert why == (
        "10 steps at 1e-05 move all weights together, by SGD, by no more than 1e-03, which changes no "
        "model; valid: a rate from 1e-04, or more steps"
    )


@pytest.mark.parametrize("steps", [3, 7, 10, 30, 49, 70])
@pytest.mark.parametrize("descent", [ADAMW, Descent("sgd", 0.9), Descent("sgd", 0.7, 2, "cosine")])
def test_the_rate_that_a_message_names_is_valid(descent: Descent, steps: int) -> None:
    """Its one digit is rounded up."""
    why = str(too_gentle(descent, 1e-7, steps))
    named = float(why.split("a rate from ")[1].partition(",")[0])
    assert too_gentle(descent, named, steps) is None
    assert too_gentle(descent, named / 2.1, steps) is not None


def test_a_descent_in_words() -> None:
    assert str(ADAMW) == "AdamW"
    assert str(Descent("sgd", 0.9)) == "SGD with momentum 0.9"
    assert str(PAPER) == "SGD with momentum 0.9, 4 steps of warm-up and cosine decay"


def test_stored_results_of_the_default_keep_their_key() -> None:
    """The request of a training with AdamW at a constant rate reads as it did before there was a choice."""
    recipe = Recipe("capability", 1e-3, 30, every=10, seed=0, batch=4)
    request = TrainingCurve(recipe=recipe, watch="capability", rows=5, stream="rows")
    assert request.spelled() == (
        '{"recipe":{"batch":4,"data_mix":"capability","every":10,"file":"","lora":null,"rate":0.001,'
        '"seed":0,"steps":30},"rows":5,"stream":"rows","watch":"capability"}'
    )


def test_what_an_optimiser_remembers_counts_as_memory() -> None:
    """AdamW has two numbers for each weight, SGD one for its momentum, or none."""

    def copies(descent: Descent) -> int:
        recipe = Recipe("capability", 1e-3, 30, every=10, seed=0, batch=4, descent=descent)
        request = TrainingCurve(recipe=recipe, watch="capability", rows=5, stream="rows")
        return request.cost({}).weight_copies

    assert [copies(d) for d in (ADAMW, Descent("sgd", 0.9), Descent("sgd"))] == [4, 3, 2]
