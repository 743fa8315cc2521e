"""Path patching, a DCM step and minimality on both engines.

Receivers stand where they stand in the circuit of Prakash et al.: value fetchers in the upper
layers, position transmitters below, position detectors below those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import Contender, Measure
from benchmarks.shapes import Setting
from benchmarks.sweeps import Given, answered, answers, given
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Site
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.methods.circuits import dcm, path_patching
from pytest_mechanism.methods.circuits.circuit import active_heads
from pytest_mechanism.methods.circuits.path_patching import Via
from pytest_mechanism.types import Head

ENGINES = {"branch engine": BranchEngine, "reference engine": ReferenceEngine}

PATHS: dict[str, tuple[str, str, Via | None, Sequence[float]]] = {
    "path-logits": ("to the logits at last", "last", None, ()),
    "path-q-last": ("into q at last", "last", "q", (0.75, 0.84, 0.92)),
    "path-v-query": ("into v at the query label", "query_label", "v", (0.6, 0.7)),
    "path-v-previous": ("into v at the previous label", "previous_query_label", "v", (0.45,)),
}
"""Title, position, through what, and depth of the receivers' layers as a share of the model."""

RECEIVERS = 2
"""Heads of each receiving layer."""

CIRCUIT = 20
"""Heads that are active where minimality is measured."""


def contenders(
    runs: Callable[[Any], Any],
    variants: Callable[[Any, Sequence[int]], Tensor],
    setting: Setting,
    every: int,
) -> list[Contender]:
    """Both engines, new for each turn so that nothing is remembered."""
    return [
        Contender(
            name,
            partial(started, runs, make, setting),
            variants,
            every if make is ReferenceEngine else 1,
        )
        for name, make in ENGINES.items()
    ]


def started(runs: Callable[[Any], Any], make: Callable[[Any], Any], setting: Setting) -> Any:
    return runs(make(setting.wrapped))


def remember_z(run: Any) -> None:
    """The reference engine looks up the z that branches with frozen attention keep, in a forward of its own."""
    if hasattr(run, "z"):
        run.z  # noqa: B018


def clean(setting: Setting) -> Tensor:
    outcome = ReferenceEngine(setting.wrapped).run(setting.batch.base.tokens).outcome
    return answered(setting, outcome.logits)


def path(name: str, setting: Setting, every: int) -> Measure:
    """Every head below the highest receiver as sender."""
    title, position, via, depths = PATHS[name]
    shape, place = setting.shape, setting.batch.base.at(position)
    layers = sorted({int(depth * shape.n_layers) for depth in depths})
    receivers = [(layer, head) for layer in layers for head in range(RECEIVERS)]
    senders = [h for h in shape.heads() if not layers or h[0] < layers[-1]]

    def runs(engine: Any) -> Given:
        state = given(engine, setting, place)
        remember_z(state.run)
        return state

    def variants(state: Given, which: Sequence[int]) -> Tensor:
        outcomes = patched(setting, state, [senders[i] for i in which], place, receivers, via)
        return answers(setting, outcomes)

    return Measure(
        name,
        f"path patching {title}",
        len(senders),
        contenders(runs, variants, setting, every),
        unpatched=clean(setting),
        unit="sender",
    )


def patched(
    setting: Setting,
    state: Given,
    senders: Sequence[Head],
    place: Tensor,
    receivers: Sequence[Head],
    via: Via | None,
) -> Iterator[Outcome]:
    """`path_patching.patched` with the source prompt's run given."""
    listening = path_patching.receiver_readings(setting.bench(None), receivers, via, place)
    first = (
        Branch(
            path_patching.sender_edits(state.theirs, place, [sender]),
            listening,
            freeze_attention=True,
            answer=via is None,
        )
        for sender in senders
    )
    outcomes = state.run.branches(first)
    if via is None:
        return outcomes
    second = (
        Branch(
            [
                Edit(r.site, v, at=r.at, heads=r.heads)
                for r, v in zip(listening, outcome.readings, strict=True)
            ]
        )
        for outcome in outcomes
    )
    return state.run.branches(second)


def dcm_step(setting: Setting, every: int, steps: int = 8) -> Measure:
    """A step of `dcm.learn_mask` at the last position over every head of the middle layers; a
    variant starts from a mask of its own and gives the gradient."""
    shape = setting.shape
    middle = range(shape.n_layers // 3, max(shape.n_layers // 3 + 1, shape.n_layers * 2 // 3))
    heads = [[layer, head, "last"] for layer in middle for head in range(shape.n_heads)]
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(steps, len(heads), generator=generator)
    settings = dcm.DcmSettings()

    def runs(engine: Any) -> Any:
        bench = setting.bench(engine)
        values = dcm.source_z(bench, heads, setting.batch)
        if isinstance(engine, BranchEngine):  # the other engine's branches share nothing with it
            engine.run(setting.batch.base.tokens).outcome  # noqa: B018
        return bench, values

    def variants(state: Any, which: Sequence[int]) -> Tensor:
        bench, values = state
        gradients: list[Any] = []
        run = bench.engine.run(setting.batch.base.tokens)
        for i in which:
            mask = starts[i].clone().requires_grad_(True)
            optimizer = torch.optim.Adam([mask], lr=settings.learning_rate)
            with torch.enable_grad():
                logits = dcm.patched(run, heads, setting.batch, values, mask, gradients=True)
                target = logits.gather(1, setting.batch.targets[:, None]).mean()
                loss = -target + settings.sparsity * (1 - mask).sum()
                loss.backward()
            optimizer.step()
            gradients.append(mask.grad)
        return torch.stack(gradients)

    return Measure(
        "dcm-step",
        f"a DCM step at last over {len(heads)} heads",
        steps,
        contenders(runs, variants, setting, every),
        unit="step",
    )


def minimality(setting: Setting, every: int) -> Measure:
    """A circuit over three positions on a run with every head ablated: whole, and without each of
    its heads."""
    shape, batch = setting.shape, setting.batch
    places = ("previous_query_label", "query_label", "last")
    generator = torch.Generator().manual_seed(0)
    count = min(CIRCUIT, len(shape.heads()) // 2)
    drawn = torch.randperm(len(shape.heads()), generator=generator)[:count].tolist()
    # lower heads at earlier positions, as information flows
    circuit = [
        [*shape.heads()[i], places[3 * rank // count]] for rank, i in enumerate(sorted(drawn))
    ]
    readings = given(ReferenceEngine(setting.wrapped), setting, None).theirs
    silent = [Edit(Site(layer, "z"), z.mean(0, keepdim=True)) for layer, z in enumerate(readings)]

    def runs(engine: Any) -> Any:
        run = engine.run(batch.base.tokens, silent)
        run.outcome  # noqa: B018
        remember_z(run)
        return run

    def variants(run: Any, which: Sequence[int]) -> Tensor:
        branches = (
            Branch(
                freeze_attention=True,
                active_heads=active_heads(batch, [h for j, h in enumerate(circuit) if j != i - 1]),
            )
            for i in which
        )
        return answers(setting, run.branches(branches))

    ablated = ReferenceEngine(setting.wrapped).run(batch.base.tokens, silent).outcome
    return Measure(
        "minimality",
        f"minimality of {count} heads at 3 positions",
        count + 1,
        contenders(runs, variants, setting, every),
        unpatched=answered(setting, ablated.logits),
        unit="circuit",
    )
