"""Methods on models whose answer is known, and identities that hold for every model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import (
    ablation,
    circuit,
    cmap,
    interchange,
    performance,
)
from pytest_mechanism.methods.circuits.dcm import DcmSettings, gives_target, learn_mask, source_z
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec

ContextFactory = Callable[[str], MeasurementContext]

ROWS = 84
MEAN = Ablation(value="positional_mean", prompts=200)
ALL_HEADS = [[layer, head] for layer in range(4) for head in range(4)]


def circuit_heads(spec: Spec, *leave_out: str) -> list[list[Any]]:
    return [
        [layer, head, group.at]
        for name, group in spec.groups.items()
        if name not in leave_out
        for layer, head in group.members()
    ]


def share(values: Any) -> float:
    return float(np.mean(values))


# -- accuracy


def test_the_fine_tuned_model_solves_the_task_and_random_weights_do_not(
    context_of: ContextFactory,
) -> None:
    """Known answer and null of ``performance``: near 1, and no more than a guess."""
    result = {
        role: share(
            performance.measure(context_of(role), Performance(rows=ROWS, stream="rows"), []).values[
                "correct"
            ]
        )
        for role in ("base", "ft", "random")
    }
    assert result["ft"] >= 0.95
    assert 0.5 <= result["base"] <= 0.92
    assert result["random"] <= 0.15


@pytest.mark.parametrize("size", [1, 7, 84])
def test_numbers_do_not_depend_on_the_batch_size(context_of: ContextFactory, size: int) -> None:
    """Padding and batching change no row's result."""
    context = context_of("base")
    split = MeasurementContext(
        context.model, context.engine, context.task, context.vocabulary, size
    )
    wanted = performance.measure(context, Performance(rows=21, stream="rows"), [])
    result = performance.measure(split, Performance(rows=21, stream="rows"), [])
    np.testing.assert_allclose(
        result.values["log_probability"], wanted.values["log_probability"], atol=1e-4
    )


# -- circuits and ablation


def test_a_circuit_of_all_heads_at_all_positions_is_the_whole_model(
    context_of: ContextFactory,
) -> None:
    """Nothing is ablated and nothing changes, with every ablation value."""
    context = context_of("base")
    rows = context.task.rows(context.vocabulary, 14, "rows")
    batch = context.batch(rows)
    wanted = context.engine.run(batch.base.tokens).outcome.logits
    length = batch.base.tokens.ids.shape[1]
    side = type(batch.base)(
        batch.base.tokens,
        {**batch.base.positions, "everywhere": torch.arange(length).expand(len(rows), length)},
        batch.base.slots,
    )
    whole = replace(batch, base=side, source=None)
    for value in ("zero", "mean", "positional_mean", "resample"):
        silent = ablation.replacements(context, whole, Ablation(value=value, prompts=200))
        alive = [[layer, head, "everywhere"] for layer, head in ALL_HEADS]
        ablated = [Edit(Site(layer, "z"), z) for layer, z in enumerate(silent)]
        branch = Branch(freeze_attention=True, active_heads=circuit.active_heads(whole, alive))
        (outcome,) = context.engine.run(batch.base.tokens, ablated).branches([branch])
        torch.testing.assert_close(outcome.logits, wanted, rtol=0, atol=1e-4)


def test_the_known_circuit_is_faithful_and_its_parts_are_needed(
    context_of: ContextFactory, spec: Spec
) -> None:
    """The four groups alone answer as well as the model; without a position group, or with every
    head silent, the answer is a guess."""
    result = circuit.measure(
        context_of("ft"),
        CircuitPerformance(
            rows=ROWS,
            stream="rows",
            ablation=MEAN,
            alive={
                "whole": circuit_heads(spec),
                "no_fetcher": circuit_heads(spec, "value_fetcher"),
                "no_transmitter": circuit_heads(spec, "pos_transmitter"),
                "no_detector": circuit_heads(spec, "pos_detector"),
                "empty": [],
            },
        ),
        [],
    )
    assert share(result.values["whole_correct"]) >= 0.9
    for name in ("no_fetcher", "no_transmitter", "no_detector", "empty"):
        assert share(result.values[f"{name}_correct"]) <= 0.3, name


