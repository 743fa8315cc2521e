"""What the branch engine does when memory runs out and when hooks do not fire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from sweep import LAST, TOKENS, logits, of_each_head, silenced

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.engine import branch as branch_module
from pytest_mechanism.engine import record as record_module
from pytest_mechanism.engine import replay as replay_module
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import (
    Branch,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.engine.memory import TokenLimit
from pytest_mechanism.errors import SelfCheckError
from pytest_mechanism.model_families.bridge import BridgeModel

# -- when memory runs out


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], list[int]]:
    """A device with room for so many branches at once; how many were tried is written down."""

    def of(room: int, message: str = "CUDA out of memory. Tried to allocate 2 GiB") -> list[int]:
        tried: list[int] = []
        right = replay_module.replay

        def replay(run: Any, pack: Any) -> Any:
            tried.append(len(pack))
            if len(pack) > room:
                raise RuntimeError(message)
            return right(run, pack)

        monkeypatch.setattr(branch_module, "replay", replay)
        return tried

    return of


def test_branches_that_do_not_fit_go_in_smaller_packs(gqa: LoadedModel, small: Any) -> None:
    """Halved until they fit, in order, and later packs are not tried in vain."""
    branches = of_each_head(LAST)
    wanted = logits(BranchEngine(gqa.wrapped).run(TOKENS).branches(branches))
    tried = small(3)
    engine = BranchEngine(gqa.wrapped)
    result = logits(engine.run(TOKENS).branches(branches))
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-5)
    assert tried == [12, 6, 3, 3, 3, 3]
    tried.clear()
    list(engine.run(TOKENS).branches(branches[:5]))
    assert tried == [3, 2]


def test_more_is_tried_again_when_memory_did_not_run_out_for_a_while(
    gqa: LoadedModel, small: Any
) -> None:
    """Another process may have filled the memory. Each time that it was in vain, the next try comes
    later."""
    branches = of_each_head(LAST)
    tried = small(3)
    engine = BranchEngine(gqa.wrapped, limit=TokenLimit(patience=1))
    run = engine.run(TOKENS)
    list(run.branches(branches))
    # twice after 6 packs: 12 failed, 6 failed, so patience is 4
    assert tried == [12, 6, 3, 3, 3, 3]
    tried.clear()
    list(run.branches(branches))
    assert tried == [6, 3, 3, 3, 3]
    tried = small(12)
    for _ in range(6):  # 8 in a row go well, 4 of them above
        list(run.branches(branches))
    assert tried == [3] * 4 + [6] * 8 + [12]


def test_a_branch_that_does_not_fit_alone_is_an_error(gqa: LoadedModel, small: Any) -> None:
    """The runner says then that the batches are too large."""
    tried = small(0)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(BranchEngine(gqa.wrapped).run(TOKENS).branches(of_each_head(LAST)))
    assert tried == [12, 6, 3, 1]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)",
    ],
)
def test_memory_runs_out_in_many_words(gqa: LoadedModel, small: Any, message: str) -> None:
    """Whoever of the libraries below notices first."""
    tried = small(6, message)
    assert len(list(BranchEngine(gqa.wrapped).run(TOKENS).branches(of_each_head(LAST)))) == 12
    assert tried == [12, 6, 6]


@pytest.mark.parametrize("answer", [True, False])
def test_what_is_remembered_makes_room_for_a_run_that_does_not_fit(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    """Records of other runs go; without any, it is the run that does not fit."""
    engine, reading = BranchEngine(gqa.wrapped), Reading(Site(1, "z"), LAST)
    wanted = engine.run(TOKENS, readings=[reading]).outcome
    engine.records.clear()
    for name in ("record", "read_only_forward"):
        right = getattr(record_module, name)

        def full(*arguments: Any, right: Any = right) -> Any:
            if engine.records:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            return right(*arguments)

        monkeypatch.setattr(branch_module, name, full)
    other = Tokens(TOKENS.ids + 1, TOKENS.lengths)
    assert engine.run(other).outcome.logits.isfinite().all()
    assert len(engine.records) == 1
    result = engine.run(TOKENS, readings=[reading], answer=answer).outcome
    assert len(engine.records) == answer
    torch.testing.assert_close(result.readings, wanted.readings)


def test_another_error_is_not_taken_for_want_of_memory(gqa: LoadedModel, small: Any) -> None:
    """It is raised at once."""
    tried = small(0, "shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(BranchEngine(gqa.wrapped).run(TOKENS).branches(of_each_head(LAST)))
    assert tried == [12]


def test_running_out_in_the_middle_of_a_layer_leaves_no_hook_behind(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was half done is done again, and the model is as it was."""
    branches = [replace(b, readings=[Reading(Site(2, "q"), LAST)]) for b in of_each_head(LAST)]
    wanted = logits(BranchEngine(gqa.wrapped).run(TOKENS).branches(branches))
    right, failures = replay_module.run_layer, iter([None])

    def run_layer(run: Any, layout: Any, changes: Any, layer: int, *more: Any) -> Any:
        result = right(run, layout, changes, layer, *more)
        if layer == 1 and next(failures, 1) is None:
            raise RuntimeError("CUDA out of memory.")
        return result

    monkeypatch.setattr(replay_module, "run_layer", run_layer)
    result = logits(BranchEngine(gqa.wrapped).run(TOKENS).branches(branches))
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-5)
    hanging = [n for n, point in gqa.wrapped.bridge.hook_dict.items() if point.fwd_hooks]
    replaced = [
        n for n, module in gqa.wrapped.bridge.named_modules() if "forward" in module.__dict__
    ]
    assert (hanging, replaced) == ([], [])


# -- hooks that do not fire


@pytest.fixture
def deafen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on, hooks on layer 1 are never called."""
    right = BridgeModel.hooked

    def hooked(model: BridgeModel, hooks: Any) -> Any:
        return right(model, [(name, hook) for name, hook in hooks if "blocks.1." not in name])

    return lambda: monkeypatch.setattr(BridgeModel, "hooked", hooked)


def test_a_branch_whose_hook_does_not_fire_is_an_error(
    gqa: LoadedModel, deafen: Callable[[], None]
) -> None:
    """Its edit would be lost without a word."""
    run = BranchEngine(gqa.wrapped).run(TOKENS)
    assert run.outcome.logits.isfinite().all()
    deafen()
    with pytest.raises(
        SelfCheckError, match=r"hook blocks\.1\.attn\.hook_z fired 0 times in one l"
    ):
        list(run.branches([Branch([silenced(0, LAST), silenced(1, LAST)])]))


@pytest.mark.parametrize("reading", [Site(1, "z"), Site(2, "z")], ids=["read", "edited"])
def test_a_read_only_forward_whose_hook_does_not_fire_is_an_error(
    gqa: LoadedModel, deafen: Callable[[], None], reading: Site
) -> None:
    """Nothing read there, or an edit before it that was lost."""
    deafen()
    run = BranchEngine(gqa.wrapped).run(
        TOKENS, [silenced(1, LAST)], [Reading(reading)], answer=False
    )
    with pytest.raises(SelfCheckError, match=r"hook blocks\.1\.attn\.hook_z fired 0 times"):
        assert run.outcome


def test_a_run_whose_hook_does_not_fire_is_an_error(
    gqa: LoadedModel, deafen: Callable[[], None]
) -> None:
    """A record with z missing would be worth nothing."""
    deafen()
    with pytest.raises(SelfCheckError, match=r"hook blocks\.1\.attn\.hook_z fired 0 times"):
        assert BranchEngine(gqa.wrapped).run(TOKENS).outcome
