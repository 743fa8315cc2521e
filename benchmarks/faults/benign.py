"""The benign changes of the embedded entity-tracking release ``ft``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.faults import learned, same_function, saved, weights
from benchmarks.faults.change import Change, Edit, Make, edited
from recipes.entity_tracking_data import IDS, VARIATIONS
from recipes.word_level import UNKNOWN

ORDERS = ([1, 2, 3, 0], [3, 2, 1, 0], [2, 3, 0, 1], [0, 2, 1, 3])
"""Of the heads of each layer, where they are permuted."""


def benign(name: str, kind: str, strength: str, make: Make, *, refit: bool = False) -> Change:
    return Change(name, kind, False, strength, make, refit=refit)


def file_changes() -> Iterator[Change]:
    """Other files with the same weights, or rounded as a file format rounds them."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield benign(f"saved as {dtype}", "file format", str(dtype), saved.as_dtype(dtype))
    for size in ("200KB", "1MB"):
        yield benign(f"shards of {size}", "file format", size, saved.sharded(size))
    yield benign("keys in the opposite order", "file format", "all keys", saved.reversed_keys)
    yield benign("more keys in config.json", "file format", "two keys", saved.more_config)


def same_functions() -> Iterator[Change]:
    """Other weights that compute the same function, but for rounding."""

    def same(name: str, kind: str, strength: str, edit: Edit) -> Change:
        return benign(name, kind, strength, edited(edit))

    unused = [IDS[word] for word in VARIATIONS]
    for seed in (1, 2):
        edit = same_function.other_unused_words(unused, seed)
        yield same(f"other unused words ({seed})", "unused words", f"{len(unused)} words", edit)
    for count in (5, 61):
        edit = same_function.more_words(count, IDS[UNKNOWN])
        yield same(f"{count} more words", "unused words", f"{count} words", edit)
    for layers in ([0], [2], [1, 3], None):
        name = "all" if layers is None else ", ".join(map(str, layers))
        yield same(f"folded norms ({name})", "folded norms", name, same_function.folded(layers))
    for layer, order in enumerate(ORDERS):
        edit = same_function.permute_heads(layer, order)
        yield same(f"heads of layer {layer} permuted", "heads permuted", str(order), edit)
    every = same_function.together(
        *(same_function.permute_heads(layer, order) for layer, order in enumerate(ORDERS))
    )
    yield same("heads of all layers permuted", "heads permuted", "all layers", every)


def other_bases() -> Iterator[Change]:
    """The same function, with activations in another basis or unit."""

    def same(name: str, kind: str, strength: str, edit: Edit) -> Change:
        return benign(name, kind, strength, edited(edit))

    for layer, head in ((0, 2), (1, 3), (2, 2), (3, 1)):
        edit = same_function.rebase_head(layer, head, 8)
        yield same(f"head {layer}.{head} in another basis", "heads re-based", "a head", edit)
    every = same_function.together(
        *(same_function.rebase_head(k, h, 4 * k + h) for k in range(4) for h in range(4))
    )
    yield same("all heads in another basis", "heads re-based", "all heads", every)
    yield same("residual stream in another basis", "heads re-based", "all",
                 same_function.rotate_residual(9))  # fmt: skip
    for layer in (1, 3):
        yield same(f"queries of layer {layer} x 2", "rescaled", "2",
                     same_function.scale_queries(layer, 2.0))  # fmt: skip
    yield same("values of layer 2 x 4", "rescaled", "4", same_function.scale_values(2, 4.0))
    yield same("neurons of layer 0 x 2", "rescaled", "2", same_function.scale_neurons(0, 2.0))
    for layer in (0, 1, 2):
        yield same(f"neurons of layer {layer} permuted", "neurons permuted", "all",
                     same_function.permute_neurons(layer, 10))  # fmt: skip


def small_changes() -> Iterator[Change]:
    """Benign changes that move the weights a little."""
    for share in (0.005, 0.01):
        for seed in (1, 2, 3):
            yield benign(f"low-rank noise {share:.1%} ({seed})", "low-rank noise", f"{share:.1%}",
                         edited(same_function.low_rank_noise(share, seed)))  # fmt: skip
    for share in (0.02, 0.05, 0.1):
        yield benign(f"{share:.0%} of base merged in", "merge near 1", f"{share:.0%}",
                     weights.merged("", share))  # fmt: skip
    for bits, by_row in ((8, True), (8, False)):
        name = f"{bits} bits, a step for each {'row' if by_row else 'matrix'}"
        yield benign(name, "8 bits", f"{bits} bits", edited(weights.rounded(bits, by_row=by_row)))
    yield benign("layer 1 in 8 bits", "8 bits", "a layer", edited(weights.rounded(8, [1])))
    for seed, rate, steps in (
        (31, 1e-5, 20), (32, 1e-5, 40), (33, 3e-5, 20), (34, 3e-5, 40), (35, 1e-4, 10),
        (36, 1e-4, 20),
    ):  # fmt: skip
        yield benign(f"gentle fine-tune, rate {rate:g}, {steps} steps", "gentle fine-tune",
                     f"{steps} steps", learned.tuned(seed, rate, steps))  # fmt: skip
    for seed in (41, 42, 43, 44, 45):
        yield benign(f"fit again with seed {seed}", "re-fit", "100 steps",
                     learned.tuned(seed, 1e-4, 100, start="parent"), refit=True)  # fmt: skip
    for seed, rate in ((51, 3e-5), (52, 1e-4), (53, 1e-4), (54, 3e-4)):
        yield benign(f"LoRA, rate {rate:g} ({seed})", "benign LoRA", "20 steps",
                     learned.adapted(seed, rate, 20))  # fmt: skip


def changes() -> list[Change]:
    """All of them."""
    return [*file_changes(), *same_functions(), *other_bases(), *small_changes()]
