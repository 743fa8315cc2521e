"""How far two models' next-token distributions are apart on plain text, and from which layer on.

    KL(A || B) = mean over tokens of  sum_w p_A(w) log(p_A(w) / p_B(w))          in nats a token

Where it comes from: B reads the text, and its residual stream after layer l is replaced, at every token, by A's, so
that only the layers behind l, the last norm and the unembedding are B's:

    K(l)   = KL(A || B on A's stream after layer l)       K(none) = KL(A || B), l = embeddings comes before layer 0
    from l = K(l - 1) - K(l)                              what remains, K(last layer), comes from norm and unembedding

These parts add up to KL(A || B). They depend on the order: a layer's part is what it adds *behind* A's own lower
layers and *before* B's upper ones, and may be negative where later layers of B make up for an earlier one. They mean
something only if both models write their streams in one basis, as a model and its fine-tune do. This is
activation patching of the residual stream (Vig et al. 2020; Meng et al. 2022) between models instead of prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Reading, Site, Tokens
from pytest_mechanism.engine.reference import SiteHook, edited
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.model_families.rotary import row_lengths


@dataclass(frozen=True, eq=False)
class TextBatch:
    """What a model says about some passages, on the CPU.

    Attributes:
        tokens: of the passages.
        log_probabilities: of the next token, at every token.
        streams: the residual stream before layer 0, and after each layer.
    """

    tokens: Tokens
    log_probabilities: Float[Tensor, "rows tokens words"]
    streams: Sequence[Float[Tensor, "rows tokens 1 d_model"]]


@dataclass(frozen=True)
class Passage:
    """Sums over the predictions of one passage.

    Attributes:
        predictions: how many tokens are predicted.
        surprise: minus the log-probability of the tokens that follow, of A and of B.
        cuts: K(none), K(embeddings), K(0), ..., K(last layer), each summed.
    """

    predictions: int
    surprise: tuple[float, float]
    cuts: tuple[float, ...]


def sites(context: MeasurementContext) -> list[Site]:
    """Before layer 0, and after each layer."""
    layers = range(context.model.shape.n_layers)
    return [Site(0, "resid_pre"), *(Site(layer, "resid_post") for layer in layers)]


def forward(
    context: MeasurementContext, tokens: Tokens, readings: Sequence[Reading], edit: Edit | None
) -> tuple[Float[Tensor, "rows tokens words"], list[Tensor]]:
    """Log-probabilities of the next token at every token, and what was read."""
    hooks = {
        reading.site: SiteHook((), [(number, reading)]) for number, reading in enumerate(readings)
    }
    if edit is not None:
        hooks[edit.site] = SiteHook([partial(edited, edit=edit)], ())
    model = context.model.wrapped
    with torch.no_grad(), row_lengths(tokens.lengths):
        logits = model.forward(
            tokens.ids,
            tokens.mask_for(model.plain),
            [(site.hook, hook) for site, hook in hooks.items()],
        )
    if any(hook.fired != 1 for hook in hooks.values()):
        raise MeasurementError("a hook did not fire once in a forward pass")
    context.tick(len(tokens.ids))
    if not bool(torch.isfinite(logits[tokens.mask.bool()]).all()):
        raise MeasurementError(
            f"{context.model.role}: the model's output on the text is not a finite number (NaN or infinity); "
            "--mechanism-dtype float32 has more range than half precision"
        )
    read = [value for hook in hooks.values() for value in hook.values.values()]
    return logits.float().log_softmax(-1), read


def batches(context: MeasurementContext, passages: Sequence[Sequence[int]]) -> Iterator[Tokens]:
    """The passages as batches, padded on the right."""
    device = context.model.device
    for start in range(0, len(passages), context.batch_size):
        chunk = passages[start : start + context.batch_size]
        ids = torch.zeros(len(chunk), max(map(len, chunk)), dtype=torch.long)
        for row, passage in enumerate(chunk):
            ids[row, : len(passage)] = torch.tensor(passage)
        lengths = torch.tensor([len(passage) for passage in chunk])
        yield Tokens(ids.to(device), lengths.to(device))


def record(context: MeasurementContext, passages: Sequence[Sequence[int]]) -> list[TextBatch]:
    """What the reference model A says, and its residual streams."""
    readings = [Reading(site) for site in sites(context)]
    recorded = []
    for tokens in batches(context, passages):
        said, streams = forward(context, tokens, readings, None)
        recorded.append(TextBatch(tokens, said.cpu(), [stream.cpu() for stream in streams]))
    return recorded


def compare(context: MeasurementContext, recorded: Sequence[TextBatch]) -> list[Passage]:
    """How far the model B is from A, passage by passage.

    Raises:
        MeasurementError: B has other words, or another width.
    """
    passages: list[Passage] = []
    for batch in recorded:
        tokens = Tokens(
            batch.tokens.ids.to(context.model.device), batch.tokens.lengths.to(context.model.device)
        )
        own, _ = forward(context, tokens, (), None)
        if own.shape[-1] != batch.log_probabilities.shape[-1]:
            raise MeasurementError(
                f"the models give {batch.log_probabilities.shape[-1]} and {own.shape[-1]} words a probability, so "
                "their distributions cannot be compared"
            )
        theirs = batch.log_probabilities.to(own.device)
        cuts = [divergence(theirs, own)]
        for site, stream in zip(sites(context), batch.streams, strict=True):
            if stream.shape[-1] != context.model.shape.d_model:
                raise MeasurementError("the models' residual streams differ in width")
            patched, _ = forward(context, tokens, (), Edit(site, stream))
            cuts.append(divergence(theirs, patched))
        following = tokens.ids[:, 1:, None]
        surprises = [-p[:, :-1].gather(2, following)[..., 0] for p in (theirs, own)]
        for row, length in enumerate(batch.tokens.lengths.tolist()):
            count = length - 1
            a, b = (float(surprise[row, :count].double().sum()) for surprise in surprises)
            sums = tuple(float(cut[row, :count].double().sum()) for cut in cuts)
            passages.append(Passage(count, (a, b), sums))
    return passages


def divergence(
    a: Float[Tensor, "rows tokens words"], b: Float[Tensor, "rows tokens words"]
) -> Float[Tensor, "rows tokens"]:
    """KL(a || b) at every token."""
    return (a.exp() * (a - b)).sum(-1)
