"""Cross-model patching of q, k and v: against plain hooks, on planted models, and under shared keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_codes import change_places, saved, turn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import cmap, performance
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task
from recipes.planted import MODELS

ContextFactory = Callable[[str], MeasurementContext]
Heads = list[list[Any]]
Parts = tuple[str, ...]
BOTH = ("branch", "reference")
TRANSMITTER, DETECTOR = [2, 2, "last"], [1, 3, "query_label"]
FETCHERS: Heads = [[3, 0, "last"], [3, 2, "last"]]
SEVERAL: Heads = [*FETCHERS, TRANSMITTER, DETECTOR, [0, 1, "previous_query_label"]]


def by(context: MeasurementContext, engine: str) -> MeasurementContext:
    if engine == "branch":
        assert context.engine.name == "branch"
        return context
    return replace(context, engine=ReferenceEngine(context.model.wrapped), cache={})


def exchanged(
    donor: MeasurementContext, recipient: MeasurementContext, heads: Heads, parts: Parts,
    rows: int = 14, alone: dict[str, Heads] | None = None,
) -> Any:  # fmt: skip
    """What the recipient answers with the donor's inputs of these heads."""
    asked = {"heads": heads, "rows": rows, "stream": "rows", "parts": parts}
    donation = cmap.donate(donor, ActivationDonation(**asked), [])
    request = CrossModelPatching(**asked, control=[], alone=alone or {})
    return cmap.measure(recipient, request, [donation])


def log_probabilities(context: MeasurementContext, rows: int = 14) -> Any:
    request = Performance(rows=rows, stream="rows")
    return performance.measure(context, request, []).values["log_probability"]


# -- a direct computation: transformers' model, hooks on its projections, one row at a time


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )


@contextmanager
def hooked(hooks: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def keep(
    _: Any, given: Any, out: Any, kept: dict[tuple[int, str], Any], key: tuple[int, str], width: int
) -> None:
    """Record a projection's output by heads, or for z what o_proj reads."""
    kept[key] = (given[0] if key[1] == "z" else out)[0].unflatten(-1, (-1, width)).clone()


def recorded(model: Any, ids: torch.Tensor) -> dict[tuple[int, str], torch.Tensor]:
    """(layer, part) -> [tokens, heads, d_head] of one prompt."""
    kept: dict[tuple[int, str], torch.Tensor] = {}
    modules = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "z": "o_proj"}
    hooks = [
        getattr(layer.self_attn, name).register_forward_hook(
            partial(keep, kept=kept, key=(number, part), width=layer.self_attn.head_dim)
        )
        for number, layer in enumerate(model.model.layers)
        for part, name in modules.items()
    ]
    with torch.no_grad(), hooked(hooks):
        model(ids)
    return kept


