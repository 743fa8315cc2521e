"""What a DCM mask is learned on and mixes: MLPs, the published steps, shuffled targets, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.dcm import DcmMask, streams
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.methods.circuits import dcm, interchange
from pytest_mechanism.methods.circuits.dcm import DcmSettings, patched, shuffle_targets, source_z
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.random_weights import random_weights
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.writing.parts import part_of_stream

ContextFactory = Callable[[str], MeasurementContext]
HEADS = [[1, 3, "query_label"], [2, 0, "query_label"], [2, 2, "query_label"]]
MLPS = [(1, "query_label"), (2, "query_label")]
SHARES = (0.25, 0.5, 1.0, 0.75, 0.0)
"""Of the old value: of the heads in order, then of the MLPs."""


# -- MLPs


def mixed_by_hooks(tokens: Any, other: Any, places: Any, other_places: Any) -> torch.Tensor:
    """The last tokens' logits of plain transformers, where heads and MLPs are mixed at one position."""
    model = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float64).eval()
    rows = torch.arange(len(places))
    kept: dict[str, torch.Tensor] = {}
    width = model.config.head_dim

    def z(name: str, shares: dict[int, float]) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor]) -> Any:
            values = inputs[0].clone()
            if name not in kept:
                kept[name] = values[rows, other_places]
                return None
            for head, share in shares.items():
                part = slice(head * width, (head + 1) * width)
                old = values[rows, places, part]
                values[rows, places, part] = share * old + (1 - share) * kept[name][:, part]
            return (values,)

        return hook

    def mlp(name: str, share: float) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> Any:
            if name not in kept:
                kept[name] = output[rows, other_places]
                return None
            values = output.clone()
            values[rows, places] = share * output[rows, places] + (1 - share) * kept[name]
            return values

        return hook

    layers = model.model.layers
    layers[1].self_attn.o_proj.register_forward_pre_hook(z("z1", {3: SHARES[0]}))
    layers[2].self_attn.o_proj.register_forward_pre_hook(z("z2", {0: SHARES[1], 2: SHARES[2]}))
    layers[1].mlp.register_forward_hook(mlp("mlp1", SHARES[3]))
    layers[2].mlp.register_forward_hook(mlp("mlp2", SHARES[4]))
    with torch.no_grad():
        model(other.ids)
        return model(tokens.ids).logits[rows, tokens.last]


def test_heads_and_mlps_are_mixed_as_plain_hooks_mix_them(base_context: MeasurementContext) -> None:
    """Within 1e-5, by either engine."""
    rows = base_context.task.interchange(base_context.vocabulary, "position", 14, "test")
    batch = base_context.batch(rows)
    source = batch.require_source()
    values = source_z(base_context, HEADS, batch, MLPS)
    run = base_context.engine.run(batch.base.tokens)
    logits = patched(run, HEADS, batch, values, torch.tensor(SHARES), False, MLPS)
    places, others = (side.at("query_label")[:, 0] for side in (batch.base, source))
    expected = mixed_by_hooks(batch.base.tokens, source.tokens, places, others)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    plain = base_context.engine.run(batch.base.tokens).outcome.logits
    assert float((logits - plain).abs().max()) > 0.1


def test_an_mlps_share_has_the_gradient_of_a_difference(base_context: MeasurementContext) -> None:
    """The gradient in each share is what central differences give."""
    rows = base_context.task.interchange(base_context.vocabulary, "position", 7, "test")
    batch = base_context.batch(rows)
    values = source_z(base_context, HEADS, batch, MLPS)

    def mean_logit(mask: torch.Tensor, gradients: bool = False) -> torch.Tensor:
        run = base_context.engine.run(batch.base.tokens)
        logits = patched(run, HEADS, batch, values, mask, gradients, MLPS)
        return logits.gather(1, batch.targets[:, None]).mean()

    mask = torch.full((5,), 0.5, requires_grad=True)
    with torch.enable_grad():
        mean_logit(mask, gradients=True).backward()
    steps = 0.05 * torch.eye(5)
    differences = [(mean_logit(0.5 + s) - mean_logit(0.5 - s)) / 0.1 for s in steps]
    assert mask.grad.tolist() == pytest.approx([float(d) for d in differences], rel=0.05, abs=5e-3)
    assert float(mask.grad[3].abs()) > 1


def test_patching_all_heads_and_mlps_at_the_last_token_gives_the_sources_answer(
    context_of: ContextFactory,
) -> None:
    """What the last token reads and adds is then the source's, so the source's object comes out."""
    request = Interchange(
        heads=[[layer, head] for layer in range(4) for head in range(4)],
        control=[],
        at="last",
        variable="object",
        rows=42,
        mlps=range(4),
        control_mlps=[3],
    )
    values = interchange.measure(context_of("ft"), request, []).values
    assert np.mean(values["patched"]) >= 0.95
    assert np.mean(values["control"]) <= 0.05


# -- the published steps


def test_the_published_training_evaluates_after_the_first_step_of_every_four() -> None:
    """1, 5, ..., 29 of 32 in each of 2 epochs, 16 times; the standard is after the fourth and the last."""
    steps = range(1, 65)
    published = DcmSettings(training="published")
    first = [*range(1, 32, 4)]
    assert [s for s in steps if published.evaluated(s, 64)] == first + [32 + s for s in first]
    assert [s for s in steps if DcmSettings().evaluated(s, 64)] == [*range(4, 65, 4)]
    assert [s for s in range(1, 7) if DcmSettings(epochs=1).evaluated(s, 6)] == [4, 6]


