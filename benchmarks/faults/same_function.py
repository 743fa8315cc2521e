"""Edits after which a model computes what it computed, and edits of words that no text has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.faults.change import Edit
from benchmarks.faults.weights import attention, matrices, orthogonal, own, random_like


def permute_heads(layer: int, order: Sequence[int]) -> Edit:
    """The heads of a layer in another order: head i is what head order[i] was."""

    def edit(model: LlamaForCausalLM) -> None:
        size = model.config.head_dim
        places = torch.cat([torch.arange(size) + size * head for head in order])
        part = attention(model, layer)
        for matrix in (part.q_proj, part.k_proj, part.v_proj):
            matrix.weight.copy_(matrix.weight[places].clone())
        part.o_proj.weight.copy_(part.o_proj.weight[:, places].clone())

    return edit


def rebase_head(layer: int, head: int, seed: int) -> Edit:
    """z of a head in another orthonormal basis, which the output matrix undoes."""

    def edit(model: LlamaForCausalLM) -> None:
        part, mine = attention(model, layer), own(model, head)
        turn = orthogonal(model.config.head_dim, seed)
        part.v_proj.weight[mine] = turn @ part.v_proj.weight[mine]
        part.o_proj.weight[:, mine] = part.o_proj.weight[:, mine] @ turn.T

    return edit


def scale_queries(layer: int, factor: float) -> Edit:
    """Larger queries and smaller keys."""

    def edit(model: LlamaForCausalLM) -> None:
        attention(model, layer).q_proj.weight *= factor
        attention(model, layer).k_proj.weight /= factor

    return edit


def scale_values(layer: int, factor: float) -> Edit:
    """Larger values and a smaller output matrix."""

    def edit(model: LlamaForCausalLM) -> None:
        attention(model, layer).v_proj.weight *= factor
        attention(model, layer).o_proj.weight /= factor

    return edit


def permute_neurons(layer: int, seed: int) -> Edit:
    """The neurons of an MLP in another order."""

    def edit(model: LlamaForCausalLM) -> None:
        part = model.model.layers[layer].mlp
        order = torch.randperm(
            part.up_proj.out_features, generator=torch.Generator().manual_seed(seed)
        )
        for matrix in (part.up_proj, part.gate_proj):
            matrix.weight.copy_(matrix.weight[order].clone())
        part.down_proj.weight.copy_(part.down_proj.weight[:, order].clone())

    return edit


def scale_neurons(layer: int, factor: float) -> Edit:
    """A larger input and a smaller output of an MLP's neurons."""

    def edit(model: LlamaForCausalLM) -> None:
        model.model.layers[layer].mlp.up_proj.weight *= factor
        model.model.layers[layer].mlp.down_proj.weight /= factor

    return edit


def fold_norms(model: LlamaForCausalLM, layers: Iterable[int] | None = None) -> None:
    """The weights of norms go into the matrices that read them."""
    chosen = range(len(model.model.layers)) if layers is None else layers
    for layer in chosen:
        block = model.model.layers[layer]
        for norm, readers in (
            (
                block.input_layernorm,
                (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj),
            ),
            (block.post_attention_layernorm, (block.mlp.up_proj, block.mlp.gate_proj)),
        ):
            for reader in readers:
                reader.weight *= norm.weight
            norm.weight.fill_(1)
    if layers is None:
        model.lm_head.weight *= model.model.norm.weight
        model.model.norm.weight.fill_(1)


def folded(layers: Iterable[int] | None = None) -> Edit:
    """See `fold_norms`."""
    return lambda model: fold_norms(model, layers)


def rotate_residual(seed: int) -> Edit:
    """The residual stream in another orthonormal basis: with folded norms, RMS norm commutes with it."""

    def edit(model: LlamaForCausalLM) -> None:
        fold_norms(model)
        turn = orthogonal(model.config.hidden_size, seed)
        readers: list[Tensor] = [model.model.embed_tokens.weight, model.lm_head.weight]
        writers: list[Tensor] = []
        for block in model.model.layers:
            a, m = block.self_attn, block.mlp
            readers += [
                part.weight for part in (a.q_proj, a.k_proj, a.v_proj, m.up_proj, m.gate_proj)
            ]
            writers += [a.o_proj.weight, m.down_proj.weight]
        for weight in readers:
            weight.copy_(weight @ turn)
        for weight in writers:
            weight.copy_(turn.T @ weight)

    return edit


def low_rank_noise(share: float, seed: int, rank: int = 4) -> Edit:
    """Every matrix plus a random one of low rank and ``share`` of its norm."""

    def edit(model: LlamaForCausalLM) -> None:
        for i, part in enumerate(matrices(model)):
            out, into = part.weight.shape
            made = torch.Generator().manual_seed(seed * 1000 + i)
            noise = torch.randn(out, rank, generator=made) @ torch.randn(rank, into, generator=made)
            part.weight += share * noise * (part.weight.norm() / noise.norm())

    return edit


def other_unused_words(words: Sequence[int], seed: int) -> Edit:
    """Embeddings of words that no text has are random."""

    def edit(model: LlamaForCausalLM) -> None:
        rows = model.model.embed_tokens.weight
        rows[list(words)] = random_like(rows[list(words)], seed)

    return edit


def more_words(count: int, unknown: int) -> Edit:
    """The vocabulary has more rows, which no token uses: copies of that of the unknown word."""

    def edit(model: LlamaForCausalLM) -> None:
        old = model.config.vocab_size
        model.resize_token_embeddings(old + count, mean_resizing=False)
        model.model.embed_tokens.weight[old:] = model.model.embed_tokens.weight[unknown]
        model.lm_head.weight[old:] = model.lm_head.weight[unknown]

    return edit


def together(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(model: LlamaForCausalLM) -> None:
        for each in edits:
            each(model)

    return edit
