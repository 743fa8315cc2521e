"""Draws docs/paper-two/attention-maps.svg: the attention of compiled counters before and after fine-tuning.

    python -m docs.attention_maps

From the root of the repository. A row for each model, a map for each block (of one head): the token in a line
attends to the tokens in the columns. Jain et al. (2024) show such maps of their compiled models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from pytest_mechanism.report.pictures import style
from pytest_mechanism.tasks.text.encoding import Encoder
from recipes.compiled_training import read

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "circuits" / "paper_two" / "models"
NAMES = {
    "counter": "compiled to count a",
    "counter_high": "fine-tuned to count b",
    "counter_none": "never compiled, trained on b",
}
TEXT = "a b c a b b d a"


def maps(folder: Path, text: str) -> np.ndarray:
    """Attention weights after the softmax, [blocks, tokens, tokens]; row i holds what token i attends to."""
    model, encoder = read(folder).eval(), Encoder.load(folder)
    ids = torch.tensor([encoder.tokenizer.encode(text).ids])
    found: list[np.ndarray] = []
    hooks = [
        layer.attn.register_forward_hook(lambda _, __, out: found.append(out[1][0, 0].numpy()))
        for layer in model.layers
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return np.stack(found)


def draw(found: Mapping[str, np.ndarray], tokens: list[str]) -> Figure:
    """A row of maps for each model, all on the scale from 0 to 1."""
    blocks = max(len(of) for of in found.values())
    figure = style.new_figure(2.3 * blocks + 2.3, 2.5 * len(found) + 0.5)
    grid = figure.subplots(len(found), blocks, squeeze=False)
    figure.subplots_adjust(left=0.24, right=0.98, top=0.93, bottom=0.03, wspace=0.15, hspace=0.4)
    for line, (name, of) in zip(grid, found.items(), strict=True):
        for block, (axes, weights) in enumerate(zip(line, of, strict=True)):
            axes.imshow(weights, vmin=0, vmax=1, cmap="Blues")
            axes.set_xticks(range(len(tokens)), tokens, fontsize=7)
            axes.set_yticks(range(len(tokens)), tokens, fontsize=7)
            axes.xaxis.tick_top()
            axes.tick_params(length=0)
            axes.set_title(f"block {block}", fontsize=9)
        line[0].set_ylabel(
            f"{name}\n{NAMES.get(name, '')}", rotation=0, ha="right", va="center", fontsize=8
        )
    return figure


def save(stem: Path) -> None:
    """Measures, and writes STEM.svg and STEM.png."""
    tokens = Encoder.load(MODELS / "counter").tokenizer.encode(TEXT).tokens
    found = {name: maps(MODELS / name, TEXT) for name in NAMES}
    style.save(lambda: draw(found, tokens), stem)


if __name__ == "__main__":
    save(ROOT / "docs" / "paper-two" / "attention-maps")
