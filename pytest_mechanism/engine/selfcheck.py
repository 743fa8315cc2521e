"""Checks of every model, made once when its checkpoint is loaded.

Each of them has been a silent bug in a public tool. A check that fails stops the measurements on
that checkpoint: numbers from a model that contradicts itself are worth nothing.

0. Every layer has attention heads, as many and as wide as config.json says.
1. The wrapped model's logits equal those of plain Hugging Face.
2. resid_pre + attn_out + mlp_out = resid_post, in every layer.
3. Patching a prompt with its own activations changes nothing.
4. Patching the last residual with another prompt's gives that prompt's answer.
5. A short row gives the same numbers alone and beside a long one.
6. Every hook fires exactly once in a forward (`reference.hooked_forward`).
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import torch

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.engine.branch import LEAST_COLUMNS, columns_at_once
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    ActiveMlp,
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
from pytest_mechanism.engine.tolerance import TOLERANCE, compare
from pytest_mechanism.errors import SelfCheckError, one_line
from pytest_mechanism.model_families.layers import UnsupportedFamily, layer_with_own_window
from pytest_mechanism.model_families.rotary import length_dependent, trained_length
from pytest_mechanism.model_families.sizes import position_limit

RESIDUAL: tuple[Part, ...] = ("resid_pre", "attn_out", "mlp_out", "resid_post")


TUNING = (
    "ATEN_", "CUBLAS", "CUDNN_", "DNNL_", "KMP_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_",
    "TORCH_",
)  # fmt: skip
"""How the names of environment variables begin that choose torch's kernels."""

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another one after each start of a Linux machine."""


def machine() -> str:
    """A hash of what the checks of this process depend on beside model, versions and options: this machine since it was
    started, its GPUs, and which kernels torch chooses with how many threads."""
    try:
        boot = BOOT.read_text("ascii")
    except OSError:
        boot = ""
    gpus = [str(torch.cuda.get_device_properties(n)) for n in range(torch.cuda.device_count())]
    variables = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(TUNING))
    parts = (
        *platform.uname(), boot, *gpus, *variables, torch.__config__.show(), torch.__config__.parallel_info(),
        torch.backends.cpu.get_cpu_capability(), torch.get_float32_matmul_precision(),
    )  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
    """0. Every layer has the heads that methods patch; not every family has."""
    shape, kind = model.shape, type(model.wrapped.plain).__name__
    where = f"{model.role}: a {kind} cannot be measured"
    layers = len(model.wrapped.layers)
    if layers != shape.n_layers:
        raise SelfCheckError(f"{where}: it has {layers} layers, config.json says {shape.n_layers}")
    wanted: dict[Part, tuple[int, int]] = {
        "q": (shape.n_heads, shape.d_head),
        "k": (shape.n_kv_heads, shape.d_head),
        "v": (shape.n_kv_heads, shape.d_head),
        "z": (shape.n_heads, shape.d_head),
    }
    known = model.wrapped.hook_names
    for layer in range(layers):
        for part in (*wanted, *RESIDUAL):
            if (name := Site(layer, part).hook) not in known:
                raise SelfCheckError(
                    f"{where}: transformer-lens finds no {name} in it, so layer {layer} has no "
                    "attention heads, or not of a known kind"
                )
    sites = [Site(layer, part) for layer in range(layers) for part in wanted]
    readings = engine.run(clean, readings=[Reading(site) for site in sites]).outcome.readings
    for site, value in zip(sites, readings, strict=True):
        heads, width = wanted[site.part]
        actual, expected = tuple(value.shape), (*clean.ids.shape, heads, width)
        if actual != expected:
            raise SelfCheckError(
                f"{where}: {site.hook} is of shape {actual}; rows, tokens, heads and width by "
                f"config.json are {expected}"
            )


def same_as_plain(model: LoadedModel, limit: float) -> None:
    """1. Wrapping did not change the model's logits."""
    with torch.no_grad():
        wrapped = model.wrapped.forward(model.probe).float().cpu()
    compare(
        wrapped,
        model.plain_logits,
        limit,
        model,
        "logits of the wrapped model",
        "plain Hugging Face's",
    )


