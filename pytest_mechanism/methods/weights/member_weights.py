"""How far the weights of every head, MLP and layer of one model are from those of another.

    change(m) = |W_m(after) - W_m(before)| / |W_m(before)|      (Frobenius norms over all matrices of m)

The matrices of a head are its rows of W_Q and its columns of W_O, and W_K and W_V of its key-value head. Weights are
compared as the model computes with them: adapters merged, GGUF dequantised. Matrices that bitsandbytes keeps packed
have no number.

A relative norm says that training touched a part, not that the part does another thing: folding a norm into the next
matrix changes every weight and no output, and heads in another order have other weights at every index unless they
are compared in that order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from pytest_mechanism.measurements.member_weights import (
    ChangedRows,
    MemberWeightResult,
    MemberWeights,
    WeightDonation,
)
from pytest_mechanism.methods.context import MeasurementContext

Weights = Mapping[str, Sequence[Tensor]]
"""Name of a part -> its tensors, in a fixed order."""

FEW_ROWS = 64
"""Rows of an embedding that are an edit of single words; more are a training."""

SHOWN_ROWS = 3
"""Words that are kept of them."""

OUTPUT = ("lm_head", "unembed", "embed_out", "output")
"""Parts of the names of unembeddings."""

PACKED = "weights that bitsandbytes keeps packed are not compared"
APART = "the heads of this model family share a matrix that cannot be split, so weights are compared by layer alone"


def donate(
    context: MeasurementContext, request: WeightDonation, inputs: Sequence[Any]
) -> dict[str, list[Tensor]]:
    """The weights of every part, on the CPU."""
    return {name: [tensor.detach().cpu() for tensor in tensors] for name, tensors in parts(context)}


def measure(
    context: MeasurementContext, request: MemberWeights, inputs: Sequence[Any]
) -> MemberWeightResult:
    """The change of every part that both models have with the same sizes."""
    before: Weights = inputs[0]
    after = dict(parts(context))
    names = {f"{layer}.{head}": f"{layer}.{other}" for layer, head, other in request.renamed}
    changes: list[tuple[str, float]] = []
    packed = False
    rows: list[ChangedRows] = []
    tokenizer = context.model.encoder.tokenizer
    apart = [name for name in after if name not in {*before} and name not in {*names.values()}]
    for name, old in before.items():
        new: Sequence[Tensor] = after.get(names.get(name, name), ())
        if [tensor.shape for tensor in old] != [tensor.shape for tensor in new]:
            apart.append(name)
            continue
        if not all(tensor.is_floating_point() for tensor in (*old, *new)):
            packed = True
            continue
        change = relative_change(old, new)
        changes.append((name, change))
        if change and not name[0].isdigit() and not name.startswith("layer "):
            rows += changed_rows(name, old[0], new[0], tokenizer)
    heads = any("." in name and not name.endswith(".mlp") and name[0].isdigit() for name in before)
    reasons = [PACKED] * packed + [APART] * (not packed and not heads)
    if apart:
        reasons.append(
            "not compared, because one model lacks it or has another size: " + ", ".join(apart[:4])
        )
    reason = "; ".join(reasons)
    return MemberWeightResult((), (), {}, changes=tuple(changes), reason=reason, rows=tuple(rows))


def changed_rows(name: str, old: Tensor, new: Tensor, tokenizer: Any) -> list[ChangedRows]:
    """The tokens whose rows of an embedding changed, if they are at most `FEW_ROWS`; of another matrix none."""
    if old.dim() != 2 or len(old) < tokenizer.get_vocab_size():
        return []
    moved = (new.cpu().float() - old.float()).norm(dim=1)
    count = int((moved > 0).sum())
    if not 0 < count <= FEW_ROWS:
        return []
    most = moved.argsort(descending=True, stable=True)[: min(count, SHOWN_ROWS)].tolist()
    words = (tokenizer.decode([token], skip_special_tokens=False).strip() for token in most)
    side = "output" if any(part in name for part in OUTPUT) else "input"
    named = tuple(word or f"token {token}" for word, token in zip(words, most, strict=True))
    return [ChangedRows(name, side, count, named)]


def relative_change(old: Sequence[Tensor], new: Sequence[Tensor]) -> float:
    """The norm of the difference divided by the norm of the old weights; 1 where those are 0 and the new are not."""
    moved = sum(
        float((b.double().cpu() - a.double()).square().sum()) for a, b in zip(old, new, strict=True)
    )
    size = sum(float(a.double().square().sum()) for a in old)
    if size == 0:
        return 1.0 if moved else 0.0
    return float((moved / size) ** 0.5)


def parts(context: MeasurementContext) -> Iterator[tuple[str, list[Tensor]]]:
    """Every part of a model with its tensors, without copies."""
    inside: set[int] = set()
    for number, layer in enumerate(context.model.wrapped.layers):
        own: list[Tensor] = [*layer.module.parameters()]
        inside |= {id(parameter) for parameter in own}
        yield from heads_of(layer.module.attn, number, context.model.shape.n_heads)
        weights: list[Tensor] = [] if layer.mlp is None else [*layer.mlp.parameters()]
        if weights:
            yield f"{number}.mlp", weights
        yield f"layer {number}", own
    # a matrix that one model ties and the other does not has its own name in both
    for name, parameter in context.model.wrapped.plain.named_parameters(remove_duplicate=False):
        if id(parameter) not in inside:
            yield (
                name.replace("_original_component.", "").replace("._original_component", ""),
                [parameter],
            )


def heads_of(attention: Any, layer: int, n_heads: int) -> Iterator[tuple[str, list[Tensor]]]:
    """The matrices of each head of a layer; none where the family does not keep them apart."""
    try:
        matrices = [getattr(attention, name) for name in ("W_Q", "W_K", "W_V", "W_O")]
    except Exception:  # another library's property, which raises what it likes
        return
    if not all(isinstance(m, Tensor) and m.dim() == 3 and n_heads % len(m) == 0 for m in matrices):
        return
    for head in range(n_heads):
        yield f"{layer}.{head}", [m[head // (n_heads // len(m))] for m in matrices]
