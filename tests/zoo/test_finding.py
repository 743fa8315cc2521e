"""DCM over all heads and MLPs of a model finds the planted group, and nothing on random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluators import open_evaluator
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.methods.circuits import dcm
from pytest_mechanism.methods.circuits.dcm import (
    DcmSettings,
    gives_target,
    learn_mask,
    source_z,
)
from pytest_mechanism.methods.context import MeasurementContext, make_context
from pytest_mechanism.progress import Silent
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from recipes.entity_tracking_data import save_tokenizer
from recipes.planted import HEADS, LAYERS, MODELS, build
from recipes.planted_heads import pos_transmitter
from recipes.planted_residual import ASKED, HELD, PLACES, read

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
TASK = EntityTracking(EntityTrackingParameters(family="entity_tracking", boxes=7))
FEW = {"train": 224, "validation": 32}

SPEC = """mechanism: 1
circuit: finding
task: {family: entity_tracking, boxes: 7, rows: 140, seed: 0}
groups:
  value_fetcher:   {heads: {3: [1, 4]}, at: last}
  pos_transmitter: {heads: {2: [6]}, at: last, into: {group: value_fetcher, via: q}}
  other:           {heads: {2: [5]}, at: last, into: {group: value_fetcher, via: q}}
claims:
  found: {kind: encodes, on: base, group: pos_transmitter, variable: position, at_least: 0.8, heads: learned,
          mask_over: heads_and_mlps, mask_controls: true, mask_training: published}
  not_found: {kind: encodes, on: base, group: other, variable: position, at_least: 0.8, heads: learned,
              mask_over: heads}
"""


def context_of(folder: Path) -> MeasurementContext:
    vocabulary = SharedVocabulary((Encoder.load(folder),))
    rows = TASK.rows(vocabulary, 8, "self-check")
    model = load_model(folder.name, folder, "cpu", "float32", lambda e: list(e.encode(rows[0].base).ids))  # fmt: skip
    return make_context(model, TASK, vocabulary, ModelOptions(), Silent(), rows)


planted = cache(lambda name: context_of(ZOO / name))


def found(
    context: MeasurementContext, at: str, variable: str, mlps: bool = True, **settings: Any
) -> tuple[list[tuple[int, int]], list[int]]:
    """What a mask over everything at a position selects."""
    layers = range(LAYERS if at == "last" else LAYERS - 1)
    heads = [[layer, head, at] for layer in layers for head in range(HEADS)]
    places = [(layer, at) for layer in layers] if mlps else []
    mask = learn_mask(context, heads, variable, DcmSettings(**(FEW | settings)), places)
    return [(layer, head) for layer, head, _ in mask.selected], mask.mlps


def members(name: str, group: str) -> list[tuple[int, int]]:
    return sorted(MODELS[name][group].heads)


@pytest.mark.parametrize(
    ("name", "group", "variable"),
    [
        ("planted_shared", "value_fetcher", "object"),
        ("planted_label", "label_transmitter", "box_label"),
    ],
)
def test_dcm_finds_a_planted_group_among_all_heads_and_mlps(
    name: str, group: str, variable: str
) -> None:
    """Known answer: the group's heads alone, of 32 heads and 4 MLPs; the MLPs of these models are zero."""
    at = MODELS[name][group].at
    assert found(planted(name), at, variable) == (members(name, group), [])


@pytest.mark.slow
@pytest.mark.parametrize("training", ["standard", "published"])
@pytest.mark.parametrize(
    ("name", "group", "variable"),
    [
        ("planted_base", "pos_transmitter", "position"),
        ("planted_base", "struct_reader", "position"),
        ("planted_ft", "pos_transmitter", "position"),
        ("planted_ft", "pos_detector", "position"),
        ("planted_ft", "value_fetcher", "object"),
        ("planted_label", "value_fetcher", "object"),
    ],
)
def test_both_trainings_find_planted_groups(
    name: str, group: str, variable: str, training: str
) -> None:
    """The same heads, whichever steps are evaluated."""
    at = MODELS[name][group].at
    assert found(planted(name), at, variable, training=training) == (members(name, group), [])


@pytest.mark.slow
def test_a_mask_misses_a_head_that_works_only_with_another() -> None:
    """A limit of the method, as published: of two heads whose readers saturate it selects one, although both
    together give every target. In planted_base, whose signal is weak, it selects both."""
    context, at = planted("planted_ft"), "previous_query_label"
    heads = [(*head, at) for head in members("planted_ft", "struct_reader")]
    mask = learn_mask(context, heads, "position", DcmSettings(**FEW))
    assert mask.selected == heads[:1]
    assert float(mask.gives_target.float().mean()) < 0.5
    rows = [(b, source_z(context, heads, b)) for b in context.batches(mask.validation)]
    assert bool(gives_target(context, heads, rows, torch.tensor([True, True])).all())


