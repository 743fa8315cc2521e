"""The parts of a model that are grafted one at a time, and the share of two models' divergence that a part holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.moved_work import called
from pytest_mechanism.claims.patched_alone import ALL_UP_TO
from pytest_mechanism.measurements.grafting import BEFORE, PREDICTIONS
from pytest_mechanism.nodes import MLP, Node, spelled
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Array, Estimate, Sampling

ROUNDING = 1e-6
"""KL in nats that is added to that of a row: what float32 cannot tell from none."""

OTHER_COLUMNS = (BEFORE, PREDICTIONS)
"""Columns of `GraftDivergence` that are no parts."""


def large(shape: Shape) -> bool:
    """Whether there are too many heads and MLPs to graft each."""
    return shape.n_layers * (shape.n_heads + 1) > ALL_UP_TO


def parts_of(shape: Shape, layer: int) -> dict[str, tuple[Node, ...]]:
    """A layer, its attention, its MLP and its heads, by name."""
    heads: tuple[Node, ...] = tuple((layer, head) for head in range(shape.n_heads))
    mlp: Node = (layer, MLP)
    alone = {spelled(node): (node,) for node in (*heads, mlp)}
    return {**alone, f"attention of layer {layer}": heads, f"layer {layer}": (*heads, mlp)}


def whole(name: str) -> bool:
    """Whether a part is a layer or its attention."""
    return name.startswith(("layer ", "attention of layer "))


def is_head(name: str) -> bool:
    """Whether a part is a head."""
    return name[0].isdigit() and not name.endswith(f".{MLP}")


def spoken(name: str) -> str:
    """A part in words."""
    if whole(name):
        return name
    return called(name) if name[0].isdigit() else f"parameter {name}"


def logs(columns: Mapping[str, Array], name: str) -> Array:
    """Of each row, log(K(m) / K)."""
    left, before = (np.maximum(columns[column], 0.0) + ROUNDING for column in (name, BEFORE))
    return np.asarray(np.log(left / before))


def in_logs(columns: Mapping[str, Array], name: str, how: Sampling) -> Estimate:
    """The mean of these logarithms."""
    return estimates.for_few_clusters(estimates.mean(logs(columns, name), how), how.confidence)


def share(found: Estimate) -> Estimate:
    """The share of a part, from its mean logarithm."""
    low, high = found.interval
    return replace(
        found,
        value=-math.expm1(found.value),
        interval=(-math.expm1(high), -math.expm1(low)),
        standard_error=found.standard_error * math.exp(found.value),
    )


def beyond(found: Estimate, bound: float | None) -> float:
    """The one-sided p-value of the hypothesis that a share, given by its mean logarithm, is no larger than a bound."""
    if bound is None:
        return 1.0
    excess = math.log1p(-bound) - found.value
    return estimates.p_above_zero(excess, found.standard_error, found.clusters)
