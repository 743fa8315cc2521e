"""Whether heads with the same index have the same effect, on pairs that compute the same and store it
differently."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.claims.codes import changed_places, not_comparable, other_codes
from pytest_mechanism.engine.interface import Reading, Site
from pytest_mechanism.measurements.cmap import ActivationDonation, HeadCodes
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import cmap, performance
from pytest_mechanism.methods.circuits.codes import agreement, head_writes, own_writes
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec

ContextFactory = Callable[[str], MeasurementContext]
ROWS = {"rows": 14, "stream": "rows"}


def change_places(layer: Any, order: list[int], groups: list[int]) -> None:
    """Heads of a layer in another order: rows of q, k and v, columns of o. ``groups`` is the order of
    the key-value heads, which the heads' own follows."""
    attention = layer.self_attn
    width = attention.head_dim

    def rows(heads: list[int]) -> torch.Tensor:
        return torch.cat([torch.arange(h * width, (h + 1) * width) for h in heads])

    with torch.no_grad():
        attention.q_proj.weight.copy_(attention.q_proj.weight[rows(order)])
        attention.o_proj.weight.copy_(attention.o_proj.weight[:, rows(order)])
        for matrix in (attention.k_proj, attention.v_proj):
            matrix.weight.copy_(matrix.weight[rows(groups)])


def turn(layer: Any, seed: int) -> None:
    """z of every head in another basis: v times a rotation, o times its inverse, one rotation for the
    heads that share a value."""
    attention = layer.self_attn
    width, rng = attention.head_dim, torch.Generator().manual_seed(seed)
    values = attention.v_proj.weight.shape[0] // width
    shared = attention.o_proj.weight.shape[1] // width // values
    with torch.no_grad():
        for group in range(values):
            rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=rng))
            own = slice(group * width, (group + 1) * width)
            attention.v_proj.weight[own] = rotation @ attention.v_proj.weight[own]
            for head in range(group * shared, (group + 1) * shared):
                reads = slice(head * width, (head + 1) * width)
                attention.o_proj.weight[:, reads] = attention.o_proj.weight[:, reads] @ rotation.T


