"""The planted models have the properties that their recipe proves, and the methods find the planted heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import circuit, cmap, interchange, path_patching, performance
from pytest_mechanism.methods.circuits.dcm import DcmSettings, learn_mask
from pytest_mechanism.methods.context import MeasurementContext, make_context
from pytest_mechanism.progress import Silent
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from recipes.planted import (
    HEADS,
    LAYERS,
    MODELS,
    PER_HEAD,
    all_heads,
    attention,
    build,
)
from recipes.planted_residual import JUNK, WIDTH, unembedding

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
BY_POSITION = ("planted_base", "planted_ft", "planted_shared")
GROUPS = [(model, group) for model, groups in MODELS.items() for group in groups]

ContextFactory = Callable[..., MeasurementContext]


@pytest.fixture(scope="module")
def context_of() -> ContextFactory:
    """The measurement context of a planted model with this number of fillers; self-checks have passed."""
    made: dict[tuple[str, int], MeasurementContext] = {}

    def of(name: str, fillers: int = 0) -> MeasurementContext:
        if (name, fillers) not in made:
            task = EntityTracking(
                EntityTrackingParameters(family="entity_tracking", boxes=7, fillers=fillers)
            )
            vocabulary = SharedVocabulary((Encoder.load(ZOO / name),))
            rows = task.rows(vocabulary, 8, "self-check")
            model = load_model(
                name, ZOO / name, "cpu", "float32", lambda e: list(e.encode(rows[0].base).ids)
            )
            made[name, fillers] = make_context(
                model, task, vocabulary, ModelOptions(), Silent(), rows
            )
        return made[name, fillers]

    return of


def share(values: Any) -> float:
    return float(np.mean(values))


def accuracy(context: MeasurementContext, rows: int) -> float:
    result = performance.measure(context, Performance(rows=rows, stream="rows"), [])
    return share(result.values["correct"])


def members(name: str, *leave_out: str) -> list[list[Any]]:
    """[layer, head, position] of a planted circuit less some groups."""
    return [
        [*head, group.at]
        for title, group in MODELS[name].items()
        if title not in leave_out
        for head in group.heads
    ]


# -- the weights


@pytest.mark.parametrize("name", MODELS)
def test_the_builder_makes_the_stored_weights_bit_for_bit(name: str) -> None:
    """float32 weights as built equal the stored float16 ones: nothing was rounded."""
    stored = load_file(ZOO / name / "model.safetensors")
    built = build(MODELS[name]).state_dict()
    assert set(stored) == set(built)
    assert [key for key in built if not torch.equal(built[key], stored[key].float())] == []


def test_base_and_fine_tune_differ_in_what_the_transmitter_reads_alone() -> None:
    """One head's W_V is doubled, every other weight is the same."""
    base, ft = (load_file(ZOO / name / "model.safetensors") for name in BY_POSITION[:2])
    assert [key for key in base if not torch.equal(base[key], ft[key])] == [
        "transformer.h.2.attn.c_attn.weight"
    ]
    before, after = (w["transformer.h.2.attn.c_attn.weight"] for w in (base, ft))
    values = slice(2 * WIDTH + 6 * PER_HEAD, 2 * WIDTH + 7 * PER_HEAD)
    expected = before.clone()
    expected[:, values] *= 2
    assert torch.equal(after, expected)


@pytest.mark.parametrize("name", MODELS)
def test_distractors_write_where_no_head_and_no_logit_reads(name: str) -> None:
    """Heads outside the circuit write JUNK and its balance; nothing has a weight at either."""
    unread = [*range(JUNK.start, JUNK.stop), WIDTH - 1]
    elsewhere = [i for i in range(WIDTH) if i not in unread]
    planted = {head for group in MODELS[name].values() for head in group.heads}
    for place, head in all_heads(MODELS[name]).items():
        q, k, v, o = attention(head)
        assert float(torch.cat([q, k, v], dim=1)[unread].abs().max()) == 0
        assert (float(o[:, elsewhere].abs().max()) == 0) == (place not in planted)
    assert float(unembedding(1.0, 1.0)[:, unread].abs().max()) == 0


