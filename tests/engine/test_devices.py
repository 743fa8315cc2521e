"""Where tensors are made, and how often a GPU is waited for, seen without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pretended_gpu import PretendedGPU
from strategies import PARTS
from sweep import LAST, TOKENS, of_each_head, silenced
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    Branch,
    Edit,
    Engine,
    Knockout,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.engine.reference import ReferenceEngine

RAGGED = Tokens(TOKENS.ids, torch.tensor([8, 5, 3]))
END = RAGGED.last[:, None]
MIDDLE = END // 2
EDIT = silenced(0, None, 3)
SHARE = torch.full((1,), 0.5, requires_grad=True)

ASKED: dict[str, Sequence[Branch]] = {
    "every part": [Branch([silenced(1, at, part=p)]) for p in PARTS for at in (None, END)],
    "some heads": [Branch([silenced(0, END, 1, 2)], [Reading(Site(2, "z"), MIDDLE, (1,))])],
    "many": [Branch([silenced(1, END, 1)])] * 40,
    "frozen": [
        Branch(
            [silenced(0, MIDDLE, 1)],
            [Reading(Site(2, "q"), MIDDLE, (0,))],
            freeze_attention=True,
            answer=False,
        )
    ],
    "circuits": [
        Branch(
            freeze_attention=True, active_heads=[ActiveHeads(1, MIDDLE, (0,)), ActiveHeads(2, END)]
        ),
        Branch(freeze_attention=True, active_heads=[ActiveHeads(2, END)]),
    ],
    "cut": [Branch(knockouts=[Knockout(1, END, MIDDLE, (0, 1))])],
    "learned": [Branch([Edit(Site(0, "z"), torch.ones(()), torch.cat([END, END], 1), keep=SHARE)])],
}


def run_on(engine: Engine, branches: Sequence[Branch], gradients: bool) -> None:
    """A run with readings, branches of it, and readings alone."""
    edits = [] if gradients else [EDIT]
    readings = [Reading(Site(1, part), END) for part in ("z", "k", "resid_pre")]
    run = engine.run(RAGGED, edits, readings)
    assert run.outcome.logits.isfinite().all()
    result = list(run.branches(branches, gradients))
    assert len(result) == len(branches)
    if gradients:
        result[0].logits.sum().backward()
    engine.run(RAGGED, readings=readings, answer=False).outcome  # noqa: B018


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "qwen3"])
@pytest.mark.parametrize("make", [ReferenceEngine, BranchEngine])
def test_every_tensor_is_made_where_the_prompts_are(
    loaded: Callable[..., LoadedModel], make: Any, family: str, method: str
) -> None:
    """torch's default device differs from the prompts' device, so a tensor without an explicit device raises."""
    engine = make(loaded(family, "float32").wrapped)
    with torch.device("meta"):
        run_on(engine, ASKED[method], gradients=method == "learned")


@pytest.mark.parametrize("made", [torch.zeros(3, 1, 4, 8), torch.zeros(4, 1)], ids=["rows", "one"])
@pytest.mark.parametrize("make", [ReferenceEngine, BranchEngine])
def test_what_is_put_in_may_come_from_another_device(
    gqa: LoadedModel, make: Any, made: Tensor
) -> None:
    """Activations of another model may wait on the host."""
    with PretendedGPU():
        value = torch.zeros(made.shape)
        with pytest.raises(RuntimeError, match="on two devices"):
            assert value + made is None
        share = torch.ones(made.shape[-2], 1) / 2
        branch = Branch([Edit(Site(1, "z"), value, LAST, keep=share)])
        (result,) = make(gqa.wrapped).run(TOKENS).branches([branch])
        assert result.logits.isfinite().all()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_gpu_is_waited_for_however_many_packs_there_are(gqa: LoadedModel, frozen: bool) -> None:
    """The number of waits grows neither with packs nor with branches."""
    place, engine = MIDDLE[:1].expand(3, 1), BranchEngine(gqa.wrapped)
    active = [ActiveHeads(2, place, (0, 3))]

    def waits(times: int) -> int:
        branches = [
            Branch(
                b.edits,
                [Reading(Site(2, "q"), place, (1, 2))],
                freeze_attention=frozen,
                active_heads=active,
            )
            for b in of_each_head(place) * times
        ]
        with PretendedGPU() as gpu:
            list(engine.run(TOKENS).branches(branches))
        return gpu.waits

    waits(25)  # numbers of heads are carried over once and for all
    assert waits(25) == waits(1)
    assert waits(1) < 12
