"""The sweep of every head: its z from the source prompt, one head at a time, by each contender.

A variant is one head; its value is the log-probability of the answer, [R], over the whole
vocabulary. ``everywhere`` patches at all positions, otherwise at the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import Contender, Measure
from benchmarks.operations import Cost
from benchmarks.shapes import Setting
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Reading, Run, Site
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.methods.readout import log_probabilities

NNSIGHT = find_spec("nnsight") is not None


def sweep(setting: Setting, everywhere: bool, every: int) -> Measure:
    """One of two measures; slow contenders are timed on one head in ``every``."""
    # nothing is gained by asking for whole-prompt branches together, so some of them tell as much
    some = max(1, every // 6) if everywhere else 1
    contenders = [
        engine_contender("branch engine", BranchEngine, setting, everywhere, some),
        engine_contender("reference engine", ReferenceEngine, setting, everywhere, every),
        Contender(
            "transformer-lens",
            partial(lens_runs, setting),
            partial(lens_variants, setting, everywhere),
            every,
        ),
    ]
    for name, keep in (("plain hooks", 0), ("plain hooks, last logits", 1)):
        plain = Plain(setting, everywhere, keep)
        contenders.append(Contender(name, plain.runs, plain.variants, every))
    if NNSIGHT:
        sight = Sight(setting, everywhere, 0)
        contenders.append(Contender("nnsight", sight.runs, sight.variants, every))
    clean = ReferenceEngine(setting.wrapped).run(setting.batch.base.tokens).outcome
    where = "all positions" if everywhere else "last position"
    shape = setting.shape
    length = setting.batch.base.tokens.ids.shape[1]
    return Measure(
        f"sweep-{'all' if everywhere else 'last'}",
        f"every head's z, {where}",
        len(shape.heads()),
        contenders,
        unpatched=answered(setting, clean.logits),
        bound=Cost.of(setting).bound(everywhere, length, shape.n_heads),
        unit="head",
    )


def answered(setting: Setting, logits: Tensor) -> Tensor:
    """[R], log-probability of the answers from [R, V]."""
    return logits.log_softmax(-1).gather(1, setting.batch.answers[:, None])[:, 0]


def answers(setting: Setting, outcomes: Iterable[Outcome]) -> Tensor:
    """[N, R], log-probability of the answers in an engine's branches, as methods take it."""
    return torch.stack([*log_probabilities(outcomes, setting.batch.answers[:, None])])


@dataclass(frozen=True, eq=False)
class Given:
    """What an engine's branches start from.

    Attributes:
        run: of the base prompts.
        theirs: z of each layer in the source prompts.
    """

    run: Run
    theirs: Sequence[Tensor]


def given(engine: Any, setting: Setting, at: Tensor | None) -> Given:
    """Both runs, made now and held in memory."""
    batch = setting.batch
    sites = [Reading(Site(layer, "z"), at) for layer in range(setting.shape.n_layers)]
    theirs = engine.run(
        batch.require_source().tokens, readings=sites, answer=False
    ).outcome.readings
    run = engine.run(batch.base.tokens)
    run.outcome  # noqa: B018 - runs are lazy
    return Given(run, theirs)


def engine_contender(
    name: str, make: Callable[[Any], Any], setting: Setting, everywhere: bool, every: int = 1
) -> Contender:
    at = None if everywhere else setting.batch.base.at("last")

    def runs() -> Given:
        return given(make(setting.wrapped), setting, at)  # a new engine remembers nothing

    def variants(state: Given, which: Sequence[int]) -> Tensor:
        heads = setting.shape.heads()
        branches = (head_branch(state, *heads[i], at) for i in which)
        return answers(setting, state.run.branches(branches))

    return Contender(name, runs, variants, every)


def head_branch(state: Given, layer: int, head: int, at: Tensor | None) -> Branch:
    value = state.theirs[layer][:, :, head : head + 1]
    return Branch([Edit(Site(layer, "z"), value, at=at, heads=(head,))])