@pytest.mark.parametrize("name", MODELS)
def test_norms_are_the_identity(context_of: ContextFactory, name: str) -> None:
    """The stream's mean is 0 and its variance below 4, against an epsilon of 2**14."""
    context = context_of(name)
    batch = context.batch(context.task.pairs(context.vocabulary, 14))
    for side in (batch.base, batch.require_source()):
        sites = [Reading(Site(layer, "resid_post")) for layer in range(LAYERS)]
        stream = torch.stack(context.engine.run(side.tokens, readings=sites).outcome.readings)
        assert float(stream.mean(-1).abs().max()) < 1e-6
        assert float(stream.var(-1).max()) < 4


@pytest.mark.parametrize("name", MODELS)
def test_every_distractor_is_busy(context_of: ContextFactory, name: str) -> None:
    """z of every head is far from zero somewhere, and differs between prompts or places."""
    context = context_of(name)
    batch = context.batch(context.task.rows(context.vocabulary, 14))
    sites = [Reading(Site(layer, "z")) for layer in range(LAYERS)]
    for z in context.engine.run(batch.base.tokens, readings=sites).outcome.readings:
        assert float(z.abs().amax((0, 1, 3)).min()) > 0.3
        assert float(z.std((0, 1)).amax(-1).min()) > 0.05


# -- what the models can do


@pytest.mark.parametrize("fillers", [0, 3])
def test_the_weak_signal_finds_seven_objects_in_ten_and_the_others_all(
    context_of: ContextFactory, fillers: int
) -> None:
    """Accuracy with and without fillers: base between 0.6 and 0.8, the others at least 0.99."""
    result = {name: accuracy(context_of(name, fillers), 105) for name in MODELS}
    assert 0.6 <= result.pop("planted_base") <= 0.8
    assert min(result.values()) >= 0.99


# -- what the groups carry


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_each_group_carries_its_variable_and_no_other(
    context_of: ContextFactory, name: str, group: str
) -> None:
    """Normalised interchange: 1 for what the group is planted to carry, about 0 for the rest."""
    carried = {
        "label_transmitter": "box_label",
        "value_fetcher": "object",
        "object_reader": "object",
    }
    context, planted = context_of(name), MODELS[name][group]
    for variable in ("position", "object", "box_label"):
        result = interchange.measure(
            context,
            Interchange(
                heads=[list(head) for head in planted.heads],
                control=[],
                at=planted.at,
                variable=variable,
                rows=70,
            ),
            [],
        )
        floor, ceiling, patched = (share(result.values[k]) for k in ("floor", "ceiling", "patched"))
        score = (patched - floor) / (ceiling - floor)
        if variable != carried.get(group, "position"):
            assert abs(score) <= 0.05, variable
        elif name == "planted_base":  # other objects are asked for than in the ceiling's rows
            assert 0.85 <= score <= 1.15
        else:
            assert score == 1


@pytest.mark.parametrize(
    ("name", "group", "variable"),
    [
        ("planted_base", "struct_reader", "position"),
        ("planted_ft", "pos_transmitter", "position"),
        ("planted_label", "label_transmitter", "box_label"),
        ("planted_shared", "value_fetcher", "object"),
    ],
)
def test_a_learned_mask_over_a_layer_selects_the_planted_heads(
    context_of: ContextFactory, name: str, group: str, variable: str
) -> None:
    """DCM among the eight heads of the layer."""
    planted = MODELS[name][group]
    ((layer),) = {layer for layer, _ in planted.heads}
    result = learn_mask(
        context_of(name),
        [[layer, head, planted.at] for head in range(HEADS)],
        variable,
        DcmSettings(train=224, validation=32),
    )
    assert result.selected == [(*head, planted.at) for head in sorted(planted.heads)]


