"""The changes of the real model (`recipes.real.fetch`), and the threshold of its claim about text.

    python -m benchmarks.faults.real --folder DIR      # the threshold

The release is the model itself, which nobody here can train again. In place of re-fits there are short fine-tunes on
instructions that have nothing to do with the task: a fault that changes no more than they do is equivalent to none.
The threshold was fixed before any change was judged, by the rule of `benchmarks.faults.stories`, from three further
fine-tunes of that kind.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.faults import gate, same_function, saved, sizes, weights
from benchmarks.faults.benign import benign
from benchmarks.faults.change import Change, Edit, Make, Workshop, check_unique, edited
from benchmarks.faults.stories import bound
from recipes.real import fetch

FRESH = range(71, 74)
"""Seeds of the fine-tunes that give the threshold."""

TEXT = Path(__file__).parent / "specs" / "english.txt"
"""Plain text; the gate reads the first lines, sizes are measured on the last."""


@cache
def encoder() -> Any:
    from pytest_mechanism.tasks.text.encoding import Encoder

    return Encoder.load(fetch.folder())


def texts(rows: int = 200, lines: int = 24) -> sizes.Texts:
    """Rows of the task of a seed that no spec has, and lines that no spec reads."""
    from transformers import AutoTokenizer

    from pytest_mechanism.spec.load import load
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
        yield Change(
            f"head {layer}.{head} x {factor:g}", "head weakened" if factor else "head silenced", True,
            f"{1 - factor:.0%} less", edited(weights.scale_head(layer, head, factor)), hurt=f"{layer}.{head}",
        )  # fmt: skip

    def harmed(name: str, kind: str, strength: str, edit: Edit) -> Change:
        return Change(name, kind, True, strength, edited(edit))

    yield harmed("noise in head 20.0, 1", "head noised", "100%", weights.noise_head(20, 0, 1.0, 5))
    for layer, share in ((10, 0.2), (20, 0.2)):
        yield harmed(f"noise in layer {layer}, {share:g}", "layer noised", f"{share:.0%}",
                     weights.noise_layer(layer, share, 40))  # fmt: skip
    yield harmed("MLP of layer 15 x 0.5", "MLP weakened", "50% less", scale_mlp(15, 0.5))
    yield harmed("layer 15 in 3 bits", "too few bits", "3 bits, a layer", weights.rounded(3, [15]))
    yield harmed("4 bits, a step for each row", "too few bits", "4 bits", weights.rounded(4))
    for share in (0.1, 0.3):
        yield harmed(f"{share:.0%} of the weights pruned", "pruned", f"{share:.0%}",
                     weights.pruned(share))  # fmt: skip
    yield harmed("rotary base 80000", "wrong setting", "80,000 for 100,000", weights.rotary(8e4))


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
    """Measures the claim on fresh fine-tunes and prints the threshold."""
    from benchmarks.faults.suites import SUITES

    parser = argparse.ArgumentParser(description="The threshold of the claim about text.")
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    suite, ends = SUITES["real"], []
    for seed in FRESH:
        model = folder / f"fresh-{seed}"
        if not model.exists():
            model.mkdir(parents=True)
            tuned(seed)(suite.shop, model)
        _, scores, _ = gate.run(suite.specs[1], suite.references(model), folder / "store", {})
        ends.append(scores["reads_alike.pair"]["interval"][1])
        print(
            f"fine-tune {seed}: {scores['reads_alike.pair']['value']:.4f}, upper end {ends[-1]:.4f}",
            flush=True,
        )
    print(f"threshold {bound(ends):.4f}")


if __name__ == "__main__":
    main()