@torch.no_grad()
def lens_runs(setting: Setting) -> Any:
    """transformer-lens' cache of the source prompts, z only."""
    ids = setting.batch.require_source().tokens.ids
    bridge = setting.wrapped.bridge
    return bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_z"))[1]


@torch.no_grad()
def lens_variants(setting: Setting, everywhere: bool, cache: Any, which: Sequence[int]) -> Tensor:
    """transformer-lens' own sweep, `generic_activation_patch`, over some heads: the setters and
    hook are those of ``get_act_patch_attn_head_out_all_pos`` and ``..._by_pos``."""
    import pandas as pd
    from transformer_lens import patching

    heads = setting.shape.heads()
    ids = setting.batch.base.tokens.ids
    frame: dict[str, list[int]] = {"layer": [heads[i][0] for i in which]}
    if not everywhere:
        frame["pos"] = [ids.shape[1] - 1] * len(which)
    frame["head"] = [heads[i][1] for i in which]
    setter = (
        patching.layer_head_vector_patch_setter
        if everywhere
        else patching.layer_pos_head_vector_patch_setter
    )
    result = patching.generic_activation_patch(
        setting.wrapped.bridge,
        ids,
        cache,
        lambda logits: answered(setting, logits[:, -1]),
        patch_setter=setter,
        activation_name="z",
        index_df=pd.DataFrame(frame),
        reduce="none",
    )
    values: Tensor = result.values  # noqa: PD011 - no data frame
    return values


@dataclass(frozen=True, eq=False)
class Plain:
    """PyTorch hooks on the Hugging Face model, one forward a head.

    Attributes:
        setting: model and prompts.
        everywhere: all positions or the last.
        keep: logits of so many last tokens; 0 is all of them, Hugging Face's default.
    """

    setting: Setting
    everywhere: bool
    keep: int

    @torch.no_grad()
    def runs(self) -> list[Tensor]:
        """[R, S, H d] of each layer in the source prompts."""
        result: list[Tensor] = []
        handles = [
            module.register_forward_pre_hook(lambda _, args: result.append(args[0].clone()))
            for module in self.setting.projections
        ]
        self.setting.plain(self.setting.batch.require_source().tokens.ids, logits_to_keep=1)
        for handle in handles:
            handle.remove()
        return result

    @torch.no_grad()
    def variants(self, theirs: Sequence[Tensor], which: Sequence[int]) -> Tensor:
        heads = self.setting.shape.heads()
        return torch.stack([self.patched(theirs, *heads[i]) for i in which])

    def patched(self, theirs: Sequence[Tensor], layer: int, head: int) -> Tensor:
        handle = self.setting.projections[layer].register_forward_pre_hook(
            lambda _, args: (self.mixed(args[0], theirs[layer], head),)
        )
        ids = self.setting.batch.base.tokens.ids
        logits = self.setting.plain(ids, logits_to_keep=self.keep).logits[:, -1]
        handle.remove()
        return answered(self.setting, logits)

    def mixed(self, z: Tensor, theirs: Tensor, head: int) -> Tensor:
        """z with a head's from elsewhere."""
        width = self.setting.shape.d_head
        at = slice(None) if self.everywhere else slice(-1, None)
        mine = slice(head * width, (head + 1) * width)
        new = z.clone()
        new[:, at, mine] = theirs[:, at, mine]
        return new


class Sight(Plain):
    """nnsight: one trace a head, on the same Hugging Face model."""

    @cached_property
    def model(self) -> Any:
        from nnsight import NNsight

        return NNsight(self.setting.plain)

    def patched(self, theirs: Sequence[Tensor], layer: int, head: int) -> Tensor:
        path = next(
            name
            for name, module in self.setting.plain.named_modules()
            if module is self.setting.projections[layer]
        )
        model, mixed = self.model, self.mixed
        projection = model.get(path)
        with model.trace(self.setting.batch.base.tokens.ids):
            projection.input = mixed(projection.input, theirs[layer], head)
            logits = model.output.logits[:, -1].save()
        return answered(self.setting, logits)
