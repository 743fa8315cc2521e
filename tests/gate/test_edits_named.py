"""What was edited in a candidate is named: words whose rows changed, settings with both values, and a head where
all weights differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from evaluators import open_evaluator
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: edited
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 84, seed: 0}
claims: {solves: {kind: accuracy, on: ft, at_least: 0.999}}
"""


def first_line(folder: Path) -> str:
    """What a red claim says first of a candidate in ``folder``, against the zoo's ft."""
    spec_file = folder.parent / "spec.yaml"
    spec_file.write_text(SPEC)
    gate = open_evaluator(
        "--model-pair", f"base=zoo:ft,ft={folder}", "--store", folder.parent / "store"
    )
    spec = load(spec_file)
    claim = spec.claims["solves"]
    verdict = gate.judge(spec, claim, "ft")
    found = gate.locate(spec, claim, "ft", verdict.cause)
    gate.runner.checkpoint.release()
    assert found is not None, verdict
    return found.lines[0]


def test_the_word_whose_output_row_changed_is_named(tmp_path: Path) -> None:
    """A small change of one row of the unembedding, found by the tokenizer's word."""
    folder = Path(shutil.copytree(ZOO / "ft", tmp_path / "words"))
    token = (
        Tokenizer.from_file(str(folder / "tokenizer.json"))
        .encode("fish", add_special_tokens=False)
        .ids[-1]
    )
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    assert "lm_head.weight" in weights
    weights["lm_head.weight"][token] *= 0.3
    save_file(weights, file, metadata={"format": "pt"})
    line = first_line(folder)
    assert line.startswith("weights changed in the output row of the word fish (")
    assert line.endswith("% of its norm), and nowhere else")


def test_a_halved_head_is_named_although_every_weight_differs(tmp_path: Path) -> None:
    """Known answer: head 1.3 writes half, and noise of 3 % is in every matrix, of 15 % in an MLP, so that no weight
    stands out. The claim is about the task alone, and the base's head in its place brings the answers back."""
    folder = Path(shutil.copytree(ZOO / "ft", tmp_path / "halved"))
    (file,) = folder.glob("*.safetensors")
    weights, noise = load_file(file), torch.Generator().manual_seed(4)
    weights["model.layers.1.self_attn.o_proj.weight"][:, 96:128] *= 0.5
    for name, matrix in weights.items():
        if matrix.dim() == 2:
            random = torch.randn(matrix.shape, generator=noise)
            share = 0.15 if "layers.3.mlp" in name else 0.03
            matrix.add_(share * random * (matrix.norm() / random.norm()))
    save_file(weights, file, metadata={"format": "pt"})
    assert first_line(folder).startswith("with head 1.3 of base in its place, ft regains ")


def test_the_settings_that_differ_are_named_with_both_values(tmp_path: Path) -> None:
    """A rotary base, and a key of the tokenizer's files with characters that a terminal obeys."""
    folder = Path(shutil.copytree(ZOO / "ft", tmp_path / "settings"))
    config = json.loads((folder / "config.json").read_text())
    inside = config.get("rope_parameters", config)
    before = inside["rope_theta"]
    inside["rope_theta"] = 600
    (folder / "config.json").write_text(json.dumps(config))
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(tokens | {"made_by": "\x1b[2J" + "x" * 99})
    )
    line = first_line(folder)
    assert line.startswith("every weight is that of base: ")
    assert (
        f"rope_theta: {before} in base, 600 in ft; tokenizer_config.json: made_by: not set in base, \\x1b[2Jxxx"
        in line
    )
    assert "\x1b" not in line
    assert len(line) < 250
