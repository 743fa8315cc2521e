"""How far two models are apart on plain text, from the sums of every passage (`methods.text_divergence`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.tasks.text.passages import Text


@dataclass(frozen=True)
class Result:
    """How far two models are apart on a text.

    Attributes:
        divergence: KL(A || B) in nats a token.
        parts: where it comes from -> nats a token; they add up to the divergence.
        perplexity: of A and of B.
    """

    divergence: Estimate
    parts: Mapping[str, Estimate]
    perplexity: tuple[float, float]


def estimated(passages: Sequence[Any], text: Text, confidence: float) -> Result:
    """Means over tokens, with intervals over paragraphs (over lines, where there are few paragraphs)."""
    how = Sampling(text.clusters, confidence, 0)
    counts = [float(passage.predictions) for passage in passages]
    cuts = np.array([passage.cuts for passage in passages])

    def a_token(sums: Any) -> Estimate:
        estimate = estimates.of_means([sums, counts], estimates.ratio, how, counted=False)
        return estimates.for_few_clusters(estimate, confidence)

    names = ["embeddings", *(f"layer {i}" for i in range(cuts.shape[1] - 2))]
    parts = {name: a_token(cuts[:, i] - cuts[:, i + 1]) for i, name in enumerate(names)}
    parts["last norm and unembedding"] = a_token(cuts[:, -1])
    total = sum(counts)
    a, b = (float(np.exp(sum(p.surprise[i] for p in passages) / total)) for i in range(2))
    return Result(a_token(cuts[:, 0]), parts, (a, b))
