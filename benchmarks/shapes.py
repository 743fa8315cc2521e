"""The models that are timed, built from their config with random weights, and their prompts.

Time does not depend on what the weights are, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Batch, Side
from pytest_mechanism.model_families.bridge import BridgeModel, wrap

ZOO = Path(__file__).parents[1] / "pytest_mechanism" / "zoo"
SPREAD = 0.06
"""Standard deviation of the random weights: larger than usual, so that what a single head writes
shows in the answer and engines that disagree are seen."""


def gpt2_small(attention: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(attn_implementation=attention, initializer_range=SPREAD))


def llama_gqa(attention: str) -> Any:
    return _llama(attention, 32000, 768, 2048, layers=12, heads=12, kv_heads=4)


def llama_7b(attention: str) -> Any:
    return _llama(attention, 32000, 4096, 11008, layers=32, heads=32, kv_heads=32)


def llama_7b_narrow(attention: str) -> Any:
    """The proportions of Llama 7B: a sixteenth of its width, heads and vocabulary."""
    return _llama(attention, 2000, 256, 688, layers=32, heads=2, kv_heads=2)


def llama_1b(attention: str) -> Any:
    """Llama 3.2 1B."""
    return _llama(attention, 128256, 2048, 8192, layers=16, heads=32, kv_heads=8)


def tiny(attention: str) -> Any:
    return _llama(attention, 256, 32, 48, layers=3, heads=4, kv_heads=2)


def _llama(
    attention: str, vocabulary: int, width: int, inner: int, layers: int, heads: int, kv_heads: int
) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            initializer_range=SPREAD,
            attn_implementation=attention,
        )
    )


def embedded(attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        ZOO / "base", dtype=torch.float32, attn_implementation=attention, local_files_only=True
    )


MODELS: dict[str, Callable[[str], Any]] = {
    "gpt2-small": gpt2_small,
    "llama-gqa": llama_gqa,
    "llama-7b": llama_7b,
    "llama-7b-narrow": llama_7b_narrow,
    "llama-1b": llama_1b,
    "embedded": embedded,
    "tiny": tiny,
}


@dataclass(frozen=True, eq=False)
class Setting:
    """A model, twice, and a batch of prompt pairs.

    Attributes:
        name: key of `MODELS`.
        shape: its sizes.
        wrapped: under hooks as a checkpoint is, weights frozen.
        plain: the same weights, as Hugging Face gives them.
        batch: random pairs with the positions ``last``, ``query_label`` (third from the end, as in
            "Box O contains the") and ``previous_query_label`` (the middle).
    """

    name: str
    shape: Shape
    wrapped: BridgeModel
    plain: Any
    batch: Batch

    def bench(self, engine: Any) -> MeasurementContext:
        """What methods ask for."""
        probe, absent = (
            self.batch.base.tokens.ids[:1],
            cast(Any, None),
        )  # methods on given batches use none of these
        model = LoadedModel(
            "base", Path(), self.wrapped, self.shape, absent, probe.device, torch.empty(0), probe
        )
        return MeasurementContext(model, engine, absent, absent, len(self.batch.rows))

    @property
    def layers(self) -> Any:
        """The plain model's."""
        inner = self.plain.base_model
        return inner.h if hasattr(inner, "h") else inner.layers

    @property
    def projections(self) -> list[Any]:
        """The plain model's output projections of attention; z of all heads goes in."""
        return [
            layer.attn.c_proj if hasattr(layer, "attn") else layer.self_attn.o_proj
            for layer in self.layers
        ]


def make_setting(name: str, rows: int, length: int) -> Setting:
    """The model of that name and ``rows`` random prompt pairs of ``length`` tokens."""
    # eager attention is what the wrapped model needs; the plain one gets what users get
    hooked, plain = (seeded(MODELS[name], attention) for attention in ("eager", "sdpa"))
    shape = sizes(plain)
    wrapped = wrap(hooked, Path(name))
    for model in (wrapped, plain):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    return Setting(name, shape, wrapped, plain, pairs(shape, rows, length))


def make_placed(name: str, rows: int, length: int, device: str, dtype: torch.dtype) -> Setting:
    """The same on a device, with the weights once: for models of which two do not fit."""
    with torch.device(device), default_dtype(dtype):
        model = seeded(MODELS[name], "eager")
    with torch.device("meta"), default_dtype(dtype):
        plain = seeded(MODELS[name], "sdpa")
    for mine, theirs in zip(plain.modules(), model.modules(), strict=True):
        mine._parameters.update(theirs._parameters)  # noqa: SLF001 - the same, not copies
        mine._buffers.update(theirs._buffers)  # noqa: SLF001
    shape = sizes(model)
    for parameter in (wrapped := wrap(model, Path(name))).parameters():
        parameter.requires_grad_(False)
    drawn = pairs(shape, rows, length)
    return Setting(name, shape, wrapped, plain, part(drawn, slice(None), device))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def part(batch: Batch, rows: slice, device: str | None = None) -> Batch:
    """Some rows of a batch, there or elsewhere."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[rows].to(device or tensor.device)

    def side(whole: Side) -> Side:
        tokens = Tokens(cut(whole.tokens.ids), cut(whole.tokens.lengths))
        return Side(tokens, {name: cut(at) for name, at in whole.positions.items()}, ())

    return Batch(
        batch.rows[rows],
        side(batch.base),
        side(batch.require_source()),
        *map(cut, (batch.answers, batch.targets, batch.correct_answers, batch.correct_targets)),
    )


def seeded(make: Callable[[str], Any], attention: str) -> Any:
    torch.manual_seed(0)
    return make(attention).eval()


def sizes(model: Any) -> Shape:
    c = model.config
    return Shape(
        n_layers=c.num_hidden_layers,
        n_heads=c.num_attention_heads,
        n_kv_heads=getattr(c, "num_key_value_heads", c.num_attention_heads),
        d_model=c.hidden_size,
        d_head=c.hidden_size // c.num_attention_heads,
        d_vocab=c.vocab_size,
    )


def pairs(shape: Shape, rows: int, length: int) -> Batch:
    """Random tokens and answers."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randint(shape.d_vocab, size, generator=generator)

    lengths = torch.full((rows,), length)
    places = {
        name: torch.full((rows, 1), position)
        for name, position in (
            ("last", length - 1),
            ("query_label", length - 3),
            ("previous_query_label", length // 2),
        )
    }
    base, source = (Side(Tokens(drawn(rows, length), lengths), places, ()) for _ in range(2))
    answers = drawn(rows)
    sets = answers[:, None]
    return Batch(cast(Any, [None] * rows), base, source, answers, answers, sets, sets)