def test_both_trainings_share_the_published_numbers() -> None:
    """Lambda, rate, epochs, batch and rows (Prakash et al., appendix; published code)."""
    for training in ("standard", "published"):
        s = DcmSettings(training=training)
        numbers = s.sparsity, s.learning_rate, s.epochs, s.batch, s.train, s.validation
        assert numbers == (0.01, 0.1, 2, 32, 1000, 500)


# -- draws and shuffled targets


def test_each_draw_has_rows_of_its_own() -> None:
    """Draw 0 has the streams that masks always had; a draw of training rows is searched on."""
    assert streams(0) == ("dcm_train", "dcm_validation")
    assert len({stream for draw in range(5) for stream in streams(draw)}) == 10
    assert [part_of_stream(stream) for stream in streams(3)] == ["search", "selection"]


@pytest.mark.parametrize("variable", ["position", "object", "box_label"])
def test_shuffled_targets_do_not_depend_on_the_source(variable: str) -> None:
    """Each option of the prompt but the base's own answer comes out equally often, and the true target no
    more often than another."""
    task = EntityTracking(EntityTrackingParameters(family="entity_tracking", boxes=4))
    rows = task.interchange(AnyWord(), variable, 3000, "dcm_train")
    shuffled = shuffle_targets(rows, AnyWord(), "dcm_train")
    assert [(r.id, r.base, r.source) for r in shuffled] == [(r.id, r.base, r.source) for r in rows]
    sides = [r.source.options if variable == "object" else r.base.options for r in rows]
    assert all(r.target in side for r, side in zip(shuffled, sides, strict=True))
    assert not any(r.target == r.base.answer for r in shuffled)
    same = np.mean([a.target == b.target for a, b in zip(rows, shuffled, strict=True)])
    assert same == pytest.approx(1 / (4 if variable == "object" else 3), abs=0.03)


def test_without_options_targets_change_places_among_rows() -> None:
    """The same targets, in another order."""
    task = EntityTracking(EntityTrackingParameters(family="entity_tracking", boxes=4))
    rows = [
        replace(row, base=replace(row.base, options=()), source=replace(row.source, options=()))
        for row in task.interchange(AnyWord(), "position", 50, "dcm_train")
    ]
    shuffled = shuffle_targets(rows, AnyWord(), "dcm_train")
    before, after = ([row.target for row in some] for some in (rows, shuffled))
    assert sorted(before) == sorted(after)
    assert before != after


# -- random weights


def test_random_weights_are_put_back_bit_for_bit(context_of: ContextFactory) -> None:
    """Also where the control fails; within, every tensor has its size and spread, and other values."""
    context = context_of("base")
    parameters = list(context.model.wrapped.parameters())
    before = [p.clone() for p in parameters]
    changed: list[torch.Tensor] = []

    def fail() -> None:
        with random_weights(context, 0) as control:
            changed.extend(p.clone() for p in parameters)
            assert control.engine is not context.engine
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    matrices = [(a, b) for a, b in zip(before, changed, strict=True) if a.ndim > 1]
    for a, b in matrices:
        assert not torch.equal(a, b)
        assert float(b.std()) == pytest.approx(float(a.std()), rel=0.1)


def test_random_weights_follow_from_the_seed(context_of: ContextFactory) -> None:
    """The same seed gives the same control, another seed another."""
    context = context_of("base")
    batch = context.batch(context.task.rows(context.vocabulary, 7, "test"))
    logits = []
    for seed in (0, 0, 1):
        with random_weights(context, seed) as control:
            logits.append(control.engine.run(batch.base.tokens).outcome.logits.clone())
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_weights_that_cannot_be_replaced_are_an_error(context_of: ContextFactory) -> None:
    """Quantised weights are no floating-point numbers."""

    class Quantised:
        def parameters(self) -> list[torch.Tensor]:
            return [torch.zeros(3, dtype=torch.uint8)]

    context = context_of("base")
    model = replace(context.model, wrapped=Quantised())  # type: ignore[arg-type]
    with (
        pytest.raises(MeasurementError, match="quantised or do not fit into memory"),
        random_weights(replace(context, model=model), 0),
    ):
        pass


@pytest.mark.slow
def test_a_broken_mask_is_learned_on_broken_rows_or_weights(
    context_of: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transmitter gives true targets, shuffled ones about as often as a guess, and with random weights
    nothing does."""
    few = {"train": 192, "validation": 96}
    real = DcmSettings
    monkeypatch.setattr(dcm, "DcmSettings", lambda **options: real(**options, **few))
    fields = {"at": "last", "variable": "position", "sparsity": 0.01, "rate": 0.1}
    gives = {}
    for null in ("none", "shuffled_targets", "random_weights"):
        request = DcmMask(heads=[[2, h] for h in range(4)], null=null, **fields)
        result = dcm.measure(context_of("ft"), request, [])
        gives[null] = float(np.mean(result.values["patched"]))
        assert float(np.mean(result.values["floor"])) < 0.1
    assert gives["none"] > 0.9
    assert gives["shuffled_targets"] < 0.35
    assert gives["random_weights"] < 0.1