@dataclass
class PlainLayer:
    """A layer of the recipient, with (head, token) of its exchanged heads.

    Attributes:
        theirs: the donor's q, k and v of this layer.
        own: the recipient's z.
        here: what is exchanged.
        shared: how many query heads share a key.
    """

    theirs: dict[str, torch.Tensor]
    own: torch.Tensor
    here: list[tuple[int, int]]
    shared: int

    def inputs(self, _: Any, __: Any, out: torch.Tensor, part: str) -> torch.Tensor:
        """q at the token, or k and v up to it, from the donor."""
        theirs = self.theirs[part]
        new = out.clone().unflatten(-1, (-1, theirs.shape[-1]))
        for head, p in self.here:
            if part == "q":
                new[0, p, head] = theirs[p, head]
            else:
                new[0, : p + 1, head // self.shared] = theirs[: p + 1, head // self.shared]
        return new.flatten(-2)

    def outputs(self, _: Any, given: Any) -> tuple[torch.Tensor]:
        """z of all heads that share an exchanged key, as it was, but at the exchanged heads' tokens."""
        computed = given[0].unflatten(-1, (-1, self.own.shape[-1]))
        new = computed.clone()
        keys = {head // self.shared for head, _ in self.here}
        for head in range(new.shape[2]):
            if head // self.shared in keys:
                new[0, :, head] = self.own[:, head]
        for head, p in self.here:
            new[0, p, head] = computed[0, p, head]
        return (new.flatten(-2),)


def directly(
    donor: Any, recipient: Any, ids: torch.Tensor, heads: Sequence[tuple[int, int, int]], parts: Parts
) -> torch.Tensor:  # fmt: skip
    """Log-probabilities after one prompt, with the donor's parts of heads (layer, head, token)."""
    theirs, own = recorded(donor, ids), recorded(recipient, ids)
    hooks = []
    for number in {layer for layer, _, _ in heads}:
        attention = recipient.model.layers[number].self_attn
        layer = PlainLayer(
            {part: theirs[number, part] for part in "qkv"},
            own[number, "z"],
            [(head, p) for of_layer, head, p in heads if of_layer == number],
            attention.q_proj.out_features // attention.k_proj.out_features,
        )
        hooks += [
            getattr(attention, f"{part}_proj").register_forward_hook(
                partial(layer.inputs, part=part)
            )
            for part in parts
        ]
        if {"k", "v"} & {*parts}:
            hooks.append(attention.o_proj.register_forward_pre_hook(layer.outputs))
    with torch.no_grad(), hooked(hooks):
        likely: torch.Tensor = recipient(ids).logits[0, -1].log_softmax(-1)
    return likely


def check(
    donor: tuple[MeasurementContext, Path], recipient: tuple[MeasurementContext, Path], heads: Heads,
    parts: Parts, rows: int,
) -> Any:  # fmt: skip
    """Each row within 1e-5 of the direct computation; returns the measured column."""
    measured = exchanged(donor[0], recipient[0], heads, parts, rows)
    found = measured.values["patched_log_probability"]
    models = [plain(folder) for _, folder in (donor, recipient)]
    context = recipient[0]
    for n, row in enumerate(context.task.rows(context.vocabulary, rows, "rows")):
        side = context.side([row.base])
        placed = [(layer, head, int(side.at(name)[0, -1])) for layer, head, name in heads]
        likely = directly(*models, side.tokens.ids, placed, parts)
        wanted = float(likely[context.answer_id(row.base, row.base.answer)])
        assert found[n] == pytest.approx(wanted, abs=1e-5)
    return found


@pytest.mark.parametrize("parts", [("q",), ("k",), ("v",), ("q", "k", "v")], ids="".join)
@pytest.mark.parametrize("engine", BOTH)
def test_an_exchange_of_inputs_is_what_plain_hooks_give(
    exact_context_of: ContextFactory, engine: str, parts: Parts
) -> None:
    """Groups at three positions at once, on the embedded pair: hooks on q_proj, k_proj and v_proj, and on
    what o_proj reads to hold z. Something moves."""
    donor, recipient = (by(exact_context_of(name), engine) for name in ("ft", "base"))
    found = check((donor, ZOO / "ft"), (recipient, ZOO / "base"), SEVERAL, parts, rows=7)
    assert np.abs(found - log_probabilities(recipient, 7)).max() > 0.1


@pytest.fixture(scope="module")
def shared_keys(
    tmp_path_factory: pytest.TempPathFactory, spec: Spec, load_context: Callable[..., Any]
) -> list[tuple[MeasurementContext, Path]]:
    """Two random models whose query heads share keys and values in pairs."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        base = LlamaConfig.from_pretrained(ZOO / "base")
        config = LlamaConfig(
            vocab_size=base.vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.3,
        )
        folder = saved(
            LlamaForCausalLM(config), tmp_path_factory.mktemp(f"shared{seed}"), ZOO / "base"
        )
        made.append((load_context(folder, spec.task, "float64"), folder))
    return made


@pytest.mark.parametrize("parts", [("q",), ("k",), ("v",)], ids="".join)
@pytest.mark.parametrize("engine", BOTH)
def test_heads_that_share_a_key_do_not_hear_the_exchange(
    shared_keys: Any, engine: str, parts: Parts
) -> None:
    """GQA, one head of a pair and both heads of another: hooks that hold z of the others at every token."""
    (donor, of_donor), (recipient, of_recipient) = shared_keys
    heads: Heads = [[0, 1, "query_label"], [1, 2, "last"], [1, 3, "last"], [2, 0, "last"]]
    pair = ((by(donor, engine), of_donor), (by(recipient, engine), of_recipient))
    found = check(*pair, heads, parts, rows=4)
    assert np.abs(found - log_probabilities(recipient, 4)).max() > 1e-3


# -- known answers


def test_q_k_and_v_together_are_z(context_of: ContextFactory) -> None:
    """A head at the last token that gets all three from the donor writes what the donor's head writes."""
    donor, recipient = context_of("ft"), context_of("base")
    heads = [*FETCHERS, TRANSMITTER]
    inputs, outputs = (
        exchanged(donor, recipient, heads, parts).values["patched_log_probability"]
        for parts in (("q", "k", "v"), ())
    )
    np.testing.assert_allclose(inputs, outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [("q",), ("k", "v")], ids="".join)
def test_a_models_own_inputs_change_nothing(context_of: ContextFactory, parts: Parts) -> None:
    """Null: donor and recipient are the same model."""
    context = context_of("base")
    found = exchanged(context, context, SEVERAL, parts).values["patched_log_probability"]
    np.testing.assert_allclose(found, log_probabilities(context), rtol=1e-5, atol=1e-5)


def test_on_planted_models_each_group_gains_through_the_input_that_was_planted(
    spec: Spec, load_context: Callable[[Path, Task], MeasurementContext]
) -> None:
    """planted_ft differs in the strength of what the transmitter reads. So the transmitter gains through v
    alone, and the fetchers, whose queries the transmitter makes, through q alone."""
    base, ft = (load_context(ZOO / name, spec.task) for name in ("planted_base", "planted_ft"))
    groups = {
        name: [[layer, head, "last"] for layer, head in MODELS["planted_base"][name].heads]
        for name in ("pos_transmitter", "value_fetcher")
    }
    everyone = [head for heads in groups.values() for head in heads]
    low, high = (float(np.mean(log_probabilities(model, 35))) for model in (base, ft))
    gained = {}
    for part in ("q", "k", "v"):
        result = exchanged(ft, base, everyone, (part,), 35, groups)
        for name in groups:
            patched = float(np.mean(result.values[f"{name}_log_probability"]))
            gained[name, part] = round((patched - low) / (high - low), 2)
    through = {("pos_transmitter", "v"): 1, ("value_fetcher", "q"): 1}
    assert gained == {key: through.get(key, 0) for key in gained}


# -- heads whose q and k are written otherwise


def turn_scores(layer: Any) -> None:
    """q and k of every head in another basis: each pair of numbers that rotary embedding turns, turned by an
    angle of its own. The scores stay the same where both are turned alike."""
    attention = layer.self_attn
    half = attention.head_dim // 2
    angles = 2 * torch.pi * torch.rand(half, generator=torch.Generator().manual_seed(0))
    cos, sin = angles.cos()[None, :, None], angles.sin()[None, :, None]
    with torch.no_grad():
        for matrix in (attention.q_proj, attention.k_proj):
            heads = matrix.weight.unflatten(0, (-1, 2 * half))
            first, second = heads[:, :half].clone(), heads[:, half:].clone()
            heads[:, :half], heads[:, half:] = (
                cos * first - sin * second,
                sin * first + cos * second,
            )


@pytest.fixture(scope="module")
def twin(
    spec: Spec, tmp_path_factory: pytest.TempPathFactory, load_context: Callable[[Path, Task], Any]
) -> Callable[[str], MeasurementContext]:
    """ft with its last layer written otherwise: q and k turned together, v and the output turned, or its
    heads in other places."""
    change: dict[str, Callable[[Any], None]] = {
        "scores": turn_scores,
        "values": lambda layer: turn(layer, 0),
        "places": lambda layer: change_places(layer, [1, 2, 3, 0], [1, 2, 3, 0]),
    }

    @cache
    def of(how: str) -> MeasurementContext:
        model = AutoModelForCausalLM.from_pretrained(ZOO / "ft", dtype=torch.float32)
        change[how](model.model.layers[3])
        folder = saved(model, tmp_path_factory.mktemp(how), ZOO / "ft")
        context: MeasurementContext = load_context(folder, spec.task)
        return context

    return of


@pytest.mark.parametrize(
    ("how", "parts", "part", "agrees"),
    [
        ("scores", ("q",), "q", False),
        ("scores", ("k",), "k", False),
        ("scores", ("q", "k"), "z", True),
        ("values", ("q",), "q", True),
        ("places", ("q",), "q", False),
    ],
)
def test_q_alone_or_k_alone_must_meet_its_own_code(
    context_of: ContextFactory, twin: Any, how: str, parts: Parts, part: str, agrees: bool
) -> None:
    """Twins compute what ft computes, but q of one may mean something else to the other's k."""
    donor, ft = twin(how), context_of("ft")
    np.testing.assert_allclose(log_probabilities(donor), log_probabilities(ft), atol=2e-3)
    codes = exchanged(donor, ft, FETCHERS, parts).codes
    assert {code.part for code in codes} == {"z", part}
    assert {code.agrees for code in codes if code.part == part} == {agrees}


# -- what cannot be exchanged


def test_tokens_of_other_prompts_are_one_line(context_of: ContextFactory) -> None:
    """k and v are exchanged token by token."""
    context = context_of("base")
    asked = {"heads": FETCHERS, "rows": 14, "stream": "rows", "parts": ("k",)}
    donation = cmap.donate(context, ActivationDonation(**asked), [])
    inputs = replace(donation.inputs, tokens=donation.inputs.tokens.flip(1))
    with pytest.raises(MeasurementError, match="other tokens, so k and v cannot be exchanged"):
        cmap.measure(
            context, CrossModelPatching(**asked, control=[]), [replace(donation, inputs=inputs)]
        )
