"""What must hold for every model and every run, checked once a checkpoint is loaded.

Each of these has been a silent bug in a public tool. A check that fails stops the measurements on
that checkpoint: numbers from a model that contradicts itself are worth nothing.

0. Every layer has attention heads, as many and as wide as config.json says.
1. The wrapped model's logits equal those of plain Hugging Face.
2. resid_pre + attn_out + mlp_out = resid_post, in every layer.
3. Patching a prompt with its own activations changes nothing.
4. Patching the last residual with another prompt's gives that prompt's answer.
5. A short row gives the same numbers alone and beside a long one.
6. Every hook fires exactly once a forward (`reference.ReferenceEngine.forward`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.checkpoints.rotary import boundary, rotary
from pytest_mechanism.engine.branch import LEAST_ROOM
from pytest_mechanism.engine.interface import (
    Alive,
    Branch,
    Edit,
    Engine,
    Knockout,
    Outcome,
    Part,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.engine.record import Unsupported
from pytest_mechanism.engine.tolerance import TOLERANCE, compare
from pytest_mechanism.errors import SelfCheckError, one_line

RESIDUAL: tuple[Part, ...] = ("resid_pre", "attn_out", "mlp_out", "resid_post")


def check(model: LoadedModel, engine: Engine, clean: Tokens, other: Tokens) -> None:
    """All checks on two prompt batches of equal rows.

    Raises:
        SelfCheckError: the first check that fails.
    """
    limit = TOLERANCE[model.dtype]
    heads_are_there(model, engine, clean)
    same_as_plain(model, limit)
    residual_adds_up(model, engine, clean, limit)
    self_patch_changes_nothing(model, engine, clean, limit)
    last_residual_carries_the_answer(model, engine, clean, other, limit)
    rows_stand_alone(model, engine, clean, limit)


def heads_are_there(model: LoadedModel, engine: Engine, clean: Tokens) -> None:
    """0. What is patched are heads: not every family has them, in every layer, one beside another."""
    shape, kind = model.shape, type(model.bridge.original_model).__name__
    where = f"{model.role}: a {kind} cannot be measured"
    layers = len(model.bridge.blocks)
    if layers != shape.n_layers:
        raise SelfCheckError(f"{where}: it has {layers} layers, config.json says {shape.n_layers}")
    wanted: dict[Part, tuple[int, int]] = {
        "q": (shape.n_heads, shape.d_head),
        "k": (shape.n_kv_heads, shape.d_head),
        "v": (shape.n_kv_heads, shape.d_head),
        "z": (shape.n_heads, shape.d_head),
    }
    known = model.bridge.hook_dict
    for layer in range(layers):
        for part in (*wanted, *RESIDUAL):
            if (name := Site(layer, part).hook) not in known:
                raise SelfCheckError(
                    f"{where}: transformer-lens finds no {name} in it, so layer {layer} has no "
                    "attention heads, or not of a known kind"
                )
    sites = [Site(layer, part) for layer in range(layers) for part in wanted]
    found = engine.run(clean, readings=[Reading(site) for site in sites]).outcome.readings
    for site, value in zip(sites, found, strict=True):
        heads, width = wanted[site.part]
        have, right = tuple(value.shape), (*clean.ids.shape, heads, width)
        if have != right:
            raise SelfCheckError(
                f"{where}: {site.hook} is of shape {have}; rows, tokens, heads and width by "
                f"config.json are {right}"
            )


def same_as_plain(model: LoadedModel, limit: float) -> None:
    """1. Wrapping did not change what the model says."""
    with torch.no_grad():
        wrapped = model.bridge(model.probe, return_type="logits").float().cpu()
    compare(
        wrapped,
        model.plain_logits,
        limit,
        model,
        "logits of the wrapped model",
        "plain Hugging Face's",
    )


def residual_adds_up(model: LoadedModel, engine: Engine, clean: Tokens, limit: float) -> None:
    """2. The parts of a layer are all of it; patching a part means what it says."""
    sites = [Site(layer, part) for layer in range(model.shape.n_layers) for part in RESIDUAL]
    outcome = engine.run(
        clean, readings=[Reading(site, clean.last[:, None]) for site in sites]
    ).outcome
    found = dict(zip(sites, outcome.readings, strict=True))
    for layer in range(model.shape.n_layers):
        pre, attention, mlp, post = (found[Site(layer, part)] for part in RESIDUAL)
        # whichever two are added first, each sum is rounded by half an epsilon: in half precision,
        # that of a coordinate which is far above all others passes their standard deviation
        rounding = 2 * torch.finfo(post.dtype).eps * (pre.abs() + attention.abs() + mlp.abs())
        compare(
            pre + attention + mlp,
            post,
            limit,
            model,
            f"resid_pre + attn_out + mlp_out of layer {layer}",
            "resid_post",
            rounding,
        )


def self_patch_changes_nothing(
    model: LoadedModel, engine: Engine, clean: Tokens, limit: float
) -> None:
    """3. Every head's z replaced by itself, layer by layer."""
    sites = [Site(layer, "z") for layer in range(model.shape.n_layers)]
    run = engine.run(clean, readings=[Reading(site) for site in sites])
    edits = [Edit(s, v) for s, v in zip(sites, run.outcome.readings, strict=True)]
    for outcome in run.branches([Branch(edits)]):
        compare(
            outcome.logits,
            run.outcome.logits,
            limit,
            model,
            "logits patched with the run's own z",
            "the unpatched ones",
        )


