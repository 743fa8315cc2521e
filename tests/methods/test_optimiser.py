"""Optimisers do what their formulas say, in the product and in the recipes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_mechanism.measurements.descent import ADAMW, Descent
from pytest_mechanism.methods.weights.optimiser import make_optimiser, set_rates
from recipes import trainer

SLOPES = (2.0, -1.0, 0.5, 4.0)
"""Gradients of four steps; powers of two, so that no processor rounds."""


def descended(descent: Descent, rates: tuple[float, ...]) -> float:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = make_optimiser([{"params": [weight], "lr": 1.0}], descent)
    for slope, rate in zip(SLOPES, rates, strict=True):
        set_rates(optimiser, rate)
        optimiser.zero_grad()
        (weight * slope).sum().backward()
        optimiser.step()
    return float(weight.detach())


def test_sgd_adds_momentum_to_the_gradient() -> None:
    """v <- m v + g, w <- w - r v, with a rate of its own in each step."""
    rates = (1.0, 0.5, 0.25, 0.0)
    velocity = weight = 0.0
    for slope, rate in zip(SLOPES, rates, strict=True):
        velocity = 0.5 * velocity + slope
        weight -= rate * velocity
    assert descended(Descent("sgd", 0.5), rates) == weight
    assert descended(Descent("sgd"), rates) == -(2.0 - 0.5 + 0.125)


def trained(**settings: Any) -> Tensor:
    """A small linear map that a recipe's trainer has trained for six steps."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 2), torch.randn(6, 4, 3)
    trainer.train(
        list(model.parameters()), inputs, lambda x: model(x).square().mean(), rate=0.1, **settings
    )
    return model.weight.detach().clone()


def test_recipes_train_by_adamw_as_they_did() -> None:
    """The committed models stay reproducible: their schedule is that of torch's LambdaLR, bit for bit."""
    share = trainer.schedule(6, 3, 0.5)
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 2), torch.randn(6, 4, 3)
    optimiser = torch.optim.AdamW(model.parameters(), 0.1, betas=(0.9, 0.98), weight_decay=0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    for x in inputs:
        optimiser.zero_grad()
        model(x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        scheduler.step()
    assert torch.equal(trained(rate_share=share), model.weight.detach())
    assert not torch.equal(trained(), model.weight.detach())


def test_recipes_train_as_the_paper_does() -> None:
    """SGD with momentum, warm-up and cosine decay: as torch's SGD with the schedule's rates."""
    descent = Descent("sgd", 0.9, warm_up=2, decay="cosine")
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 2), torch.randn(6, 4, 3)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step, x in enumerate(inputs, start=1):
        optimiser.param_groups[0]["lr"] = 0.1 * descent.share(step, 6)
        optimiser.zero_grad()
        model(x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    assert torch.equal(trained(descent=descent, steps=6), model.weight.detach())


def test_a_recipe_with_a_schedule_says_how_many_steps_it_has() -> None:
    with pytest.raises(ValueError, match="cosine decay: needs the number of steps"):
        trained(descent=Descent(decay="cosine"))
    assert trained(descent=ADAMW) is not None
