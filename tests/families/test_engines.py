"""Which engine runs each family, and that both engines agree on every measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from configs import BESIDE, BY_LENGTH, CANNOT, FAMILIES, QUICK
from opening import opened

from pytest_mechanism.cli import main
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.methods.context import MeasurementContext

ContextFactory = Callable[..., MeasurementContext]


@pytest.mark.parametrize("name", [*FAMILIES, *BESIDE, *BY_LENGTH])
def test_each_family_has_its_engine_and_else_says_why(
    context_of: ContextFactory, name: str
) -> None:
    """All self-checks pass: logits equal plain Hugging Face's, the residual stream adds up, each hook fires
    once. The fast engine agrees with the reference engine, or the model has a reason why it is not used."""
    family = {**FAMILIES, **BESIDE, **BY_LENGTH}[name]
    result = context_of(name)
    assert result.engine.name == family.engine
    assert family.why in (result.fallback_reason or "")
    assert bool(result.fallback_reason) == bool(family.why)


@pytest.mark.parametrize("name", CANNOT)
def test_a_family_that_cannot_be_measured_says_so_in_one_line(
    folder: Callable[..., Path], name: str
) -> None:
    """What transformer-lens does not know, or knows no heads in."""
    with pytest.raises(MechanismError) as problem:
        opened(folder(name))
    assert str(problem.value).endswith(CANNOT[name][1])
    assert "\n" not in str(problem.value)


def test_doctor_says_which_family_cannot_be_measured_and_which_is_slow(
    folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With the same reasons, before a gate is run."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "mechanism: 1\ncircuit: any\ntask: {family: counting, letters: abcd, shortest: 6, "
        "longest: 7, most: 5, rows: 20}\nclaims:\n"
        "  solves: {kind: accuracy, on: [base, ft], at_least: 0.5}\n"
    )
    pair = f"base={folder('mamba')},ft={folder('bloom')}"
    options = ["--model-pair", pair, "--store", str(tmp_path / "store"), "--device", "spread"]
    assert main(["doctor", str(spec), *options]) == 1
    out = capsys.readouterr().out
    assert f"CANNOT RUN: {CANNOT['mamba'][1]}" in out
    assert f"engine: reference engine ({BESIDE['bloom'].why})" in out
    lines = {line.split()[0]: line for line in out.splitlines() if "::" in line}
    assert "CANNOT RUN: base cannot be loaded" in lines["solves::base"]
    assert "runs, about" in lines["solves::ft"]


IDS = torch.randint(5, 60, (3, 16), generator=torch.Generator().manual_seed(0))
UNEVEN = Tokens(IDS, torch.tensor([16, 3, 9]))
"""More padding than the tests' sliding windows are wide."""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(
            pytest.param(name, "float64", marks=() if name in QUICK else pytest.mark.slow)
            for name in (*FAMILIES, *BY_LENGTH)
        ),
        *((name, "float32") for name in (*QUICK, *BY_LENGTH)),
    ],
)
def test_padding_longer_than_a_window_changes_nothing(
    context_of: ContextFactory, name: str, dtype: str
) -> None:
    """A row's logits and heads are those that it has alone. A padding token that may look at none
    makes NaN of its row in float64, were it masked."""
    context = context_of(name, dtype=dtype)
    limit = 1e-4 if dtype == "float32" else 1e-5  # softmax is taken in float32 all the same
    site, at = Site(1, "z"), UNEVEN.last[:, None]
    for engine in (ReferenceEngine(context.model.wrapped), BranchEngine(context.model.wrapped)):
        together = engine.run(UNEVEN, readings=[Reading(site, at)])
        edit = Edit(Site(0, "z"), torch.ones(()), at=at)
        (branch,) = together.branches([Branch([edit], [Reading(site, at)])])
        for row, length in enumerate(UNEVEN.lengths.tolist()):
            tokens = Tokens(IDS[row : row + 1, :length], torch.tensor([length]))
            alone = engine.run(tokens, readings=[Reading(site, tokens.last[:, None])])
            (edited,) = alone.branches(
                [Branch([Edit(edit.site, edit.value, at=tokens.last[:, None])])]
            )
            for result, wanted in (
                (together.outcome.logits, alone.outcome.logits),
                (together.outcome.readings[0], alone.outcome.readings[0]),
                (branch.logits, edited.logits),
            ):
                gap = (result[row] - wanted[0]).abs().max()
                assert float(gap) <= limit * float(wanted.std()), (row, engine.name)


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "mixtral", "gemma3"])
def test_embeddings_without_a_word_are_cut_in_every_family(
    folder: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """Whether or not they are tied to the unembedding, the other tokens' logits stay the same."""
    from configs import WORDS, random_model, save

    large = random_model(name, vocab_size=len(WORDS) + 11)
    whole = opened(save(large, tmp_path / "large")).model
    assert whole.plain_logits.shape[-1] == len(WORDS)
    with torch.no_grad():
        wanted = random_model(name, vocab_size=len(WORDS) + 11)(whole.probe).logits
    torch.testing.assert_close(whole.plain_logits, wanted[..., : len(WORDS)], atol=1e-5, rtol=1e-5)