def with_a_relay(folder: Path) -> Path:
    """planted_ft whose MLP of layer 2 passes the transmitter's signal on: the head writes it to a space that
    only the MLP reads, and the MLP copies it to where the value fetchers look for it.

    A copy x -> x of an MLP with GELU: gelu(g x) - gelu(-g x) = g x, for each of the signal's entries.
    """
    circuit = dict(MODELS["planted_ft"])
    plain = build(circuit)
    config = GPT2Config(**{**plain.config.to_dict(), "n_inner": 16})
    model = GPT2LMHeadModel(config).eval()
    state = {k: v for k, v in plain.state_dict().items() if ".mlp." not in k}
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        for block in model.transformer.h:
            for parameter in block.mlp.parameters():
                parameter.zero_()
        asked, held = read(ASKED), read(HELD)[:, : ASKED.stop - ASKED.start]
        attention = model.transformer.h[2].attn.c_proj.weight
        width = attention.shape[0] // HEADS
        own = slice(6 * width, 7 * width)
        attention[own] = attention[own] + (attention[own] @ asked) @ (held - asked).T
        mlp = model.transformer.h[2].mlp
        entries, gain = ASKED.stop - ASKED.start, 16.0
        # the norm before the MLP is the identity, as everywhere in the planted models
        mlp.c_fc.weight[:, :entries] = gain * held
        mlp.c_fc.weight[:, entries : 2 * entries] = -gain * held
        mlp.c_proj.weight[:entries] = asked.T / gain
        mlp.c_proj.weight[entries : 2 * entries] = -asked.T / gain
        # entries of what joins the stream sum to zero (`recipes.planted_residual`)
        mlp.c_proj.weight[:, -1] = -mlp.c_proj.weight[:, :-1].sum(1)
    model.save_pretrained(folder)
    save_tokenizer(folder, PLACES)
    return folder


def test_a_planted_mlp_is_found_beside_the_head_that_it_reads(tmp_path: Path) -> None:
    """Known answer: the signal goes through head 2.6 and then through the MLP of layer 2, and nothing else
    carries it. Over heads alone, the mask finds the head."""
    assert pos_transmitter(1.0).reads.shape[1] == ASKED.stop - ASKED.start
    context = context_of(with_a_relay(tmp_path / "relay"))
    heads, mlps = found(context, "last", "position")
    assert (set(heads) <= {(2, 6)}, mlps) == (True, [2])
    assert found(context, "last", "position", mlps=False) == ([(2, 6)], [])


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcm, "DcmSettings", partial(dcm.DcmSettings, train=224, validation=64))


def judged(folder: Path, model: str) -> Callable[[str], Any]:
    (folder / "spec.yaml").write_text(SPEC)
    spec = load(folder / "spec.yaml")
    gate = open_evaluator(
        "--model-pair", f"base={model},ft=zoo:planted_ft", "--store", folder / "s"
    )
    return lambda name: gate.judge(spec, spec.claims[name], "base")


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_a_claim_finds_the_planted_group_and_shows_its_controls(tmp_path: Path) -> None:
    """From YAML to the verdict: the group is found in five of five draws, broken masks give nothing like
    it, and a claim about another group does not pass."""
    verdict_of = judged(tmp_path, "zoo:planted_ft")
    verdict = verdict_of("found")
    assert verdict.status == "pass", verdict.reason
    assert "DCM over 32 heads and 4 MLPs finds 2.6; of these 1 of 1 are in group" in verdict.reason
    assert "chosen in 5 draws of rows: 2.6 5/5;" in verdict.reason
    own, shuffled, random, stability = verdict.scores
    assert (own.value, stability.value) == (1.0, 1.0)
    assert max(shuffled.value, random.value) < 0.35
    other = verdict_of("not_found")
    assert other.status == "inconclusive"
    assert "it does not find 2.5 of group other, so other parts carry position" in other.reason


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_on_random_weights_dcm_finds_nothing_and_says_so(tmp_path: Path) -> None:
    """A model of the planted shape that was never trained."""
    torch.manual_seed(0)
    folder = tmp_path / "random"
    GPT2LMHeadModel(build(MODELS["planted_ft"]).config).save_pretrained(folder)
    save_tokenizer(folder, PLACES)
    verdict = judged(tmp_path, str(folder))("found")
    assert verdict.status == "inconclusive"
    assert "does not solve the task" in verdict.reason
    assert "DCM over 32 heads and 4 MLPs finds nothing" in verdict.reason
