"""The changes of the real model (`recipes.real.fetch`), and the limit of its claim about text.

    python -m benchmarks.faults.real --folder DIR      # what short fine-tunes change in answers and text

The release is the model itself, which nobody here can train again. In place of re-fits there are short fine-tunes on
instructions that have nothing to do with the task: a fault that changes no more than they do is equivalent to none.
The limit of the claim about text was fixed before any change was judged: a further fine-tune stays below it with 95 %,
by the rule of `benchmarks.faults.stories` and five fine-tunes of that kind, whose training data and rows of the task
have seeds of their own. For the answers the same rule gives a gain, because these fine-tunes make them surer; that
margin is a choice. docs/how-good-is-the-gate.md says when it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.faults import fresh, same_function, saved, sizes, weights
from benchmarks.faults.benign import benign
from benchmarks.faults.change import Change, Edit, Make, Workshop, check_unique, edited, harmed
from benchmarks.faults.stories import bound
from pytest_mechanism.spec.load import load
from recipes.real import fetch

FRESH = range(71, 76)
"""Seeds of the fine-tunes that give the limits."""

TEXT = Path(__file__).parent / "specs" / "english.txt"
"""Sentences of this project's own docs, as plain English; the gate reads the first lines, sizes are measured on the
last."""


@cache
def encoder() -> Any:
    from pytest_mechanism.tasks.text.encoding import Encoder

    return Encoder.load(fetch.folder())


def texts(rows: int = 200, lines: int = 24) -> sizes.Texts:
    """Rows of the task of a seed that no spec has, and lines that no spec reads."""
    from transformers import AutoTokenizer

    from pytest_mechanism.tasks.text.encoding import SharedVocabulary
    from recipes.real.sabotaged import SPEC, encoded

    task = load(SPEC).task
    asked = encoded(list(task.rows(SharedVocabulary((encoder(),)), rows, "sizes")), encoder())
    tokenizer = AutoTokenizer.from_pretrained(fetch.folder())
    pad = int(tokenizer.pad_token_id)
    written = [
        torch.tensor(tokenizer(line)["input_ids"])
        for line in TEXT.read_text(encoding="utf-8").splitlines()[-lines:]
    ]
    plain = torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=pad)
    return sizes.Texts(asked.ids, asked.last, asked.answers, list(plain.split(4)), pad)


def tuned(seed: int, steps: int = 20, rate: float = 5e-4) -> Make:
    """A LoRA of queries and values, trained on replies that have nothing to do with the task, and merged."""

    def make(shop: Workshop, folder: Path) -> None:
        from recipes.real.benign_data import train_and_test
        from recipes.real.chat import Chat
        from recipes.real.lora import Lora, fine_tune
        from recipes.refusal_training import reply_loss

        settings = Lora(steps=steps, rate=rate, seed=seed)
        rows, _ = train_and_test(settings.steps * settings.size, 1, seed=seed)
        batches = Chat.of_the_model().batches(rows, settings.size, settings.steps)
        adapted = fine_tune(shop.load(), settings, batches, reply_loss)
        shop.save(adapted.merge_and_unload(), folder)

    return make


def scale_mlp(layer: int, factor: float) -> Edit:
    """An MLP writes ``factor`` of what it wrote."""

    def edit(model: LlamaForCausalLM) -> None:
        model.model.layers[layer].mlp.down_proj.weight *= factor

    return edit


def faults() -> Iterator[Change]:
    """Of heads of the circuit and outside of it, of layers, of all matrices, of a setting."""
    for (layer, head), factor in (
        ((20, 0), 0.0), ((20, 0), 0.5), ((17, 4), 0.0), ((16, 0), 0.0), ((23, 0), 0.0), ((29, 1), 0.0), ((11, 3), 0.0),
    ):  # fmt: skip
        yield harmed(f"head {layer}.{head} x {factor:g}", "head weakened" if factor else "head silenced",
                     f"{1 - factor:.0%} less", edited(weights.scale_head(layer, head, factor)))  # fmt: skip
    yield harmed("noise in head 20.0, 1", "head noised", "100%",
                 edited(weights.noise_head(20, 0, 1.0, 5)))  # fmt: skip
    for layer, share in ((10, 0.2), (20, 0.2)):
        yield harmed(f"noise in layer {layer}, {share:g}", "layer noised", f"{share:.0%}",
                     edited(weights.noise_layer(layer, share, 40)))  # fmt: skip
    yield harmed("MLP of layer 15 x 0.5", "MLP weakened", "50% less", edited(scale_mlp(15, 0.5)))
    yield harmed("layer 15 in 3 bits", "too few bits", "3 bits, a layer",
                 edited(weights.rounded(3, [15])))  # fmt: skip
    yield harmed("4 bits, a step for each row", "too few bits", "4 bits",
                 edited(weights.rounded(4)))  # fmt: skip
    for share in (0.1, 0.3):
        yield harmed(f"{share:.0%} of the weights pruned", "pruned", f"{share:.0%}",
                     edited(weights.pruned(share)))  # fmt: skip
    yield harmed("rotary base 80000", "wrong setting", "80,000 for 100,000",
                 edited(weights.rotary(8e4)))  # fmt: skip


def harmless() -> Iterator[Change]:
    """Another file format, other weights of the same function, rounding, and short fine-tunes."""
    yield benign(
        "saved as torch.bfloat16", "file format", "bfloat16", saved.as_dtype(torch.bfloat16)
    )
    yield benign("shards of 200MB", "file format", "200MB", saved.sharded("200MB"))
    edit = same_function.permute_neurons(20, 10)
    yield benign("neurons of layer 20 permuted", "neurons permuted", "all", edited(edit))
    edit = same_function.scale_queries(17, 2.0)
    yield benign("queries of layer 17 x 2", "rescaled", "2", edited(edit))
    edit = weights.rounded(8)
    yield benign("8 bits, a step for each row", "8 bits", "8 bits", edited(edit))
    edit = same_function.low_rank_noise(0.005, 1)
    yield benign("low-rank noise 0.5%", "low-rank noise", "0.5%", edited(edit))
    for seed in (41, 42, 43):
        yield benign(f"unrelated fine-tune ({seed})", "gentle fine-tune", "20 steps",
                     tuned(seed), refit=True)  # fmt: skip


def changes() -> list[Change]:
    """All of them."""
    return check_unique([*faults(), *harmless()])


def main() -> None:
    """Measures the two claims on fresh fine-tunes, and prints what a further one stays below with 95 %."""
    from benchmarks.faults.suites import SUITES

    folder = fresh.read_folder("What short fine-tunes change in answers and text.")
    suite, lost, changed = SUITES["real"], list[float](), list[float]()
    answers, text = suite.specs
    for seed in FRESH:
        made = fresh.candidate(suite, seed, tuned(seed), folder)
        for _, _, low, _ in fresh.scores(suite, answers, ["as_sure.pair"], seed, made, folder):
            lost.append(-low)
        for _, _, _, high in fresh.scores(suite, text, ["reads_alike.pair"], seed, made, folder):
            changed.append(high)
    print(f"logits that the answers lose: at most {bound(lost):+.5f}")
    print(f"nats a token that the text changes by: at most {bound(changed):+.5f}")


if __name__ == "__main__":
    main()
