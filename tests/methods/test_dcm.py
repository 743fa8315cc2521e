"""When a mask is judged, and which one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_mechanism.engine import branch as branch_module
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.measurements.dcm import DcmMask
from pytest_mechanism.methods.circuits import dcm
from pytest_mechanism.methods.circuits.dcm import DcmSettings, learn_mask
from pytest_mechanism.methods.context import MeasurementContext

ContextFactory = Callable[[str], MeasurementContext]
HEADS = [[2, head, "last"] for head in range(4)]
Mask = tuple[float, float, float, float]


@pytest.fixture
def trained(context_of: ContextFactory, monkeypatch: pytest.MonkeyPatch):
    """The heads that are selected where the mask is this one after each step, and has that accuracy;
    and which selections were judged."""

    def of(
        masks: list[Mask], accuracy: Callable[[tuple[bool, ...]], float], **settings: int
    ) -> Any:
        steps, judged = iter(masks), []

        class Scripted:
            def __init__(self, parameters: list[torch.Tensor], lr: float) -> None:
                (self.mask,) = parameters

            def zero_grad(self) -> None:
                self.mask.grad = None

            def step(self) -> None:
                self.mask.data = torch.tensor(next(steps))

        def gives_target(
            context: MeasurementContext, heads: Any, rows: Any, selected: torch.Tensor, mlps: Any
        ) -> torch.Tensor:
            judged.append(tuple(selected.tolist()))
            return torch.arange(100) < round(100 * accuracy(judged[-1]))

        monkeypatch.setattr(torch.optim, "Adam", Scripted)
        monkeypatch.setattr(dcm, "gives_target", gives_target)
        few = {"batch": 2, "train": 2 * len(masks), "validation": 2, "epochs": 1} | settings
        result = learn_mask(context_of("ft"), HEADS, "position", DcmSettings(**few)).selected
        return [head for _, head, _ in result], judged

    return of


def mask_without(*heads: int) -> Mask:
    return tuple(0.2 if head in heads else 0.9 for head in range(4))


def flags_of(*heads: int) -> tuple[bool, ...]:
    return tuple(head in heads for head in range(4))


def test_masks_are_judged_every_four_steps_and_after_the_last(trained) -> None:
    """As published, 16 times in two epochs of 32 steps; a mask in between is not looked at."""
    masks = [
        mask_without(0),
        mask_without(0, 1),
        mask_without(1),
        mask_without(2),
        mask_without(3),
        mask_without(0, 3),
    ]
    chosen, judged = trained(masks, lambda _: 0.5)
    assert judged == [flags_of(2), flags_of(0, 3)]
    assert chosen == [0, 3]
    published = DcmSettings()
    assert (
        published.epochs * -(-published.train // published.batch) // published.evaluate_every == 16
    )


def test_the_best_mask_is_not_the_last_one(trained) -> None:
    """The one with the best accuracy wins, whenever it was."""
    masks = [mask_without(1)] * 4 + [mask_without(0, 1, 2)] * 4
    chosen, _ = trained(masks, lambda selected: 0.9 if selected == flags_of(1) else 0.8)
    assert chosen == [1]


def test_of_masks_that_do_alike_the_one_with_more_heads_is_taken(trained) -> None:
    masks = [mask_without(1)] * 4 + [mask_without(1, 2)] * 4 + [mask_without(3)] * 4
    assert trained(masks, lambda _: 0.7)[0] == [1, 2]


def test_a_selection_is_judged_once(trained) -> None:
    """Masks that select the same heads are one to the validation rows."""
    masks = [mask_without(1)] * 12
    assert trained(masks, lambda _: 0.7)[1] == [flags_of(1)]


def test_what_a_mask_selects_is_said_with_its_rows(
    context_of: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known answer: of layer 2 the transmitter alone, and its rows come out right."""
    real = DcmSettings

    def few(**options: Any) -> DcmSettings:
        return real(**options, train=256, validation=64)

    monkeypatch.setattr(dcm, "DcmSettings", few)
    observed = dcm.measure(
        context_of("ft"),
        DcmMask(heads=[[2, h] for h in range(4)], at="last", variable="position", sparsity=0.01, rate=0.1),
        [],
    )  # fmt: skip
    assert observed.selected == ((2, 2),)
    assert len(observed.example_ids) == 64
    assert observed.values["patched"].mean() > 0.9


def test_a_record_that_is_too_large_to_keep_is_made_once_in_a_training(
    context_of: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps on one batch take one forward besides their branches, and the evaluation another one."""
    context, made = context_of("ft"), []
    monkeypatch.setattr(context, "engine", BranchEngine(context.model.wrapped, memory=1))
    right = branch_module.record

    def record(*arguments: Any) -> Any:
        made.append(len(arguments[1].ids))
        return right(*arguments)

    monkeypatch.setattr(branch_module, "record", record)
    settings = DcmSettings(batch=4, train=4, validation=2, epochs=6, evaluate_every=100)
    learn_mask(context, HEADS, "position", settings)
    assert made == [4, 2]
