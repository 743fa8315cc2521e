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

`record` and `compare` make the whole comparison of a command; `donate` and `measure` make that of claim kind
``same_text``, which needs no layers, and beside it the control: the distribution q of A's next tokens over the whole
text, which knows no context. KL(A || q) is what A's predictions owe to their context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.checkpoints.shape import read_positions
from pytest_mechanism.engine.interface import Edit, Reading, Site, Tokens
from pytest_mechanism.engine.reference import SiteHook, edited
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.text_divergence import TextDivergence, TextDonation
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.tasks.text.passages import LONGEST, Text, tokens_of, unknown_tokens
from pytest_mechanism.types import Observations


@dataclass(frozen=True, eq=False)
class TextBatch:
    """What a model says about some passages, on the CPU.

    Attributes:
        tokens: of the passages.
        log_probabilities: of the next token, at every token.
        streams: the residual stream before layer 0, and after each layer; or none.
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
        cuts: K(none), K(embeddings), K(0), ..., K(last layer), each summed; K(none) alone without streams.
        peak: the token behind which A and B differ most, and the likeliest next token (an id) of A and of B there.
    """

    predictions: int
    surprise: tuple[float, float]
    cuts: tuple[float, ...]
    peak: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Said:
    """What the reference model A says on a text.

    Attributes:
        text: in tokens.
        names: of its passages.
        batches: of its passages.
    """

    text: Text
    names: Sequence[str]
    batches: Sequence[TextBatch]


def sites(context: MeasurementContext) -> list[Site]:
    """Before layer 0, and after each layer."""
    layers = range(context.model.shape.n_layers)
    return [Site(0, "resid_pre"), *(Site(layer, "resid_post") for layer in layers)]


