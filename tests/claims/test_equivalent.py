"""The equivalence test: its interval, its level, and what it does not call equivalent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.equivalent import Equivalent, half_a_row_wider
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.plugin.score_entry import score_entry
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.estimates import Sampling, difference
from pytest_mechanism.statistics.power import power
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.types import Observations, Setting, Verdict

N = 420
IDS = [f"rows-{i}" for i in range(N)]
CLUSTERS = [f"context-{i // 7}" for i in range(N)]
TASK = EntityTracking(EntityTrackingParameters(family="entity_tracking", rows=N))
SHAPE = Shape(4, 8, 8, 64, 8, 300)
CONTEXT = ClaimContext(
    "pair", {}, Ablation(), TASK, 0.95, {"base": SHAPE, "ft": SHAPE},
    Setting(0, "float32", "cpu", "reference"),
)  # fmt: skip


def judged(base: Any, ft: Any, margin: float, **fields: Any) -> Verdict:
    claim = Equivalent.model_validate({"kind": "equivalent", "margin": margin, **fields})
    columns = {"base": base, "ft": ft}

    def measure(measurement: Measurement) -> Observations:
        correct = columns[measurement.on]
        values = {"correct": (correct > -1).astype(float), str(fields.get("of")): correct}
        return Observations(IDS, CLUSTERS, values if fields else {"correct": correct})

    return claim.judge(CONTEXT, measure)


def correct(rng: np.random.Generator, accuracy: float, lost: float) -> tuple[Any, Any]:
    """A model, and another that is right in fewer rows by ``lost`` in the mean."""
    base = (rng.random(N) < accuracy).astype(float)
    return base, np.where(rng.random(N) < lost / accuracy, 0.0, base)


def test_the_interval_is_that_of_two_one_sided_tests_at_five_percent() -> None:
    """As the normal one of 90 %: 1.645 standard errors to each side, and half a row."""
    base, ft = correct(np.random.default_rng(0), 0.8, 0.05)
    score = judged(base, ft, 0.1).score
    error = np.std(ft - base, ddof=1) / np.sqrt(N)
    assert score.value == pytest.approx(np.mean(ft - base))
    half = 1.645 * error + 0.5 / N
    assert score.interval == pytest.approx((score.value - half, score.value + half), abs=0.004)
    assert score.confidence == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("lost", "margin", "status"),
    [(0.0, 0.05, "pass"), (0.02, 0.05, "pass"), (0.05, 0.05, "inconclusive"), (0.2, 0.05, "fail")],
)
def test_only_an_interval_inside_the_margin_is_equivalent(
    lost: float, margin: float, status: str
) -> None:
    """A difference that is not significant is not enough, and one outside is refuted."""
    verdict = judged(*correct(np.random.default_rng(1), 0.8, lost), margin)
    assert verdict.status == status
    assert verdict.threshold == "differs by at most 0.05"
    assert [verdict.judged[0].low, verdict.judged[0].high] == [-0.05, 0.05]


def test_log_probabilities_are_compared_in_nats() -> None:
    rng = np.random.default_rng(0)
    base = -np.abs(rng.normal(0.2, 0.1, N))
    verdict = judged(base, base - 0.05 + rng.normal(0, 0.1, N), 0.1, of="log_probability")
    assert verdict.status == "pass"
    assert verdict.score.value == pytest.approx(-0.05, abs=0.02)
    assert verdict.score.control.value == pytest.approx(np.log(1 / 7) - base.mean())


def test_logit_differences_are_compared_in_logits() -> None:
    """A model that prefers no option has 0. A model that leaves most probability to other words is below guesses among
    the options by its log-probability, and the message says what to compare."""
    rng = np.random.default_rng(0)
    base = rng.normal(3, 1, N)
    verdict = judged(base, base - 0.05 + rng.normal(0, 0.1, N), 0.1, of="logit_difference")
    assert (verdict.status, verdict.score.control.value) == ("pass", pytest.approx(-base.mean()))
    unsure = np.where(np.arange(N) % 2, -0.99, -3.99)
    verdict = judged(unsure, unsure, 0.1, of="log_probability")
    assert (verdict.status, verdict.cause) == ("inconclusive", "control_as_good")
    assert verdict.reason.endswith("of: logit_difference compares the options alone")


@pytest.mark.parametrize(
    ("moved", "status"), [(-0.5, "fail"), (-0.1, "inconclusive"), (0.0, "pass"), (0.5, "pass")]
)
def test_a_model_that_may_improve_is_red_only_if_it_is_worse(moved: float, status: str) -> None:
    """Half a nat surer passes; without the field it fails."""
    base = np.linspace(-0.9, -0.6, N)
    now = base + moved + 0.1 * np.random.default_rng(0).normal(size=N)
    fields = {"of": "log_probability"}
    verdict = judged(base, now, 0.1, **fields, may_improve=True)
    assert (verdict.status, verdict.judged[0].high) == (status, None)
    assert verdict.threshold == "is worse by at most 0.1"
    if moved > 0:
        assert judged(base, now, 0.1, **fields).status == "fail"


@pytest.mark.parametrize(
    ("of", "moved", "said"),
    [
        ("log_probability", -0.5, "ft is less sure of the right answers than base"),
        ("log_probability", 0.5, "ft is more sure of the right answers than base"),
        ("accuracy", -0.5, "ft answers fewer questions right than base"),
    ],
)
def test_a_refuted_equivalence_says_what_differs(of: str, moved: float, said: str) -> None:
    """Log-probabilities say nothing of how many answers are right; the sign says which model is ahead."""
    base = np.linspace(-0.9, -0.6, N) if of == "log_probability" else np.ones(N)
    now = base + moved if of == "log_probability" else np.arange(N) % 2
    verdict = judged(base, now, 0.1, **({"of": of} if of == "log_probability" else {}))
    claim = Equivalent.model_validate({"kind": "equivalent", "margin": 0.1, "of": of})
    assert verdict.status == "fail"
    assert claim.refuted(verdict) == said


def test_a_reference_hardly_better_than_guessing_has_no_equal() -> None:
    """Within such a margin a model that guesses would be equivalent too."""
    base, _ = correct(np.random.default_rng(0), 0.3, 0.0)
    verdict = judged(base, base, 0.2)
    assert (verdict.status, verdict.cause) == ("inconclusive", "control_as_good")
    assert "guessing would be equivalent too" in verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("lost", [-0.05, 0.05])
def test_models_exactly_at_the_margin_pass_in_one_draw_of_twenty(lost: float) -> None:
    """Of 300 draws at most 5 % and two standard errors of it, on either side of the margin."""
    rng = np.random.default_rng(7)
    passes = 0
    for _ in range(300):
        base, ft = correct(rng, 0.8, abs(lost))
        passes += judged(*((base, ft) if lost > 0 else (ft, base)), 0.05).status == "pass"
    assert 1 <= passes <= 300 * 0.05 + 2 * (300 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize(("rows", "margin"), [(140, 0.05), (200, 0.02), (200, 0.05)])
def test_few_lost_rows_at_the_margin_pass_in_one_draw_of_twenty(rows: int, margin: float) -> None:
    """Exactly, over all numbers of rows that a model at the margin may lose; none gained."""
    passing = []
    for lost in range(round(rows * margin) + 1):
        how = Sampling([str(i) for i in range(rows)], 0.9, 0)
        gap = half_a_row_wider(difference(np.arange(rows) >= lost, np.ones(rows), how))
        if gap.interval[0] >= -margin:
            passing.append(lost)
    assert passing[0] == 0
    assert 0 < binom.cdf(passing[-1], rows, margin) <= 0.05


def test_a_model_that_does_not_read_the_prompt_is_not_equivalent() -> None:
    """Its answers fit other rows almost as often as those of the reference fit their own."""
    rng = np.random.default_rng(0)
    base = (rng.random(N) < 0.95).astype(float)
    claim = Equivalent.model_validate({"kind": "equivalent", "margin": 0.15})
    values = {"correct": base, "elsewhere": np.full(N, 0.85)}
    verdict = claim.judge(CONTEXT, lambda _: Observations(IDS, CLUSTERS, values))
    assert (verdict.status, verdict.cause) == ("inconclusive", "control_as_good")
    assert "answers of other rows would be equivalent too" in verdict.reason


def test_power_reads_the_confidence_of_the_two_tests(tmp_path: Any) -> None:
    """An accepted score keeps it, and `lint --power` says 5 % of models at the margin; without it, that
    the interval is the usual one of 95 %."""
    (tmp_path / "x.yaml").write_text(
        "mechanism: 1\ncircuit: x\ntask: {family: entity_tracking, rows: 420}\n"
        "claims: {same: {kind: equivalent, margin: 0.05}}\n"
    )
    spec = load(tmp_path / "x.yaml")
    verdict = judged(*correct(np.random.default_rng(1), 0.8, 0.01), 0.05)
    entry = score_entry(spec, spec.claims["same"], verdict)
    assert entry["judged"][0]["confidence"] == pytest.approx(0.9)
    own, other = power(entry["judged"], 0.95), power(
        [{k: v for k, v in entry["judged"][0].items() if k != "confidence"}], 0.95
    )  # fmt: skip
    assert (own.false_pass, other.false_pass) == (pytest.approx(0.05), pytest.approx(0.025))
    assert own.rows == other.rows  # they follow from the interval itself
