"""The profile of a circuit on models whose heads are known, and heads matched by what they write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pytest_mechanism.measurements.profile import EffectProfile
from pytest_mechanism.methods.circuits import profile
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import Observations

ContextFactory = Callable[[str], MeasurementContext]
ROWS = 28
HEADS = [(layer, head) for layer in range(4) for head in range(4)]
MLPS = [(layer, "mlp") for layer in range(4)]


def effects(context: MeasurementContext, senders: dict[str, list], **more: object) -> Observations:
    request = EffectProfile(rows=ROWS, stream="pairs", senders=senders, at="last", **more)
    return profile.measure(context, request, [])


def shares(found: Observations) -> dict[str, float]:
    total = np.mean(found.values[profile.TOTAL])
    return {name: float(np.mean(values) / total) for name, values in found.values.items()}


def test_all_heads_and_mlps_together_do_what_the_source_prompt_does(
    context_of: ContextFactory,
) -> None:
    """Known answer: the last token is the same word in both prompts, so everything else that the logits read
    comes from a head or an MLP. Row by row."""
    found = effects(context_of("ft"), {"all": [*HEADS, *MLPS]})
    np.testing.assert_allclose(found.values["all"], found.values[profile.TOTAL], rtol=0, atol=1e-3)


def test_the_transmitter_alone_tells_the_fetchers_which_object(
    context_of: ContextFactory, spec: Spec
) -> None:
    """Known answer: head 2.2, and nobody else; in no order of heads is this so for another."""
    readers = spec.groups["value_fetcher"].members()
    senders = {f"{layer}.{head}": [(layer, head)] for layer, head in HEADS if layer < 3}
    found = shares(effects(context_of("ft"), senders, receivers=readers, via="q"))
    own, total = found.pop("2.2"), found.pop(profile.TOTAL)
    assert (own > 0.6, total) == (True, 1.0)
    assert max(abs(share) for share in found.values()) < 0.05


def test_random_weights_tell_nobody_anything(context_of: ContextFactory, spec: Spec) -> None:
    """Null: no head moves the answer's logit by a tenth through the fetchers' queries."""
    readers = spec.groups["value_fetcher"].members()
    senders = {f"{layer}.{head}": [(layer, head)] for layer, head in HEADS if layer < 3}
    found = effects(context_of("random"), senders, receivers=readers, via="q")
    assert max(abs(float(np.mean(found.values[name]))) for name in senders) < 0.1
