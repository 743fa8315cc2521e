"""Edits that harm a model: of one head, of a layer, of words, of all matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from benchmarks.faults.change import Edit, Make, Workshop


def attention(model: LlamaForCausalLM, layer: int) -> Any:
    return model.model.layers[layer].self_attn


def own(model: LlamaForCausalLM, head: int) -> slice:
    """The rows of q, k and v, and the columns of the output matrix, of a head."""
    size = model.config.head_dim
    return slice(head * size, (head + 1) * size)


def matrices(model: LlamaForCausalLM, layers: Iterable[int] | None = None) -> list[nn.Linear]:
    """The linear maps of some layers; of all by default, without the output matrix."""
    chosen = range(len(model.model.layers)) if layers is None else layers
    return [
        part
        for layer in chosen
        for part in model.model.layers[layer].modules()
        if isinstance(part, nn.Linear)
    ]


def random_like(weight: Tensor, seed: int) -> Tensor:
    """Normal numbers with the norm of a matrix."""
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = noise * (weight.norm() / noise.norm())
    return scaled


def orthogonal(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix, [size, size]."""
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    basis: Tensor = torch.linalg.qr(noise)[0]
    return basis


# -- one head


def scale_head(layer: int, head: int, factor: float) -> Edit:
    """A head writes ``factor`` of what it wrote; at 0 it is silent."""

    def edit(model: LlamaForCausalLM) -> None:
        attention(model, layer).o_proj.weight[:, own(model, head)] *= factor

    return edit


def noise_head(layer: int, head: int, share: float, seed: int) -> Edit:
    """A head writes noise too: its output matrix plus a random one of ``share`` of its norm."""

    def edit(model: LlamaForCausalLM) -> None:
        columns = attention(model, layer).o_proj.weight[:, own(model, head)]
        columns += share * random_like(columns, seed)

    return edit


def rotate_head(layer: int, head: int, degrees: float, seed: int) -> Edit:
    """A head's z is rotated by an angle in every plane of a random basis, and its readers read the rotated z."""

    def edit(model: LlamaForCausalLM) -> None:
        size, angle = model.config.head_dim, math.radians(degrees)
        turn = torch.eye(size) * math.cos(angle)
        for i in range(0, size, 2):
            turn[i, i + 1], turn[i + 1, i] = -math.sin(angle), math.sin(angle)
        basis = orthogonal(size, seed)
        columns = attention(model, layer).o_proj.weight[:, own(model, head)]
        columns.copy_(columns @ (basis @ turn @ basis.T))

    return edit


def move_head(layer: int, head: int, to: int, share: float) -> Edit:
    """Head ``to`` becomes a copy of a head and does ``share`` of its work; the head does the rest."""

    def edit(model: LlamaForCausalLM) -> None:
        part = attention(model, layer)
        for matrix in (part.q_proj, part.k_proj, part.v_proj):
            matrix.weight[own(model, to)] = matrix.weight[own(model, head)].clone()
        written = part.o_proj.weight[:, own(model, head)].clone()
        part.o_proj.weight[:, own(model, head)] = written * (1 - share)
        part.o_proj.weight[:, own(model, to)] = written * share

    return edit


def head_of(other: LlamaForCausalLM, layer: int, head: int) -> Edit:
    """A head has the weights that it has in another model."""

    def edit(model: LlamaForCausalLM) -> None:
        ours, theirs, mine = attention(model, layer), attention(other, layer), own(model, head)
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(ours, name).weight[mine] = getattr(theirs, name).weight[mine]
        ours.o_proj.weight[:, mine] = theirs.o_proj.weight[:, mine]

    return edit


def head_set_back(layer: int, head: int) -> Make:
    """A head has the weights that it had before the fine-tune."""

    def make(shop: Workshop, folder: Path) -> None:
        model = shop.load()
        with torch.no_grad():
            head_of(shop.load(shop.parent), layer, head)(model)
        shop.save(model, folder)

    return make


# -- layers and models


def layer_set_back(layer: int, share: float, part: str = "") -> Make:
    """A layer, or a part of it, moves back by ``share`` towards what it was before the fine-tune."""
    return merged("", share, f"model.layers.{layer}.{part}")


def merged(other: str, share: float, within: str = "") -> Make:
    """``share`` of another model's weights and the rest of the release's.

    Args:
        other: an embedded model; the parent where empty.
        share: of the other model.
        within: only weights whose names begin so.
    """

    def make(shop: Workshop, folder: Path) -> None:
        model = shop.load()
        theirs = shop.load(shop.models / other if other else shop.parent).state_dict()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.startswith(within):
                    weight.lerp_(theirs[name], share)
        shop.save(model, folder)

    return make


def noise_layer(layer: int, share: float, seed: int) -> Edit:
    """Every matrix of a layer plus a random one of ``share`` of its norm."""

    def edit(model: LlamaForCausalLM) -> None:
        for i, part in enumerate(matrices(model, [layer])):
            part.weight += share * random_like(part.weight, seed + i)

    return edit


def rounded(bits: int, layers: Iterable[int] | None = None, *, by_row: bool = True) -> Edit:
    """Every matrix rounded to ``bits`` bits: whole multiples of a step, one for each row or for the matrix."""
    chosen = None if layers is None else tuple(layers)

    def edit(model: LlamaForCausalLM) -> None:
        for part in matrices(model, chosen):
            size = part.weight.abs()
            most = size.amax(dim=1, keepdim=True) if by_row else size.max()
            step = most / (2 ** (bits - 1) - 1)
            part.weight.copy_((part.weight / step).round() * step)

    return edit


def pruned(share: float) -> Edit:
    """The smallest weights of every matrix are zero."""

    def edit(model: LlamaForCausalLM) -> None:
        for part in matrices(model):
            size = part.weight.abs()
            part.weight[size < size.flatten().quantile(share)] = 0

    return edit


def rotary(theta: float) -> Edit:
    """Another base of the rotary embedding: positions are read in another unit."""

    def edit(model: LlamaForCausalLM) -> None:
        model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": theta}

    return edit


# -- words


def read_alike(first: int, second: int, share: float) -> Edit:
    """Two words move towards each other in the embedding; at 1 they are read as the same word."""

    def edit(model: LlamaForCausalLM) -> None:
        words = model.model.embed_tokens.weight
        middle = (words[first] + words[second]) / 2
        words[first].lerp_(middle, share)
        words[second].lerp_(middle, share)

    return edit


def read_as(word: int, other: int) -> Edit:
    """A word is read as another one."""

    def edit(model: LlamaForCausalLM) -> None:
        words = model.model.embed_tokens.weight
        words[word] = words[other].clone()

    return edit


def said_weakly(words: Iterable[int], share: float) -> Edit:
    """The rows of some words in the output matrix are ``share`` of what they were."""
    chosen = list(words)

    def edit(model: LlamaForCausalLM) -> None:
        model.lm_head.weight[chosen] *= share

    return edit


def said_swapped(first: int, second: int) -> Edit:
    """Two words have each other's row of the output matrix."""

    def edit(model: LlamaForCausalLM) -> None:
        rows = model.lm_head.weight
        rows[[first, second]] = rows[[second, first]].clone()

    return edit
