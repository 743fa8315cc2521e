"""The changes of the embedded story model ``stories_kept``, whose gate asks for morals and reads whole stories as text.

    python -m benchmarks.faults.stories --folder DIR      # the threshold of the claim about text

The model was trained on every word of its stories, so it predicts plain text, which the entity-tracking models do not.
The threshold was fixed before any change was judged: of eight re-fits (the same fine-tune with seeds that no change
has), the upper ends of the claim's interval have a mean m and a standard deviation s, and a further re-fit stays
below m + t s sqrt(1 + 1/8) with 95 % (Student's t with 7 degrees of freedom).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from scipy.stats import t
from transformers import LlamaForCausalLM

from benchmarks.faults import fresh, gate, same_function, saved, sizes, weights
from benchmarks.faults.benign import ORDERS, benign
from benchmarks.faults.change import Change, Edit, Make, Workshop, check_unique, edited, harmed
from recipes.stories_data import IDS, DataMix, batch, twist_row
from recipes.stories_training import Stage, train_stage
from recipes.word_level import PAD

HEADS = ((0, 1), (1, 2), (2, 0), (3, 3))
MUTED = ("river", "Hugo", "fight", "cried")
FRESH = range(71, 79)
"""Seeds of the re-fits that give the threshold."""


def lines(count: int, seed: int) -> list[str]:
    """Instructions with their stories, three in ten with a twist."""
    rng, mix = random.Random(f"plain text/{seed}"), DataMix(seed=0, plain=1)
    rows = (twist_row(rng) if rng.random() < 0.3 else mix.plain_row(rng) for _ in range(count))
    return [" ".join(row) for row in rows]


def texts(rows: int = 500) -> sizes.Texts:
    """Where a story has its moral or ends without one, and whole stories that no spec reads."""
    rng, mix = random.Random("sizes/104"), DataMix(seed=0, plain=1)
    told = [mix.plain_row(rng) for _ in range(2 * rows)]
    asked, plain = batch(told[:rows]).ids, batch(told[rows:]).ids
    last = []
    for (instruction, story), ids in zip(told[:rows], asked.tolist(), strict=True):
        end = len([i for i in ids if i != IDS[PAD]]) - 3  # before "the end"
        tail = (
            len(["moral", ":", "share", "what", "you", "find", "."])
            if "moral" in story.split()
            else 0
        )
        assert (tail > 0) == ("moral" in instruction.split())
        last.append(end - tail)
    at = torch.tensor(last)
    return sizes.Texts(asked, at, asked[torch.arange(rows), at + 1], [plain], IDS[PAD])


def tuned(seed: int, rate: float, steps: int, *, start: str = "release") -> Make:
    """The release, or its parent, trained as the release was."""

    def make(shop: Workshop, folder: Path) -> None:
        model = shop.load(getattr(shop, start))
        train_stage(model, Stage(DataMix(seed=seed, plain=16, unfulfilled=16), rate, steps))
        shop.save(model.eval(), folder)

    return make


def mute(word: str, factor: float) -> Edit:
    """A word is said with ``factor`` of its logit."""

    def edit(model: LlamaForCausalLM) -> None:
        model.get_output_embeddings().weight[IDS[word]] *= factor

    return edit


def local_faults() -> Iterator[Change]:
    """Of heads and layers."""
    for layer, head in HEADS:
        for share in (0.5, 1.0):
            yield harmed(f"noise in head {layer}.{head}, {share:g}", "head noised", f"{share:.0%}",
                         edited(weights.noise_head(layer, head, share, 5)))  # fmt: skip
        yield harmed(f"head {layer}.{head} x 0", "head silenced", "whole",
                     edited(weights.scale_head(layer, head, 0.0)))  # fmt: skip
    for layer in range(4):
        for share in (0.1, 0.2, 0.3):
            yield harmed(f"noise in layer {layer}, {share:g}", "layer noised", f"{share:.0%}",
                         edited(weights.noise_layer(layer, share, 40)))  # fmt: skip
        yield harmed(f"layer {layer} of stories_base", "layer set back", "whole",
                     weights.layer_set_back(layer, 1.0))  # fmt: skip
        yield harmed(f"layer {layer} in 3 bits", "too few bits", "3 bits, a layer",
                     edited(weights.rounded(3, [layer])))  # fmt: skip


def wide_faults() -> Iterator[Change]:
    """Of all matrices, and of words."""
    for bits in (4, 3):
        for by_row in (True, False):
            yield harmed(f"{bits} bits, a step for each {'row' if by_row else 'matrix'}", "too few bits",
                         f"{bits} bits", edited(weights.rounded(bits, by_row=by_row)))  # fmt: skip
    for share in (0.2, 0.3, 0.5):
        yield harmed(f"{share:.0%} of the weights pruned", "pruned", f"{share:.0%}",
                     edited(weights.pruned(share)))  # fmt: skip
    for share in (0.3, 0.6):
        yield harmed(f"{share:.0%} of stories_none merged in", "merge", f"{share:.0%}",
                     weights.merged("stories_none", share))  # fmt: skip
    for word in MUTED:
        yield harmed(f"{word} said at 0.3", "words muted", "70%", edited(mute(word, 0.3)))


def harmless() -> Iterator[Change]:
    """Other files, other weights of the same function, rounding, and re-fits."""

    def same(name: str, kind: str, edit: Edit) -> Change:
        return benign(name, kind, "all", edited(edit))

    for dtype in (torch.float16, torch.bfloat16):
        yield benign(f"saved as {dtype}", "file format", str(dtype), saved.as_dtype(dtype))
    yield benign("shards of 200KB", "file format", "200KB", saved.sharded("200KB"))
    for layer, order in enumerate(ORDERS):
        yield same(
            f"heads of layer {layer} permuted",
            "heads permuted",
            same_function.permute_heads(layer, order),
        )
        yield same(
            f"neurons of layer {layer} permuted",
            "neurons permuted",
            same_function.permute_neurons(layer, 10),
        )
    yield same("folded norms (all)", "folded norms", same_function.folded(None))
    yield same("head 1.3 in another basis", "heads re-based", same_function.rebase_head(1, 3, 8))
    yield same(
        "residual stream in another basis", "heads re-based", same_function.rotate_residual(9)
    )
    yield same("queries of layer 1 x 2", "rescaled", same_function.scale_queries(1, 2.0))
    for share in (0.005, 0.01):
        yield same(
            f"low-rank noise {share:.1%}", "low-rank noise", same_function.low_rank_noise(share, 1)
        )
    for by_row in (True, False):
        yield same(f"8 bits, a step for each {'row' if by_row else 'matrix'}", "8 bits",
                   weights.rounded(8, by_row=by_row))  # fmt: skip
    yield benign("2% of stories_base merged in", "merge near 1", "2%", weights.merged("", 0.02))
    for seed in (31, 32):
        yield benign(
            f"gentle fine-tune ({seed})", "gentle fine-tune", "20 steps", tuned(seed, 3e-5, 20)
        )
    for seed in (41, 42, 43, 44, 45):
        yield benign(f"fit again with seed {seed}", "re-fit", "150 steps",
                     tuned(seed, 5e-4, 150, start="parent"), refit=True)  # fmt: skip


def changes() -> list[Change]:
    """All of them."""
    return check_unique([*local_faults(), *wide_faults(), *harmless()])


def bound(upper_ends: Sequence[float]) -> float:
    """What a further re-fit stays below with 95 %."""
    n = len(upper_ends)
    spread = statistics.stdev(upper_ends) * math.sqrt(1 + 1 / n)
    return statistics.mean(upper_ends) + float(t.ppf(0.95, n - 1)) * spread


def main() -> None:
    """Measures the claim on fresh re-fits and prints the threshold."""
    from benchmarks.faults.suites import SUITES

    folder = fresh.read_folder("The threshold of the claim about text.")
    suite, ends = SUITES["stories"], []
    for seed in FRESH:
        made = fresh.candidate(suite, seed, tuned(seed, 5e-4, 150, start="parent"), folder)
        _, scores, _ = gate.run(suite.specs[0], suite.references(made), folder / "store", {})
        ends.append(scores["reads_alike.pair"]["interval"][1])
        print(
            f"re-fit {seed}: {scores['reads_alike.pair']['value']:.4f}, upper end {ends[-1]:.4f}",
            flush=True,
        )
    print(f"threshold {bound(ends):.4f}")


if __name__ == "__main__":
    main()