def forward(
    context: MeasurementContext,
    tokens: Tokens,
    readings: Sequence[Reading] = (),
    edits: Sequence[Edit] = (),
) -> tuple[Float[Tensor, "rows tokens words"], list[Tensor]]:
    """Log-probabilities of the next token at every token, and what was read."""
    hooks = {
        reading.site: SiteHook((), [(number, reading)]) for number, reading in enumerate(readings)
    }
    for edit in edits:
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
    for row in (~logits.isfinite().all(-1) & tokens.mask.bool()).any(-1).nonzero()[:1, 0]:
        ids = tokens.ids[row, : tokens.lengths[row]].tolist()
        text = context.model.encoder.tokenizer.decode(ids, skip_special_tokens=False)
        raise MeasurementError(
            f"{context.model.role}: the model's output is not a finite number (NaN or infinity) on the text "
            f"{text[:100]!r}; --mechanism-dtype float32 has more range than half precision"
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


def record(
    context: MeasurementContext, passages: Sequence[Sequence[int]], *, streams: bool = True
) -> list[TextBatch]:
    """What the reference model A says, and its residual streams."""
    readings = [Reading(site) for site in sites(context)] if streams else []
    recorded = []
    for tokens in batches(context, passages):
        said, read = forward(context, tokens, readings)
        recorded.append(TextBatch(tokens, said.cpu(), [stream.cpu() for stream in read]))
    return recorded


def compare(context: MeasurementContext, recorded: Sequence[TextBatch]) -> list[Passage]:
    """How far the model B is from A, passage by passage; from which layer on, where A's streams were recorded.

    B may have words that A lacks: A never says them, so that they count by the probability that B takes from others.

    Raises:
        MeasurementError: B lacks words of A, or has another width.
    """
    passages: list[Passage] = []
    for batch in recorded:
        tokens = Tokens(
            batch.tokens.ids.to(context.model.device), batch.tokens.lengths.to(context.model.device)
        )
        own, _ = forward(context, tokens)
        words = batch.log_probabilities.shape[-1]
        if own.shape[-1] < words:
            raise MeasurementError(
                f"the models give {words} and {own.shape[-1]} words a probability, so their distributions cannot be "
                "compared"
            )
        theirs = batch.log_probabilities.to(own.device)
        cuts = [divergence(theirs, own)]
        for site, stream in zip(sites(context), batch.streams, strict=bool(batch.streams)):
            if stream.shape[-1] != context.model.shape.d_model:
                raise MeasurementError("the models' residual streams differ in width")
            patched, _ = forward(context, tokens, edits=[Edit(site, stream)])
            cuts.append(divergence(theirs, patched))
        following = tokens.ids[:, 1:, None]
        surprises = [-p[:, :-1].gather(2, following)[..., 0] for p in (theirs, own)]
        for row, length in enumerate(batch.tokens.lengths.tolist()):
            count = length - 1
            a, b = (float(surprise[row, :count].double().sum()) for surprise in surprises)
            sums = tuple(float(cut[row, :count].double().sum()) for cut in cuts)
            at = int(cuts[0][row, :count].argmax())
            peak = (at, int(theirs[row, at].argmax()), int(own[row, at].argmax()))
            passages.append(Passage(count, (a, b), sums, peak))
    return passages


def divergence(
    a: Float[Tensor, "rows tokens words"], b: Float[Tensor, "rows tokens more_words"]
) -> Float[Tensor, "rows tokens"]:
    """KL(a || b) at every token."""
    return (a.exp() * (a - b[..., : a.shape[-1]])).sum(-1)


def without_context(recorded: Sequence[TextBatch]) -> list[tuple[float, float]]:
    """For each passage, the sums of KL(A || q) and of -log q(next token); q is the mean of A's distributions.

    q knows how often A says each word and nothing of the text before it, so KL(A || q) is the mutual information of
    context and next word under A. A model that says the same whatever it reads has 0.
    """
    rows = [
        (said[: length - 1], ids[1:length])
        for batch in recorded
        for said, ids, length in zip(
            batch.log_probabilities,
            batch.tokens.ids.cpu(),
            batch.tokens.lengths.tolist(),
            strict=True,
        )
    ]
    total = sum(said.exp().sum(0, dtype=torch.double) for said, _ in rows)
    q = (torch.as_tensor(total) / sum(len(said) for said, _ in rows)).clamp(min=1e-300).log()
    return [
        (float((said.exp() * (said - q)).sum()), -float(q[following].sum()))
        for said, following in rows
    ]


def sums(recorded: Sequence[TextBatch], passages: Sequence[Passage]) -> dict[str, list[float]]:
    """The columns of `measure` that are sums over the predictions of each passage."""
    free = without_context(recorded)
    uniform = float(torch.tensor(float(recorded[0].log_probabilities.shape[-1])).log())
    return {
        "predictions": [float(passage.predictions) for passage in passages],
        "divergence": [max(0.0, passage.cuts[0]) for passage in passages],  # but for rounding
        "surprise_from": [passage.surprise[0] for passage in passages],
        "surprise_to": [passage.surprise[1] for passage in passages],
        "free_divergence": [divergence for divergence, _ in free],
        "free_surprise": [surprise for _, surprise in free],
        "uniform": [uniform * passage.predictions for passage in passages],
    }


# -- for claims


def donate(context: MeasurementContext, request: TextDonation, inputs: Sequence[Any]) -> Said:
    """What the reference model says on the text; as much of it as `passages.MOST_NUMBERS` allows."""
    text = tokens_of(
        request.name,
        [(line, paragraph) for _, line, paragraph in request.lines],
        context.model.encoder,
        len(request.lines),
        longest=longest(context),
        d_vocab=context.model.shape.d_vocab,
    )
    names = [request.lines[i][0] for i in text.places]
    return Said(text, names, record(context, text.passages, streams=False))


def longest(context: MeasurementContext) -> int:
    """Tokens of a passage that the model can read."""
    return min(LONGEST, read_positions(context.model.folder) or LONGEST)


def check_tokens(context: MeasurementContext, said: Said) -> list[Any]:
    """The text in the tokens of this model's tokenizer.

    Raises:
        MeasurementError: they are others than the reference model's.
    """
    text = said.text
    encoded = [context.model.encoder.tokens(line, True) for line in text.texts]
    for line, ids, own in zip(text.texts, text.passages, encoded, strict=True):
        if tuple(own.ids[: len(ids)]) != ids:
            raise MeasurementError(
                f"the tokenizers make other tokens of {line[:60]!r}, so the models' distributions of the next token "
                "cannot be compared"
            )
    return encoded


def shortened(batch: TextBatch, most: int) -> TextBatch:
    """The first tokens of every passage, as many as a model with fewer positions can read."""
    ids = batch.tokens.ids[:, :most]
    tokens = Tokens(ids, batch.tokens.lengths.clamp(max=most))
    return replace(batch, tokens=tokens, log_probabilities=batch.log_probabilities[:, :most])


def measure(
    context: MeasurementContext, request: TextDivergence, inputs: Sequence[Any]
) -> Observations:
    """A row for each passage, with sums over its predictions: ``divergence``, KL(A || B); ``surprise_from`` and
    ``surprise_to``, minus the log-probability of the text in A and in B; the same of A's words without context,
    ``free_divergence`` and ``free_surprise``; ``uniform``, the surprise of guessing among all words; and how many
    tokens are ``predictions`` and ``unknown``. Texts: the passage ``before`` the prediction on which the models differ
    most, the ``next`` token there, and what A (``reference``) and B (``answer``) say.

    Args:
        context: of the model B.
        request: how many lines.
        inputs: what A `Said`.

    Raises:
        MeasurementError: B's tokenizer makes other tokens of the text.
    """
    said: Said = inputs[0]
    text, encoder = said.text, context.model.encoder
    encoded = check_tokens(context, said)
    most = longest(context)
    recorded = [shortened(batch, most) for batch in said.batches]
    passages = compare(context, recorded)
    unknown = [float(count) for count in unknown_tokens(text, encoder)]
    values = {**sums(recorded, passages), "unknown": unknown}
    word = partial(encoder.tokenizer.decode, skip_special_tokens=False)
    rows = [*zip(passages, text.passages, strict=True)]
    texts = {
        "before": [
            line[: own.offsets[passage.peak[0]][1]]
            for passage, line, own in zip(passages, text.texts, encoded, strict=True)
        ],
        "next": [word([ids[passage.peak[0] + 1]]) for passage, ids in rows],
        "reference": [word([passage.peak[1]]) for passage, _ in rows],
        "answer": [word([passage.peak[2]]) for passage, _ in rows],
    }
    return Observations(said.names, text.clusters, values, texts=texts)
