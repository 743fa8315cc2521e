"""Half precision: stored, loaded, sharded, and in a pair with another dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import FAMILIES, QUICK, random_model, save
from opening import opened
from small_requests import CROSSED, DONATED, PATCHED, ROWS, SENDERS, TASK
from torch import Tensor

from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.reference import parse_pair
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.engine.selfcheck import residual_adds_up
from pytest_mechanism.errors import MechanismError, SelfCheckError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.rounding_error import rounding_error
from pytest_mechanism.registry import resolve
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.types import canonical

ContextFactory = Callable[..., MeasurementContext]


def measured(context: MeasurementContext, method: str) -> Any:
    request = PATCHED[method]
    return resolve(request.implementation)(context, request, [])


HALF = [  # float16 rounds less; those with norms, mixtures and parallel blocks stand for the rest
    *(
        pytest.param(name, "bfloat16", marks=() if name in QUICK else pytest.mark.slow)
        for name in FAMILIES
    ),
    *((name, "float16") for name in ("llama3", "gemma2", "neox", "olmo2", "gpt-oss")),
]


@pytest.mark.parametrize(("name", "dtype"), HALF)
def test_half_precision_says_nearly_the_same(
    context_of: ContextFactory, name: str, dtype: str
) -> None:
    """All self-checks pass on the same engine. In units of the standard deviation over rows, the mean score
    is within .05 of float32's, each row within .2, and each head's effect agrees."""
    half, whole = context_of(name, dtype=dtype), context_of(name)
    assert half.model.dtype == getattr(torch, dtype)
    assert half.engine.name == FAMILIES[name].engine, half.fallback_reason
    rounded_scores, scores = (
        measured(b, "performance").values["log_probability"] for b in (half, whole)
    )
    assert rounded_scores.dtype == np.float64
    assert abs(rounded_scores.mean() - scores.mean()) < 0.05 * scores.std()
    assert np.abs(rounded_scores - scores).max() < 0.2 * scores.std()
    effects = [
        np.array([observed.values[sender].mean() for sender in SENDERS])
        for observed in (measured(b, "path to the logits") for b in (half, whole))
    ]
    assert np.corrcoef(*effects)[0, 1] > 0.95


def test_a_coordinate_far_above_all_others_is_no_broken_layer(tmp_path: Path) -> None:
    """Trained models have such: rounded in bfloat16, it is off by more than the others differ. A
    part that is left out is seen all the same."""
    model = random_model("neox", hidden_size=256, initializer_range=0.1)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 3] = 3008.0
        for layer in model.gpt_neox.layers:  # 3008 + 14 is 3024 in bfloat16, 3008 + 7 + 7 is 3008
            layer.attention.dense.bias[3] = layer.mlp.dense_4h_to_h.bias[3] = 7.0
    context = opened(save(model, tmp_path), dtype="bfloat16")
    tokens = context.batch(TASK.rows(context.vocabulary, 4, "test")).base.tokens
    assert context.fallback_reason is None

    class Deaf(ReferenceEngine):
        """Reads half of what attention writes."""

        def forward(self, tokens: Any, edits: Any, readings: Any, knockouts: Any = ()) -> Any:
            outcome = super().forward(tokens, edits, readings, knockouts)
            read: list[Tensor] = list(outcome.readings)
            read[1] = read[1] / 2
            return type(outcome)(outcome.logits, tuple(read))

    with pytest.raises(SelfCheckError, match="of layer 0 differ from resid_post"):
        residual_adds_up(context.model, Deaf(context.model.wrapped), tokens, 0.1)


def rounded(name: str, seed: int = 0) -> Any:
    """A float32 model whose weights bfloat16 can say."""
    return random_model(name, seed).to(torch.bfloat16).float()


@pytest.mark.parametrize("name", ["llama3", "gemma2", "mixtral"])
def test_weights_in_several_files_are_the_same_weights(name: str, tmp_path: Path) -> None:
    """Stored in bfloat16 and in shards, run in float32 by default."""
    plain = opened(save(rounded(name), tmp_path / "plain"))
    shards = save(rounded(name).to(torch.bfloat16), tmp_path / "shards", max_shard_size="12KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 2
    several = opened(shards)
    assert several.model.dtype == torch.float32
    assert torch.equal(several.model.plain_logits, plain.model.plain_logits)
    assert several.fallback_reason is None


def test_a_shard_that_is_missing_is_one_line(tmp_path: Path) -> None:
    folder = save(rounded("llama3"), tmp_path / "shards", max_shard_size="12KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(MechanismError) as problem:
        opened(folder)
    assert "which is missing" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_pair_stored_in_two_dtypes_has_the_scores_of_its_twin(tmp_path: Path) -> None:
    """Weights that both dtypes can say: not one row differs, whichever side donates."""
    stored = torch.bfloat16
    base = save(rounded("llama3").to(stored), tmp_path / "base")
    ft = save(rounded("llama3", 1), tmp_path / "ft")
    twin = save(rounded("llama3", 1).to(stored), tmp_path / "twin")
    result = []
    for other in (ft, twin):
        pair = dict(
            zip(("base", "ft"), parse_pair(f"{base},ft={other}", {}, tmp_path), strict=True)
        )
        runner = Runner(pair, {role: of_reference(r) for role, r in pair.items()}, ModelOptions())
        settings = canonical(TASK.settings.model_dump(mode="json") | {"revision": TASK.revision})
        wanted = [Measurement(Performance(**ROWS), role, settings) for role in pair] + [
            Measurement(CROSSED, on, settings, (Measurement(DONATED, donor, settings),))
            for on, donor in (("base", "ft"), ("ft", "base"))
        ]
        result.append([runner.measure(measurement).values for measurement in wanted])
        runner.checkpoint.release()
    for of_pair, of_twin in zip(*result, strict=True):
        assert {n: v.tolist() for n, v in of_pair.items()} == {
            n: v.tolist() for n, v in of_twin.items()
        }


def test_rounding_is_the_larger_of_two_changes(
    context_of: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a batch to each row alone, and from the engine to the reference engine; in float32 both are next to
    nothing. It is measured where arithmetic is in half precision."""
    half, whole = context_of("llama3", dtype="bfloat16"), context_of("llama3")
    rows = whole.task.rows(whole.vocabulary, 8, "self-check")
    reference = ReferenceEngine(whole.model.wrapped)
    assert whole.rounding is None
    assert half.rounding is not None
    assert rounding_error(whole, reference, rows) < 1e-4
    for alone, other, larger in ((0.3, 0.4, 0.4), (0.3, 0.1, 0.3)):
        monkeypatch.setattr(
            "pytest_mechanism.methods.rounding_error.of_run_and_branch",
            lambda engine, _, words, alone=alone, other=other: torch.full(
                (2, len(words)), other if engine is reference else alone * (len(words) == 1)
            ),
        )
        assert rounding_error(whole, reference, rows) == pytest.approx(larger)