def test_no_fetcher_that_shares_the_work_moves_the_answer_alone(context_of: ContextFactory) -> None:
    """Each alone brings the source's object out in no row, all together in every row."""
    context = context_of("planted_shared")
    fetchers = [list(head) for head in MODELS["planted_shared"]["value_fetcher"].heads]
    patches = {"all": fetchers} | {str(head): [head] for head in fetchers}
    result = {
        name: share(
            interchange.measure(
                context,
                Interchange(heads=heads, control=[], at="last", variable="object", rows=70),
                [],
            ).values["patched"]
        )
        for name, heads in patches.items()
    }
    assert result.pop("all") == 1
    assert set(result.values()) == {0}


# -- the circuits


@pytest.mark.parametrize("name", MODELS)
def test_the_circuit_is_the_model_and_no_group_can_be_spared(
    context_of: ContextFactory, name: str
) -> None:
    """Alone it answers row by row as the model does; without any group it answers nothing."""
    context = context_of(name)
    alive = {"whole": members(name), "everywhere": members(name)}
    alive["everywhere"] = [
        [layer, head, "all_labels" if at == "previous_query_label" else at]
        for layer, head, at in alive["everywhere"]
    ]
    alive |= {group: members(name, group) for group in MODELS[name]}
    result = circuit.measure(
        context,
        CircuitPerformance(
            rows=70,
            stream="rows",
            ablation={"value": "positional_mean", "prompts": 500},
            alive=alive,
        ),
        [],
    )
    wanted = performance.measure(context, Performance(rows=70, stream="rows"), [])
    for whole in ("whole", "everywhere"):
        np.testing.assert_array_equal(result.values[f"{whole}_correct"], wanted.values["correct"])
    assert {
        group: share(result.values[f"{group}_correct"]) for group in MODELS[name]
    } == dict.fromkeys(MODELS[name], 0.0)


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_path_patching_ranks_the_planted_heads_first(
    context_of: ContextFactory, name: str, group: str
) -> None:
    """Into the planted receivers, planted heads cost nats and all others nothing."""
    planted = MODELS[name][group]
    into, via = planted.into or (None, None)
    receivers = [list(head) for head in MODELS[name][into].heads] if into else []
    below = max(layer for layer, _ in receivers) if receivers else LAYERS
    result = path_patching.measure(
        context_of(name),
        PathPatching(
            rows=14,
            stream="pairs",
            senders={
                f"{layer}.{head}": [[layer, head]]
                for layer in range(below)
                for head in range(HEADS)
            },
            at=planted.at,
            receivers=receivers,
            via=via,
        ),
        [],
    )
    effects = {key: share(v) for key, v in result.values.items() if not key.startswith("ratio ")}
    first = {f"{layer}.{head}" for layer, head in planted.heads}
    assert max(effects[key] for key in first) < -1
    assert max(abs(effect) for key, effect in effects.items() if key not in first) < 1e-3


# -- across models


def test_the_strong_transmitter_recovers_the_whole_gap_and_its_neighbours_nothing(
    context_of: ContextFactory,
) -> None:
    """CMAP at the last token: z of head 2.6 from planted_ft makes planted_base right everywhere."""
    base, ft = context_of("planted_base"), context_of("planted_ft")
    heads = members("planted_base", "value_fetcher", "pos_detector", "struct_reader")
    others = [[2, head, "last"] for head in range(HEADS) if [2, head, "last"] not in heads]
    arguments = {"heads": heads, "control": others, "rows": 70, "stream": "rows"}
    donation = cmap.donate(
        ft, ActivationDonation(heads=[*heads, *others], rows=70, stream="rows"), []
    )
    result = cmap.measure(base, CrossModelPatching(**arguments), [donation])
    assert share(result.values["patched"]) == accuracy(ft, 70) == 1
    assert share(result.values["control"]) == accuracy(base, 70) < 0.9