def test_a_positional_mean_is_the_mean_of_z_at_the_same_slot(context_of: ContextFactory) -> None:
    """Against a plain mean over prompts, position by position."""
    context = context_of("base")
    means = ablation.background(context, 120, every_slot=False)
    rows = context.task.backgrounds(context.vocabulary, 120)
    taken: list[torch.Tensor] = []
    for batch in context.batches(rows):
        (z,) = context.engine.run(
            batch.base.tokens, readings=[Reading(Site(2, "z"), batch.base.at("query_label"))]
        ).outcome.readings
        taken.append(z[:, 0])
    slot = context.side([rows[0].base]).slots[0][
        int(context.side([rows[0].base]).at("query_label")[0, 0])
    ]
    torch.testing.assert_close(means[slot][2], torch.cat(taken).mean(0), rtol=0, atol=1e-4)


def test_a_mean_is_one_for_all_places_and_zero_is_nothing(context_of: ContextFactory) -> None:
    """``mean`` is the mean of z over every token of the background prompts; ``zero`` is 0."""
    context = context_of("base")
    batch = context.batch(context.task.rows(context.vocabulary, 7, "rows"))
    result = ablation.replacements(context, batch, Ablation(value="mean", prompts=60))
    total, count = torch.zeros(4, 32, dtype=torch.float64), 0
    for batch in context.batches(context.task.backgrounds(context.vocabulary, 60)):
        (z,) = context.engine.run(
            batch.base.tokens, readings=[Reading(Site(1, "z"))]
        ).outcome.readings
        real = batch.base.tokens.mask.bool()
        total += z[real].double().sum(0)
        count += int(real.sum())
    torch.testing.assert_close(result[1][0, 0].double(), total / count, rtol=0, atol=1e-4)
    nothing = ablation.replacements(context, batch, Ablation(value="zero", prompts=60))
    assert float(nothing[2].abs().max()) == 0.0


def test_too_few_prompts_behind_a_mean_are_an_error(context_of: ContextFactory) -> None:
    """A slot that fewer than 50 background prompts have cannot be ablated by its mean."""
    context = context_of("base")
    means = ablation.background(context, 60, every_slot=False)
    batch = context.batch(context.task.rows(context.vocabulary, 14, "rows"))
    with pytest.raises(MeasurementError, match="fewer than 50 background prompts"):
        ablation.by_slot(batch.base, [means] * 14)


def test_resampled_z_is_that_of_another_prompt_at_the_same_slot(context_of: ContextFactory) -> None:
    """Resampling puts in z that some prompt really had, and not the row's own."""
    context = context_of("base")
    batch = context.batch(context.task.rows(context.vocabulary, 7, "rows"))
    first = ablation.replacements(context, batch, Ablation(value="resample", prompts=50))
    again = ablation.replacements(context, batch, Ablation(value="resample", prompts=50))
    own = context.engine.run(batch.base.tokens, readings=[Reading(Site(1, "z"))]).outcome.readings[
        0
    ]
    torch.testing.assert_close(first[1], again[1], rtol=0, atol=0)
    assert float((first[1] - own).abs().max()) > 0.1
    assert len({tuple(row.flatten().tolist()) for row in first[1][:, -1]}) > 1


# -- interchange, DCM


@pytest.mark.parametrize("role", ["base", "ft"])
@pytest.mark.parametrize(
    ("group", "variable", "low", "high"),
    [
        ("pos_transmitter", "position", 0.85, 1.1),
        ("pos_transmitter", "object", -0.1, 0.05),
        ("pos_transmitter", "box_label", -0.1, 0.05),
        ("pos_detector", "position", 0.85, 1.1),
        ("value_fetcher", "object", 0.8, 1.1),
        ("value_fetcher", "position", -0.1, 0.1),
    ],
)
def test_each_group_carries_its_own_variable_and_no_other(
    context_of: ContextFactory,
    spec: Spec,
    role: str,
    group: str,
    variable: str,
    low: float,
    high: float,
) -> None:
    """Position groups move the position, the value fetcher the object (paper, section 4)."""
    result = interchange.measure(
        context_of(role),
        Interchange(
            heads=spec.groups[group].members(),
            control=[],
            at=spec.groups[group].at,
            variable=variable,
            rows=200,
        ),
        [],
    )
    floor, ceiling, patched = (share(result.values[k]) for k in ("floor", "ceiling", "patched"))
    assert low <= (patched - floor) / (ceiling - floor) <= high