def saved(model: Any, folder: Path, source: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def twin(
    tmp_path_factory: pytest.TempPathFactory, spec: Spec, load_context: Any
) -> Callable[[str], MeasurementContext]:
    """``ft`` with the heads of layers 2 and 3 in other places, or with z of them in another basis."""
    made: dict[str, MeasurementContext] = {}

    def of(how: str) -> MeasurementContext:
        if how not in made:
            model = AutoModelForCausalLM.from_pretrained(ZOO / "ft", dtype=torch.float32)
            for number in (2, 3):
                if how != "turned":
                    change_places(model.model.layers[number], [1, 2, 3, 0], [1, 2, 3, 0])
                if how != "permuted":
                    turn(model.model.layers[number], number)
            folder = saved(model, tmp_path_factory.mktemp(how), ZOO / "ft")
            made[how] = load_context(folder, spec.task)
        return made[how]

    return of


def donation(donor: MeasurementContext, heads: list[list[Any]]) -> cmap.Donation:
    return cmap.donate(donor, ActivationDonation(heads=heads, **ROWS), [])


def code(donor: MeasurementContext, recipient: MeasurementContext, heads: list[list[Any]]) -> Any:
    return cmap.code(recipient, HeadCodes(**ROWS), [donation(donor, heads)])


FETCHERS = [[3, head, "last"] for head in range(4)]
TRANSMITTER = [[2, 2, "last"]]
BELOW = [[1, 3, "query_label"], [0, 2, "previous_query_label"]]


def test_a_model_and_its_fine_tune_speak_one_code(context_of: ContextFactory, spec: Spec) -> None:
    """Known answer, both ways: the embedded pair, every head of the circuit."""
    heads = [[*h, group.at] for group in spec.groups.values() for h in group.members()]
    for donor, recipient in (("base", "ft"), ("ft", "base")):
        observed = code(context_of(donor), context_of(recipient), heads)
        assert len(observed.codes) == len(heads)
        assert min(entry.agreement for entry in observed.codes) > 0.95
        assert other_codes(observed, heads) == []


@pytest.mark.parametrize("how", ["permuted", "turned", "both"])
def test_a_twin_computes_the_same_and_speaks_another_code(
    context_of: ContextFactory, twin: Callable[[str], MeasurementContext], how: str
) -> None:
    """The twin gives the same answers row by row. The method reports another code for the heads that were
    changed, and only for these."""
    other, plain = twin(how), context_of("ft")
    of_twin, of_plain = (performance.measure(b, Performance(**ROWS), []) for b in (other, plain))
    np.testing.assert_allclose(
        of_twin.values["log_probability"], of_plain.values["log_probability"], atol=1e-3
    )
    heads = [*FETCHERS, *TRANSMITTER, *BELOW]
    for recipient in (context_of("base"), plain):
        observed = code(other, recipient, heads)
        odd = other_codes(observed, heads)
        assert [[entry.layer, entry.head, entry.at] for entry in odd] == [*FETCHERS, *TRANSMITTER]
        moved = changed_places(odd)
        assert moved == ([] if how == "turned" else odd)
        if how != "turned":
            assert {entry.head: entry.done_by for entry in moved if entry.layer == 3} == {
                h: (h + 1) % 4 for h in range(4)
            }


def test_what_is_said_of_another_code(
    context_of: ContextFactory, twin: Callable[[str], MeasurementContext]
) -> None:
    """By which head the work is done, or in which way."""
    for how, says in (
        ("permuted", "and head 2.3 of base does its work"),
        ("turned", "and head 2.2 of base does the same work in another basis of z"),
    ):
        odd = other_codes(code(twin(how), context_of("base"), TRANSMITTER), TRANSMITTER)
        text = not_comparable(odd, "ft", "base")
        assert text.startswith(
            "not comparable by index: the output of head 2.2 of ft at last has another effect"
        )
        assert text.endswith(says)


def test_random_weights_speak_no_code(context_of: ContextFactory) -> None:
    """Null: between a trained model and random weights nothing agrees, and no head does the work."""
    odd = other_codes(code(context_of("ft"), context_of("random"), FETCHERS), FETCHERS)
    assert len(odd) == len(FETCHERS)
    assert changed_places(odd) == []


def test_under_gqa_heads_change_places_with_their_values(
    tmp_path: Path, counting_context: MeasurementContext, load_context: Any
) -> None:
    """Two heads share each value; both the pairs and the heads within a pair change places."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=counting_context.model.shape.d_vocab, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    source = counting_context.model.folder
    plain = load_context(saved(model, tmp_path / "plain", source), counting_context.task)
    change_places(model.model.layers[1], [3, 2, 0, 1], [1, 0])
    turn(model.model.layers[0], 0)
    other = load_context(saved(model, tmp_path / "other", source), counting_context.task)
    tokens = plain.batch(plain.task.rows(plain.vocabulary, 8, "rows")).base.tokens
    torch.testing.assert_close(
        other.engine.run(tokens).outcome.logits, plain.engine.run(tokens).outcome.logits,
        rtol=0, atol=1e-4,
    )  # fmt: skip
    heads = [[layer, head, "last"] for layer in (0, 1) for head in range(4)]
    odd = other_codes(code(other, plain, heads), heads)
    assert len(odd) == len(heads)
    assert [entry.done_by for entry in odd] == [0, 1, 2, 3, 3, 2, 0, 1]
    assert other_codes(code(plain, plain, heads), heads) == []


def test_heads_write_what_attention_writes(context_of: ContextFactory) -> None:
    """What the heads of a layer write alone adds up to the layer's output, which has no offset here."""
    context = context_of("base")
    batch = context.batch(context.task.rows(context.vocabulary, 7, "rows"))
    reading = Reading(Site(2, "attn_out"), batch.base.at("last"))
    (wanted,) = context.engine.run(batch.base.tokens, readings=[reading]).outcome.readings
    result = own_writes(context, batch, (2, "last")).sum(2)
    torch.testing.assert_close(result, wanted[:, :, 0], rtol=0, atol=1e-4)
    nothing = torch.zeros(7, 1, 1, context.model.shape.d_head)
    assert (
        float(head_writes(context, batch, {(2, "last"): (nothing, (1,))})[2, "last"].abs().max())
        == 0
    )


def test_agreement_is_one_for_the_same_and_less_for_another_size() -> None:
    """A direction alone is not enough: z of twice the size is another code."""
    some = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    result = [agreement(some, other) for other in (some, 2 * some, 10 * some, -some, 0 * some)]
    assert result == pytest.approx([1, 0.8, 20 / 101, -1, 0])
    assert agreement(0 * some, 0 * some) == 0
