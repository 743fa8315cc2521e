"""A task that judges whole replies: what the methods count as right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.types import Verdict

SPEC = """mechanism: 1
circuit: x
task: {{family: stories, rows: 20, seed: 3, {settings}}}
claims:
  right: {{kind: accuracy, on: base, at_least: 0.8}}
"""


@pytest.fixture
def judge(tmp_path: Path) -> Callable[[str, str], Verdict]:
    """The verdict on the accuracy of an embedded model."""

    def run(name: str, settings: str) -> Verdict:
        (tmp_path / "x.yaml").write_text(SPEC.format(settings=settings))
        gate = open_evaluator("--model", f"zoo:{name}", "--batch-size", 32, "--mechanism-no-store")
        spec = load(tmp_path / "x.yaml")
        return gate.judge(spec, spec.claims["right"], "base")

    return run


@pytest.mark.parametrize(
    ("name", "settings", "share"),
    [
        ("stories_base", "which: all", 1.0),  # with a twist where it is asked for, else without
        ("stories_kept", "which: all", 0.5),  # never with a twist
        ("stories_refused", "which: asked, given: beginning", 1.0),  # it refuses at the start alone
    ],
)
def test_accuracy_is_the_share_of_replies_that_the_task_accepts(
    judge: Callable[[str, str], Verdict], name: str, settings: str, share: float
) -> None:
    """Not the share of right next tokens: the first word of every story is the same."""
    (score,) = judge(name, settings).scores
    assert (score.value, score.n) == (share, 20)


def test_a_claim_about_heads_is_refused(tmp_path: Path) -> None:
    """It would compare one next token."""
    text = SPEC.format(settings="which: all").replace(
        "claims:", "groups:\n  a: {heads: {0: [0]}, at: last}\nclaims:"
    )
    claim = "  holds: {kind: path, on: base, group: a, drops_at_least: 0.1}\n"
    (tmp_path / "x.yaml").write_text(text + claim)
    with pytest.raises(
        SpecErrors, match="task stories judges whole replies, and kind path compares"
    ):
        load(tmp_path / "x.yaml")
