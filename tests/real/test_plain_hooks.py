"""Path patching on a real model equals a computation that knows nothing of our engine.

Plain PyTorch on the Hugging Face model: hooks record each head's output (the input of ``o_proj``) on
base and source prompts. A head's path to the logits at the last token then needs no forward of the
whole model: nothing before that token can change, every other head keeps its output, so the change
passes through the MLPs of that token alone. A full forward with hooks, for some heads, shows that
this shortcut is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.methods.circuits import path_patching
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.tasks.families.ioi import Ioi, IoiParameters
from pytest_mechanism.tasks.text.encoding import SharedVocabulary

PAIRS = 32
TOLERANCE = 1e-3
HOOKED = [(29, 1), (20, 0), (8, 1), (0, 4)]
"""Heads whose path is also run through the whole model: late and early ones."""


@dataclass
class Plain:
    """A Hugging Face model and a batch of its prompts, padded on the right."""

    model: Any
    ids: Tensor
    last: Tensor

    @property
    def layers(self) -> Any:
        return self.model.model.layers

    def run(self, hooks: Sequence[tuple[Any, Any]] = ()) -> Tensor:
        """The logits at the last token, with pre-hooks on some modules."""
        handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
        try:
            hidden = self.model.model(self.ids).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return self.model.lm_head(self.at_last(hidden)).log_softmax(-1)

    def at_last(self, values: Tensor) -> Tensor:
        return values[torch.arange(len(values)), self.last].clone()

    def record(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """At the last token: the residual stream before each layer, the heads' outputs, and the
        log-probabilities."""
        before: list[Tensor] = []
        outputs: list[Tensor] = []
        hooks = []
        for layer in self.layers:
            hooks += [
                (layer, lambda _, given: before.append(self.at_last(given[0]))),
                (
                    layer.self_attn.o_proj,
                    lambda _, given: outputs.append(self.at_last(given[0])),
                ),
            ]
        logits = self.run(hooks)
        return before, outputs, logits


def prompts(model: Any, tokenizer: Any, texts: list[str]) -> Plain:
    ids = [tokenizer(text).input_ids for text in texts]
    last = torch.tensor([len(each) - 1 for each in ids])
    width = int(last.max()) + 1
    padded = [[*each, *[0] * (width - len(each))] for each in ids]
    return Plain(model, torch.tensor(padded), last)


@dataclass
class Paths:
    """Each head's path from the last token to the logits.

    Attributes:
        base: the prompts that are patched.
        before: residual stream at the last token before each layer.
        clean: heads' outputs there, a tensor a layer.
        source: the same on source prompts.
        unpatched: log-probabilities.
        answers: token of each row's answer.
    """

    base: Plain
    before: list[Tensor]
    clean: list[Tensor]
    source: list[Tensor]
    unpatched: Tensor
    answers: Tensor

    def change(self, log_probabilities: Tensor) -> Tensor:
        return (log_probabilities - self.unpatched).gather(1, self.answers[:, None])[:, 0]

    def outputs(self, number: int, layer: int, head: int) -> Tensor:
        """The heads' outputs in a layer: clean, but for the sender's own."""
        z = self.clean[number].clone()
        if number == layer:
            size = z.shape[1] // self.base.model.config.num_attention_heads
            own = slice(head * size, (head + 1) * size)
            z[:, own] = self.source[number][:, own]
        return z

    def direct(self, layer: int, head: int) -> Tensor:
        """The last token alone, through the rest of the layers."""
        model, stream = self.base.model, self.before[layer]
        for number, block in enumerate(self.base.layers[layer:], layer):
            stream = stream + block.self_attn.o_proj(self.outputs(number, layer, head))
            stream = stream + block.mlp(block.post_attention_layernorm(stream))
        return self.change(model.lm_head(model.model.norm(stream)).log_softmax(-1))

    def hooked(self, layer: int, head: int) -> Tensor:
        """The whole model, with the heads' outputs at the last token put in by hooks."""

        def put(number: int) -> Any:
            def hook(_: Any, given: tuple[Tensor]) -> tuple[Tensor]:
                changed = given[0].clone()
                rows = torch.arange(len(changed))
                changed[rows, self.base.last] = self.outputs(number, layer, head)
                return (changed,)

            return hook

        blocks = enumerate(self.base.layers)
        return self.change(self.base.run([(b.self_attn.o_proj, put(i)) for i, b in blocks]))


def measured_by_us(folder: Path, task: Ioi) -> tuple[list[Row], dict[str, Any]]:
    """The pairs, and each head's change of the log-probability on each of them."""
    model = load_model("base", folder, "cpu", "float32", lambda _: [1, 2, 3])
    words = SharedVocabulary((model.encoder,))
    # without the self-checks of a gate, which other tests of this model make
    context = MeasurementContext(model, BranchEngine(model.wrapped), task, words, PAIRS)
    shape = context.model.shape
    senders = {
        f"{layer}.{head}": ((layer, head),)
        for layer in range(shape.n_layers)
        for head in range(shape.n_heads)
    }
    request = PathPatching(senders=senders, at="last", rows=PAIRS, stream="pairs")
    values = path_patching.measure(context, request, ()).values
    rows = list(task.pairs(context.vocabulary, PAIRS, "pairs"))
    model.release()
    return rows, {name: values[name] for name in senders}


def plain_paths(folder: Path, rows: list[Row]) -> Paths:
    """The same pairs in plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base = prompts(model, tokenizer, [row.base.text for row in rows])
    source = prompts(model, tokenizer, [row.source.text for row in rows if row.source])
    answers = [tokenizer(f"{row.base.text} {row.base.answer}").input_ids[-1] for row in rows]
    before, clean, unpatched = base.record()
    return Paths(base, before, clean, source.record()[1], unpatched, torch.tensor(answers))


@torch.no_grad()
def test_path_patching_of_every_head_is_what_plain_hooks_give(real_folder: Path) -> None:
    """The change of the answer's log-probability for 270 heads on 32 IOI pairs, row by row."""
    rows, measured = measured_by_us(real_folder, Ioi(IoiParameters(family="ioi", rows=PAIRS)))
    paths = plain_paths(real_folder, rows)
    for head in HOOKED:
        torch.testing.assert_close(
            paths.hooked(*head), paths.direct(*head), atol=TOLERANCE / 4, rtol=0
        )
    off, largest = {}, 0.0
    for name, values in measured.items():
        layer, head = map(int, name.split("."))
        wanted = paths.direct(layer, head).double()
        largest = max(largest, float(wanted.abs().max()))
        off[name] = float((wanted - torch.tensor(values)).abs().max())
    assert len(off) == 270
    assert {name: error for name, error in off.items() if error > TOLERANCE} == {}
    assert largest > 1  # nats: an equality of zeros would show nothing