def test_random_weights_carry_nothing(context_of: ContextFactory) -> None:
    """Null: on random weights no patch brings the target out more often than no patch does."""
    result = interchange.measure(
        context_of("random"),
        Interchange(
            heads=ALL_HEADS[8:12], control=ALL_HEADS[:4], at="last", variable="position", rows=200
        ),
        [],
    )
    assert abs(share(result.values["patched"]) - share(result.values["floor"])) <= 0.05


def test_a_learned_mask_selects_the_head_that_carries_the_position(
    context_of: ContextFactory, spec: Spec
) -> None:
    """DCM over the whole layer of the transmitter finds the transmitter and leaves the rest."""
    (transmitter,) = spec.groups["pos_transmitter"].members()
    layer = [[transmitter[0], head, "last"] for head in range(4)]
    mask = learn_mask(
        context_of("ft"), layer, "position", DcmSettings(train=256, validation=64, batch=32)
    )
    assert mask.selected == [(*transmitter, "last")]


def test_a_learned_mask_finds_no_object_in_the_position_group(
    context_of: ContextFactory, spec: Spec
) -> None:
    """DCM for the object over the position group: patching helps no target, so no head pays."""
    group = spec.groups["pos_transmitter"]
    heads = [(*h, group.at) for h in group.members()]
    settings = DcmSettings(train=256, validation=64, batch=32)
    selected = learn_mask(context_of("ft"), heads, "object", settings).selected
    rows = context_of("ft").task.interchange(context_of("ft").vocabulary, "object", 84, "other")
    chosen = torch.tensor([head in selected for head in heads])
    batch = context_of("ft").batch(rows)
    batches = [(batch, source_z(context_of("ft"), heads, batch))]
    assert float(gives_target(context_of("ft"), heads, batches, chosen).float().mean()) <= 0.1


# -- CMAP


def donation(context: MeasurementContext, heads: list[list[Any]]) -> cmap.Donation:
    return cmap.donate(context, ActivationDonation(heads=heads, rows=ROWS, stream="rows"), [])


def test_a_model_that_donates_to_itself_changes_nothing(
    context_of: ContextFactory, spec: Spec
) -> None:
    """CMAP with donor = recipient is the unpatched model, row by row."""
    heads = circuit_heads(spec)
    context = context_of("base")
    result = cmap.measure(
        context,
        CrossModelPatching(heads=heads, control=[], rows=ROWS, stream="rows"),
        [donation(context, heads)],
    )
    wanted = performance.measure(context, Performance(rows=ROWS, stream="rows"), [])
    np.testing.assert_array_equal(result.values["patched"], wanted.values["correct"])


def test_the_value_fetchers_of_the_fine_tuned_model_recover_its_gain(
    context_of: ContextFactory, spec: Spec
) -> None:
    """Known answer: the fetchers at the last token carry nearly all of it, early heads nothing."""
    fetchers = [[*h, "last"] for h in spec.groups["value_fetcher"].members()]
    others = [[layer, head, "last"] for layer in range(2) for head in range(4)]
    donated = donation(context_of("ft"), [*fetchers, *others])
    arguments = {"heads": fetchers, "control": others, "rows": ROWS, "stream": "rows"}
    result = cmap.measure(context_of("base"), CrossModelPatching(**arguments), [donated])
    base, ft = (
        share(
            performance.measure(context_of(r), Performance(rows=ROWS, stream="rows"), []).values[
                "correct"
            ]
        )
        for r in ("base", "ft")
    )
    assert (share(result.values["patched"]) - base) / (ft - base) >= 0.8
    assert abs(share(result.values["control"]) - base) / (ft - base) <= 0.15


def test_heads_of_another_width_cannot_be_exchanged(context_of: ContextFactory) -> None:
    """Said in one line instead of broadcast into something."""
    context = context_of("base")
    donated = donation(context, [[0, 0, "last"]])
    values, heads = donated.values[0, "last"]
    narrow = cmap.Donation(donated.example_ids, {(0, "last"): (values[..., :5], heads)}, {})
    with pytest.raises(MeasurementError, match="heads have width 5"):
        cmap.measure(
            context,
            CrossModelPatching(heads=[[0, 0, "last"]], control=[], rows=ROWS, stream="rows"),
            [narrow],
        )
