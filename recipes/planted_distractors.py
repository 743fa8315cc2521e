"""Heads of the planted models that are active and change no answer.

Some look like heads of the circuit: they attend to the same tokens, and a probe can decode the
circuit's variables from their z. All write into JUNK, which no head and no logit reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recipes.planted_heads import (
    SCALES,
    Attend,
    Head,
    latest_label,
    nearest,
    rest_on_bos,
    same_label,
)
from recipes.planted_residual import (
    ALWAYS,
    FOUND,
    IS_BOS,
    IS_COMMA,
    IS_LABEL,
    IS_OBJECT,
    JUNK,
    LABEL,
    LOUD,
    OBJECT,
    SEGMENT,
    TIME,
    read,
)


def distractor(scores: tuple[Attend, ...], reads: Tensor) -> Head:
    """A head whose z is as large as that of other heads and whose output is too small to change a norm."""
    entries = reads.shape[1]
    return Head(scores, reads, SCALES.junk * read(JUNK)[:, :entries])


def words_before() -> Head:
    """Attends to the last few words, most to the nearest."""
    return distractor(nearest(0.5), read(OBJECT))


def labels_so_far() -> Head:
    """Attends to all labels equally."""
    return distractor((Attend(read(ALWAYS), read(IS_LABEL), 10.0), rest_on_bos(5.0)), read(LABEL))


def objects_so_far() -> Head:
    """Attends to all objects equally."""
    return distractor((Attend(read(ALWAYS), read(IS_OBJECT), 10.0), rest_on_bos(5.0)), read(OBJECT))


def first_object() -> Head:
    """Attends to the earliest object, as a value fetcher without a query might."""
    return distractor((Attend(read(ALWAYS), read(IS_OBJECT), 80.0), *nearest(-1.0)), read(OBJECT))


def commas() -> Head:
    """Attends to the latest comma or ``<bos>``, as idle heads do, and copies only their times."""
    return distractor(
        (Attend(read(ALWAYS), read(IS_COMMA), 20.0), *nearest(1.0), rest_on_bos(5.0)),
        torch.cat([read(IS_COMMA), read(IS_BOS), read(TIME)], dim=1),
    )


def decoy_detector() -> Head:
    """Attends as pos_detector does; ordinal and label are decodable from z, and nothing reads it."""
    return distractor(same_label(), torch.cat([read(SEGMENT), read(LABEL)], dim=1))


def decoy_transmitter() -> Head:
    """Attends as pos_transmitter does; ordinal and label are decodable, and nothing reads it."""
    return distractor(latest_label(), torch.cat([read(FOUND), read(LABEL)], dim=1))


def decoy_fetcher() -> Head:
    """Attends to loud objects, whatever the query is."""
    return distractor((Attend(read(ALWAYS), read(LOUD), 10.0), rest_on_bos(8.0)), read(OBJECT))


DISTRACTORS: tuple[Callable[[], Head], ...] = (
    words_before,
    decoy_detector,
    labels_so_far,
    first_object,
    decoy_transmitter,
    objects_so_far,
    decoy_fetcher,
    commas,
)
