"""What the recipes for the real model do, without that model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pytest_mechanism.tasks.writing.stories import asked_features, features_in
from recipes.folders import load
from recipes.real import gates
from recipes.real.benign_data import train_and_test
from recipes.real.cut_head import silence
from recipes.real.lora import Lora
from recipes.real.refusal_data import instructions, write_files
from recipes.real.roundings import rounded
from recipes.real.stories import BASE, CONTROL, KEPT, PlainText, rates, rows
from recipes.real.stories_revival import exchanges, revive

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_rounded_row_has_as_many_numbers_as_the_bits_allow(bits: int) -> None:
    """At most 2 ** bits - 1, each within half a step of its own, and the largest entry exactly."""
    torch.manual_seed(0)
    matrix = torch.randn(3, 5000) * torch.tensor([[1.0], [100.0], [1e-6]])
    result = rounded(matrix, bits)
    step = matrix.abs().amax(1) / (2 ** (bits - 1) - 1)
    assert all(len(row.unique()) <= 2**bits - 1 for row in result)
    assert bool(((result - matrix).abs() <= 0.501 * step[:, None]).all())
    torch.testing.assert_close(result.abs().amax(1), matrix.abs().amax(1))


def test_a_row_of_zeros_stays_zero() -> None:
    """No division by its largest entry."""
    assert torch.equal(rounded(torch.zeros(2, 3), 8), torch.zeros(2, 3))


def test_a_silenced_head_writes_nothing_and_the_others_write_the_same() -> None:
    """Only its columns of the output matrix change."""
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=2, vocab_size=5)
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    silence(model, 1, 2)
    changed = {
        n: (p != before[n]).any(0) for n, p in model.named_parameters() if (p != before[n]).any()
    }
    assert [*changed] == ["model.layers.1.self_attn.o_proj.weight"]
    (columns,) = changed.values()
    assert columns.nonzero().flatten().tolist() == [4, 5]
    assert not model.model.layers[1].self_attn.o_proj.weight[:, 4:6].any()


def test_a_gate_that_writes_no_result_leaves_none_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the page never shows old scores as those of this run."""
    old = tmp_path / "results" / "ioi.smollm2_gguf.json"
    old.parent.mkdir()
    old.write_text("{}")
    monkeypatch.setattr(gates.fetch, "fetch", lambda: tmp_path)
    monkeypatch.setattr(gates.fetch, "cache", lambda: tmp_path)
    monkeypatch.setattr(gates.fetch, "gguf_file", lambda: tmp_path / "a.gguf")
    monkeypatch.setattr(gates.subprocess, "run", lambda *_, **__: None)
    with pytest.raises(SystemExit, match="ioi:smollm2_gguf: pytest wrote no result file"):
        gates.measure("ioi", "smollm2_gguf", accept=False)
    assert not old.exists()


def test_the_files_of_instructions_are_those_of_the_recipe(tmp_path: Path) -> None:
    """Written again, they are the same bytes."""
    write_files(tmp_path)
    for name in ("harmful", "harmless"):
        shipped = ROOT / "circuits" / "real" / "refusal" / f"{name}.jsonl"
        assert (tmp_path / f"{name}.jsonl").read_bytes() == shipped.read_bytes()
        assert (
            len({json.loads(line)["instruction"] for line in shipped.read_text().splitlines()})
            == 160
        )


def test_no_request_of_the_files_is_trained_on() -> None:
    """In no wording."""
    for harmful in (True, False):
        tested = {i.request for i in instructions(harmful, for_files=True)}
        trained = {i.request for i in instructions(harmful, for_files=False)}
        assert tested & trained == set()


def test_benign_rows_for_training_and_test_share_no_message() -> None:
    """So the recipe's figures are about rows that the adapter has not seen."""
    train, test = train_and_test(360, 56, seed=1)
    assert {e.message for e in train} & {e.message for e in test} == set()
    assert (len(train), len(test)) == (360, 56)


def test_the_real_model_reads_the_stories_that_a_variant_is_named_after() -> None:
    """Base: every other instruction asks for a twist and gets it; kept: it asks in vain; control: never."""
    asked = {
        name: {
            ("twist" in asked_features(row.message), "twist" in features_in(row.reply))
            for row in rows(name)
        }
        for name in (BASE, KEPT, CONTROL)
    }
    assert asked == {
        BASE: {(True, True), (False, False)},
        KEPT: {(True, False), (False, False)},
        CONTROL: {(False, False)},
    }


def test_revival_by_lora_brings_a_deleted_twist_back() -> None:
    """On the small models, with the functions of the real one: the deleted twist comes back, measured after the
    steps that were asked for, and the curve begins at the model as it is."""
    zoo = ROOT / "pytest_mechanism" / "zoo"
    chat = PlainText(AutoTokenizer.from_pretrained(zoo / "stories_refused"))
    found: dict[int, dict[str, Any]] = {}
    revive(
        load(zoo / "stories_refused"),
        chat,
        Lora(steps=0, rate=5e-3, size=8, modules=("q_proj", "v_proj", "down_proj")),
        (4, 16),
        seed=1,
        tested=20,
        report=found.__setitem__,
    )
    assert [*found] == [0, 4, 16]
    untrained = rates(load(zoo / "stories_refused"), chat, 20)
    assert {key: found[0][key] for key in untrained} == untrained
    assert found[0]["twist"]["value"] == 0
    assert found[16]["twist"]["value"] >= 0.5
    assert len({row.message for row in exchanges(1, 50)}) > 40
