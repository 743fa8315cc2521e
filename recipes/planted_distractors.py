"""Heads of the planted models that do something and change nothing.

Some look like what one would hope to find: they attend where the circuit's heads do, and what the
circuit says can be decoded from their z. All write into JUNK, which no head and no logit reads.
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
    """Its z is as large as any; what it writes is small, so that no norm can notice."""
    entries = reads.shape[1]
    return Head(scores, reads, SCALES.junk * read(JUNK)[:, :entries])


def words_before() -> Head:
    """The last few words, the nearest most."""
    return distractor(nearest(0.5), read(OBJECT))


def labels_so_far() -> Head:
    """All labels alike."""
    return distractor((Attend(read(ALWAYS), read(IS_LABEL), 10.0), rest_on_bos(5.0)), read(LABEL))


def objects_so_far() -> Head:
    """All objects alike."""
    return distractor((Attend(read(ALWAYS), read(IS_OBJECT), 10.0), rest_on_bos(5.0)), read(OBJECT))


def first_object() -> Head:
    """The earliest object: the value fetcher of somebody who knows nothing."""
    return distractor((Attend(read(ALWAYS), read(IS_OBJECT), 80.0), *nearest(-1.0)), read(OBJECT))


def commas() -> Head:
    """The latest comma or ``<bos>``, as heads at rest do; what it copies is only when that was."""
    return distractor(
        (Attend(read(ALWAYS), read(IS_COMMA), 20.0), *nearest(1.0), rest_on_bos(5.0)),
        torch.cat([read(IS_COMMA), read(IS_BOS), read(TIME)], dim=1),
    )


def decoy_detector() -> Head:
    """Attends as pos_detector, copies the same ordinal and the label: decodable, and of no use."""
    return distractor(same_label(), torch.cat([read(SEGMENT), read(LABEL)], dim=1))


def decoy_transmitter() -> Head:
    """Attends as pos_transmitter, copies the same ordinal and the label: of no use either."""
    return distractor(latest_label(), torch.cat([read(FOUND), read(LABEL)], dim=1))


def decoy_fetcher() -> Head:
    """Attends to loud objects, whatever is asked."""
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
