"""What counts as right: one answer, or any of several."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.methods.readout import correct, log_probability, log_sum_exp

VOCABULARY = 12


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_one_right_answer_is_read_as_without_sets(seed: int, rows: int) -> None:
    """To the last bit: no number of a task with one answer changes."""
    torch.manual_seed(seed)
    logits = torch.randn(rows, VOCABULARY) * 5
    wanted = torch.randint(VOCABULARY, (rows,))
    sets = wanted[:, None]
    assert torch.equal(correct(logits, sets), logits.argmax(-1) == wanted)
    plain = logits.log_softmax(-1).gather(1, sets)[:, 0]
    assert torch.equal(log_probability(logits, sets), plain)
    assert torch.equal(log_sum_exp(logits, sets), logits.gather(1, sets)[:, 0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, VOCABULARY - 1), min_size=1), min_size=1), st.integers(0))
def test_several_right_answers_share_their_probability(sets: list[set[int]], seed: int) -> None:
    """The log-probability of a set is that of the sum over its members, for sets of different sizes in one
    batch."""
    torch.manual_seed(seed % 2**32)
    logits = torch.randn(len(sets), VOCABULARY, dtype=torch.float64) * 3
    most = max(map(len, sets))
    right = torch.tensor([sorted(answers) + [-1] * (most - len(answers)) for answers in sets])
    chances = logits.softmax(-1)
    for i, answers in enumerate(sets):
        assert bool(correct(logits, right)[i]) == (int(logits[i].argmax()) in answers)
        result = float(log_probability(logits, right)[i].exp())
        assert result == pytest.approx(float(chances[i, sorted(answers)].sum()))


def test_a_set_has_a_gradient_where_rows_have_fewer() -> None:
    """A missing answer takes no part, and makes no gradient that is not a number."""
    logits = torch.zeros(2, 4, requires_grad=True)
    log_probability(logits, torch.tensor([[0, 1], [2, -1]])).sum().backward()
    assert logits.grad is not None
    assert torch.allclose(
        logits.grad, torch.tensor([[0.25, 0.25, -0.25, -0.25], [-0.25, -0.25, 0.75, -0.25]])
    )