def residual_adds_up(model: LoadedModel, engine: Engine, clean: Tokens, limit: float) -> None:
    """2. The parts of a layer add up to the whole, so a patched part is what its name says."""
    sites = [Site(layer, part) for layer in range(model.shape.n_layers) for part in RESIDUAL]
    outcome = engine.run(
        clean, readings=[Reading(site, clean.last[:, None]) for site in sites]
    ).outcome
    values = dict(zip(sites, outcome.readings, strict=True))
    for layer in range(model.shape.n_layers):
        pre, attention, mlp, post = (values[Site(layer, part)] for part in RESIDUAL)
        # whichever two are added first, each sum is rounded by half an epsilon: in half precision,
        # the rounding of one very large coordinate can exceed the others' standard deviation
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
    """5. Neither the other rows of a batch nor earlier batches change a row's numbers."""
    row = int(clean.lengths.argmin())
    trained = [trained_length(module) for module in length_dependent(model.wrapped.plain)]
    length = min(int(clean.lengths[row]), *trained, LONG)
    ids = clean.ids[row, :length]
    longest = neighbour_length(model, length, trained)
    neighbour = ids.repeat(longest // length + 1)[:longest]
    padded = torch.cat([ids, ids.new_zeros(longest - length)])
    lengths = torch.tensor([length, longest], device=ids.device)
    alone = Tokens(ids[None], lengths[:1])
    together = Tokens(torch.stack([padded, neighbour]), lengths)

    def numbers(tokens: Tokens) -> list[torch.Tensor]:
        at = tokens.last[:, None]
        readings = [Reading(Site(layer, "z"), at) for layer in range(model.shape.n_layers)]
        run = engine.run(tokens, readings=readings)
        edit = Edit(Site(0, "z"), torch.ones((), device=ids.device), at=at)
        (branch,) = run.branches([Branch([edit])])
        outcome = run.outcome
        return [value[:1] for value in (outcome.logits, branch.logits, *outcome.readings)]

    first = numbers(alone)
    for tokens, reference in ((together, "its own when it is alone"), (alone, "its own before")):
        what = f"a row of {length} tokens beside or after one of {longest}: its numbers"
        for a, b in zip(numbers(tokens), first, strict=True):
            compare(a, b, limit, model, what, reference)


def neighbour_length(model: LoadedModel, length: int, trained: Sequence[int]) -> int:
    """Tokens of a longer row for the batch of a row of ``length``: twice as many, up to the model's
    last position; where rotary frequencies depend on length, more than the trained length."""
    if trained:
        return max([2 * length, *(n + 1 for n in trained if n < LONG)])
    limit = position_limit(model.wrapped.plain.config.get_text_config())
    return max(length, 2 * length if limit is None else min(2 * length, limit))


LONG = 1024
"""Tokens of a row that a self-check may take."""


def disagreement(
    model: LoadedModel, reference: Engine, faster: Engine, clean: Tokens, other: Tokens
) -> str | None:
    """Why a faster engine cannot run this model; None where it agrees with the reference and passes `check`.

    Compares one branch of each kind that methods ask for, so that a family whose layers do more
    than the engine understands is noticed here and not in a score.
    """
    limit = TOLERANCE[model.dtype]
    sets = branches_to_compare(model, reference, clean, other)
    outcomes = outcomes_to_compare(model, reference, sets, clean, other)
    expected = {name: outcome for name, _, outcome in outcomes}
    try:
        single = outcomes_to_compare(model, faster, sets, clean, other)
        for name, where, mine in chain(single, outcomes_beside_others(faster, sets, clean)):
            theirs, what = expected[name], f"{name}{where} by the {faster.name} engine"
            for a, b in zip(
                (mine.logits, *mine.readings), (theirs.logits, *theirs.readings), strict=True
            ):
                if b.numel():
                    compare(a, b, limit, model, what, "reference")
        check(model, faster, clean, other)
    except (UnsupportedFamily, SelfCheckError) as problem:
        return str(problem)
    except Exception as problem:  # layers were not made to be called for some of their tokens
        return one_line(f"{type(problem).__name__}: {problem}")
    if (layer := layer_with_own_window(model.wrapped.layers)) is not None:
        return (
            f"layer {layer} masks keys by their distance in columns, and the branch engine computes "
            "branches in columns behind the prompt"
        )
    return None


BranchSet = tuple[Sequence[Edit], dict[str, Branch]]
"""A run's edits, and named branches of that run; of the first run's, the first edits the last token and
the second changes many."""

NamedOutcome = tuple[str, str, Outcome]
"""Name of an outcome, where it was computed, and itself."""


def branches_to_compare(
    model: LoadedModel, reference: Engine, clean: Tokens, other: Tokens
) -> list[BranchSet]:
    """One branch of each kind, of a clean run and of ablated ones."""
    last, middle = clean.last[:, None], clean.last[:, None] // 2
    z = [Site(layer, "z") for layer in range(model.shape.n_layers)]
    donor = reference.run(other, readings=[Reading(site) for site in z]).outcome.readings
    length = min(clean.ids.shape[1], other.ids.shape[1])
    means = [value[:, :length].mean(1, keepdim=True) for value in donor]
    ablation = [Edit(site, value) for site, value in zip(z, means, strict=True)]
    low, high = 0, model.shape.n_layers - 1
    at_middle = Edit(z[low], means[low], at=middle)
    value = Edit(Site(high // 2, "v"), torch.ones((), device=clean.ids.device), at=middle)
    receiver = [Reading(Site(high, "q"), last)]
    branches = {
        "z at the last token": Branch([Edit(z[low], means[low], at=last)]),
        "v in the middle": Branch([value]),
        "z in the middle, attention frozen": Branch([at_middle], receiver, freeze_attention=True),
    }
    cut = Branch(knockouts=[Knockout(high, last, torch.zeros_like(middle))])
    with suppress(SelfCheckError):  # some families cannot be cut, by any engine
        list(reference.run(clean).branches([cut]))
        branches["attention cut"] = cut
    active = [ActiveHeads(high, last), ActiveHeads(low, middle)]
    circuit = {"a circuit": Branch(freeze_attention=True, active_heads=active)}
    mlps = [
        Edit(Site(layer, "mlp_out"), torch.zeros((), device=clean.ids.device))
        for layer in range(high + 1)
    ]
    with_mlp = Branch(
        freeze_attention=True, active_heads=active, active_mlps=[ActiveMlp(low, middle)]
    )
    return [
        ((), branches),
        (ablation, circuit),
        ((*ablation, *mlps), {"a circuit with an MLP": with_mlp}),
    ]


def outcomes_to_compare(
    model: LoadedModel,
    engine: Engine,
    sets: Sequence[BranchSet],
    clean: Tokens,
    other: Tokens,
) -> Iterator[NamedOutcome]:
    """An engine's readings alone, then the outcome of each branch."""
    readings = [
        Reading(Site(layer, "z"), other.last[:, None]) for layer in range(model.shape.n_layers)
    ]
    alone = engine.run(other, readings=readings, answer=False).outcome
    yield "readings alone", "", Outcome(alone.logits[:, :0], alone.readings)
    for edits, branches in sets:
        outcomes = engine.run(clean, edits).branches(branches.values())
        for name, outcome in zip(branches, outcomes, strict=True):
            yield name, "", outcome


def outcomes_beside_others(
    engine: Engine, sets: Sequence[BranchSet], clean: Tokens
) -> Iterator[NamedOutcome]:
    """The last outcome of the first branch many times, and of the second three times."""
    # as many side by side as ever: a mask inside a layer goes by column, and may end or slide
    many = max(LEAST_COLUMNS, clean.ids.shape[1], columns_at_once(clean)[0])
    for (name, branch), times in zip(sets[0][1].items(), (many, 3), strict=False):
        *_, last = engine.run(clean).branches([branch] * times)
        yield name, ", the last of many", last