def last_residual_carries_the_answer(
    model: LoadedModel, engine: Engine, clean: Tokens, other: Tokens, limit: float
) -> None:
    """4. The last layer's residual at the last token, from another prompt."""
    site = Site(model.shape.n_layers - 1, "resid_post")
    donor = engine.run(other, readings=[Reading(site, other.last[:, None])]).outcome
    run = engine.run(clean)
    edit = Edit(site, donor.readings[0], at=clean.last[:, None])
    for outcome in run.branches([Branch([edit])]):
        compare(
            outcome.logits,
            donor.logits,
            limit,
            model,
            "logits with another prompt's last residual",
            "that prompt's",
        )


def rows_stand_alone(model: LoadedModel, engine: Engine, clean: Tokens, limit: float) -> None:
    """5. What stands beside a row changes nothing in it, nor does what was run before."""
    row = int(clean.lengths.argmin())
    turns = [boundary(each) for each in rotary(model.bridge.original_model)]
    length = min(int(clean.lengths[row]), *turns, LONG)
    ids = clean.ids[row, :length]
    longest = beside(model, length, turns)
    again = ids.repeat(longest // length + 1)[:longest]
    padded = torch.cat([ids, ids.new_zeros(longest - length)])
    lengths = torch.tensor([length, longest], device=ids.device)
    alone, together = Tokens(ids[None], lengths[:1]), Tokens(torch.stack([padded, again]), lengths)

    def told(tokens: Tokens) -> list[torch.Tensor]:
        at = tokens.last[:, None]
        readings = [Reading(Site(layer, "z"), at) for layer in range(model.shape.n_layers)]
        run = engine.run(tokens, readings=readings)
        edit = Edit(Site(0, "z"), torch.ones((), device=ids.device), at=at)
        (branch,) = run.branches([Branch([edit])])
        return [each[:1] for each in (run.outcome.logits, branch.logits, *run.outcome.readings)]

    wanted = told(alone)
    for found, reference in ((together, "its own when it is alone"), (alone, "its own before")):
        what = f"a row of {length} tokens beside or after one of {longest}: its numbers"
        for a, b in zip(told(found), wanted, strict=True):
            compare(a, b, limit, model, what, reference)


def beside(model: LoadedModel, length: int, turns: Sequence[int]) -> int:
    """Tokens of a row to stand beside one of ``length``: as many again, as far as the model knows
    positions; where rotary frequencies change at some length that is not too long, beyond it."""
    config = model.bridge.original_model.config.get_text_config()
    if turns:
        return max([2 * length, *(n + 1 for n in turns if n < LONG)])
    known = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    return max(length, min([2 * length, *(n for n in known if isinstance(n, int))]))


LONG = 1024
"""Tokens of a row that a self-check may take."""


def disagreement(
    model: LoadedModel, reference: Engine, faster: Engine, clean: Tokens, other: Tokens
) -> str | None:
    """Why a faster engine cannot be used with this model; None where it agrees with the reference.

    One branch of each kind that methods ask for, so that a family whose layers do more than is
    understood is seen here and not in a score.
    """
    layers = model.shape.n_layers
    limit = TOLERANCE[model.dtype]
    middle = clean.last[:, None] // 2
    z = [Site(layer, "z") for layer in range(layers)]
    donor = reference.run(other, readings=[Reading(site) for site in z]).outcome.readings
    length = min(clean.ids.shape[1], other.ids.shape[1])
    mean = [each[:, :length].mean(1, keepdim=True) for each in donor]
    silent = [Edit(site, value) for site, value in zip(z, mean, strict=True)]
    low, high = 0, layers - 1
    value = Edit(Site(high // 2, "v"), torch.ones((), device=clean.ids.device), at=middle)
    listening = [Reading(Site(high, "q"), clean.last[:, None])]
    branches = {
        "z at the last token": Branch([Edit(z[low], mean[low], at=clean.last[:, None])]),
        "v in the middle": Branch([value]),
        "z in the middle, held": Branch([Edit(z[low], mean[low], at=middle)], listening, held=True),
    }
    cut = Branch(knockouts=[Knockout(high, clean.last[:, None], torch.zeros_like(middle))])
    with suppress(SelfCheckError):  # some families cannot be cut, by any engine
        list(reference.run(clean).branches([cut]))
        branches["attention cut"] = cut
    alive = [Alive(high, clean.last[:, None]), Alive(low, middle)]
    circuit = {"a circuit": Branch(held=True, alive=alive)}

    def told(engine: Engine) -> Iterator[tuple[str, Outcome]]:
        readings = [Reading(site, other.last[:, None]) for site in z]
        alone = engine.run(other, readings=readings, answer=False).outcome
        yield "readings alone", Outcome(alone.logits[:, :0], alone.readings)
        # as many side by side as ever: masks inside a layer go by column, and may end or slide
        many = max(LEAST_ROOM, clean.ids.shape[1]) if engine is faster else 1
        *_, last = engine.run(clean).branches([branches["z at the last token"]] * many)
        yield "the last of many branches", last
        for edits, asked in ((), branches), (silent, circuit):
            yield from zip(asked, engine.run(clean, edits).branches(asked.values()), strict=True)

    wanted = list(told(reference))
    try:
        for (name, theirs), (_, mine) in zip(wanted, told(faster), strict=True):
            what = f"{name} by the {faster.name} engine"
            for a, b in zip(
                (mine.logits, *mine.readings), (theirs.logits, *theirs.readings), strict=True
            ):
                if b.numel():
                    compare(a, b, limit, model, what, "reference")
    except (Unsupported, SelfCheckError) as problem:
        return str(problem)
    except Exception as problem:  # whatever layers raise that were not made to be called like this
        return one_line(f"{type(problem).__name__}: {problem}")
    if (layer := windowed_by_column(model)) is not None:
        return (
            f"layer {layer} hides keys by how many columns lie between, and branches stand in "
            "columns behind the prompt"
        )
    return None


def windowed_by_column(model: LoadedModel) -> int | None:
    """The first layer with a mask of its own, [1, 1, n, n], that hides more than what comes later.

    Prompts that fit into its window say nothing about longer ones of the same task.
    """
    for layer, block in enumerate(model.bridge.blocks):
        for own in block.buffers():
            if own.dim() == 4 and own.dtype in (torch.bool, torch.uint8):
                causal = torch.ones_like(own).tril()
                if own.shape[-1] == own.shape[-2] and not torch.equal(own, causal):
                    return layer
    return None
