"""The head groups of the planted models: four that answer by position, three by label, four by object.

A head attends and copies. Its score from a query token x to a key token y is a sum of terms
gain * <x @ query, y @ key>, which read named spaces of the residual stream. It copies from the
spaces that it reads to the spaces that it writes.

A head without a target attends to ``<bos>``, where all copied spaces are zero. Below, "prefers by
g" means that the score is higher by at least g, so that the other key gets at most exp(-g) of the
first one's attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.planted_residual import (
    ALWAYS,
    ANSWER,
    ASKED,
    ASKED_LABEL,
    FOUND,
    HALF,
    HELD,
    IN_ORDINAL,
    IS_BOS,
    IS_IN,
    IS_LABEL,
    IS_OBJECT,
    KNOWN,
    LABEL,
    LOUD,
    OBJECT,
    OBJECT_ORDINAL,
    PLACES,
    SEGMENT,
    TIME,
    read,
)


@dataclass(frozen=True)
class Scales:
    """All strengths; powers of two and small integers, which float16 holds exactly.

    Attributes:
        match: score of label with label, in a detector, for each entry that two codes share.
        label_call: the same in the value fetcher of the model that answers by label.
        call: score of ordinal with ordinal, in a value fetcher, at full signal strength.
        loud: addition to that score at a loud object.
        deaf: score of ``<bos>`` in a value fetcher, beyond ``call``.
        word_logit: 2/3 of the logit of the object that the fetchers write (`unembedding`).
        no_answer: logit of "objects"; the model names an object if more than 14/18 of it arrives.
        weak: signal strength of the transmitter of planted_base; that of planted_ft is 1.
        junk: strength of the distractors' output.
    """

    match: float = 8.0
    label_call: float = 6.0
    call: float = 28.0
    loud: float = 14.0
    deaf: float = 23.0
    word_logit: float = 12.0
    no_answer: float = 14.0
    weak: float = 0.5
    junk: float = 0.125


SCALES = Scales()


@dataclass(frozen=True, eq=False)
class Attend:
    """One term of a head's scores.

    Attributes:
        query: [WIDTH, n], reads the attending token.
        key: [WIDTH, n], reads the attended token.
        gain: factor on their product.
    """

    query: Tensor
    key: Tensor
    gain: float


@dataclass(frozen=True, eq=False)
class Head:
    """A head.

    Attributes:
        scores: the terms of its attention scores.
        reads: [WIDTH, n], z is x @ reads of the attended tokens.
        writes: [WIDTH, n], the head adds z @ writes.T to the residual stream.
    """

    scores: tuple[Attend, ...]
    reads: Tensor
    writes: Tensor


def rest_on_bos(gain: float) -> Attend:
    """Draws every token to ``<bos>``, where there is nothing to copy."""
    return Attend(read(ALWAYS), read(IS_BOS), gain)


def nearest(gain: float) -> tuple[Attend, ...]:
    """Subtracts ``gain`` from a key's score for every token of distance, and nothing at ``<bos>``.

    With times t and t' of query and key this is gain * (t' - t); at ``<bos>`` t' is 0 and the
    second term is absent.
    """
    per_time = gain * PLACES
    return (
        Attend(read(ALWAYS), read(TIME), per_time),
        Attend(read(TIME), read(ALWAYS) - read(IS_BOS), -per_time),
    )


# -- by position


def struct_reader(half: int) -> Head:
    """At a label of its half of the alphabet: ``half`` times the unit vector of its segment.

    Scores of a label of this half: its own "in", 2 back, 26 - 2 * 4 = 18; the "in" of the segment
    before, 7 or 8 further back, at least 28 less; any other word at most 0; ``<bos>`` 12. The head
    prefers its own "in" by 6. The question has no "in": the nearest to its label is 5 back and
    scores 6, so the head prefers ``<bos>`` by 6. The same holds for all other tokens and for labels
    of the other half.

    Why two halves with opposite signs: the mean of z over prompts encodes the ordinal of a place as
    well as z does, so mean ablation of a single unsigned head would change nothing. The means of
    the two heads write plus and minus half of the unit vector, which is zero in sum.
    """
    own_half = 0.5 * (read(IS_LABEL) + half * read(HALF))  # 1 at labels of this half, 0 elsewhere
    return Head(
        scores=(Attend(own_half, read(IS_IN), 26.0), *nearest(4.0), rest_on_bos(12.0)),
        reads=torch.cat([half * read(IN_ORDINAL), read(IS_IN)], dim=1),
        writes=torch.cat([read(SEGMENT), read(KNOWN)], dim=1),
    )


def same_label() -> tuple[Attend, ...]:
    """From a label to the same label in the context.

    The same label scores 2 * 8 + 12 = 28, another label of the context at most 8 + 12 = 20, the
    query label itself 16, as it is not KNOWN, and ``<bos>`` 24. So the head prefers the same label
    by 4, and ``<bos>`` by 4 where the context lacks the label (a corrupted prompt).
    """
    return (
        Attend(read(LABEL), read(LABEL), SCALES.match),
        Attend(read(ALWAYS), read(KNOWN), 1.5 * SCALES.match),
        rest_on_bos(3 * SCALES.match),
    )


def pos_detector() -> Head:
    """At the query label: copies SEGMENT from the same label in the context."""
    return Head(scores=same_label(), reads=read(SEGMENT), writes=read(FOUND))


def latest_label() -> tuple[Attend, ...]:
    """To the latest label: from the last token, to the label of the question.

    It is 2 back and scores 40 - 2 * 4 = 32; the label before it, 3 further back, scores 20, and
    ``<bos>`` 20. The head prefers it by 12.
    """
    return (Attend(read(ALWAYS), read(IS_LABEL), 40.0), *nearest(4.0), rest_on_bos(20.0))


def asked(*, backwards: bool = False) -> Tensor:
    """Reads ASKED; ``backwards``: with its entries in reverse order, which is another code for the ordinal."""
    return read(ASKED).flip(1) if backwards else read(ASKED)


def pos_transmitter(strength: float, *, backwards: bool = False) -> Head:
    """At the last token: copies FOUND from the query label, times ``strength``.

    The strength is in W_V and not in W_O, so that z carries it: the z of a strong transmitter,
    patched into the weak model, gives the strong signal.
    """
    writes = asked(backwards=backwards)
    return Head(scores=latest_label(), reads=strength * read(FOUND), writes=writes)


def value_fetcher(sign: int, share: float = 1.0, *, backwards: bool = False) -> Head:
    """At the last token: copies the object of the queried ordinal, if the sign is this head's.

    With s the strength of the transmitter and p the queried ordinal, the scores less 28 are 23 at
    ``<bos>``, and at the objects

    ===============  ====================  ====================
    object           of segment p          of another
    ===============  ====================  ====================
    loud             28 s + 14             14
    quiet            28 s                  0
    ===============  ====================  ====================

    s = 1: the head prefers the object of p to ``<bos>`` by 5 and to other objects by 14.
    s = 1/2: it prefers a loud object of p by 5; for a quiet one it prefers ``<bos>`` by 9.
    The other sign, or no signal: all objects have at most 14, so it prefers ``<bos>`` by 9.
    All other words have at most 0: they lack the 28 of IS_OBJECT, and an ordinal at their place
    gives at most 28.

    Args:
        sign: +1 or -1; a head of each sign is needed to answer every question.
        share: of the object's code that this head writes.
        backwards: the code of the transmitter (`asked`).
    """
    return Head(
        scores=(
            Attend(read(ALWAYS), read(IS_OBJECT), SCALES.call),
            Attend(sign * asked(backwards=backwards), read(OBJECT_ORDINAL), SCALES.call),
            Attend(read(ALWAYS), read(LOUD), SCALES.loud),
            rest_on_bos(SCALES.call + SCALES.deaf),
        ),
        reads=share * read(OBJECT),
        writes=read(ANSWER),
    )


# -- by label


def object_reader() -> Head:
    """At a label: copies the object of its segment.

    The object is 4 or, with a filler, 5 back and scores at least 48 - 5 * 6 = 18; the object of the
    segment before scores at least 42 less, ``<bos>`` 12. The head prefers the object by 6. From the
    question's label the nearest object is 7 back and scores 6, so the head prefers ``<bos>`` by 6,
    and the question's label is not KNOWN.
    """
    return Head(
        scores=(Attend(read(IS_LABEL), read(IS_OBJECT), 48.0), *nearest(6.0), rest_on_bos(12.0)),
        reads=read(OBJECT),
        # a code has two entries of 1, so half of their sum is 1 at every object
        writes=read(HELD) + 0.5 * read(KNOWN),
    )


def label_transmitter() -> Head:
    """At the last token: copies the label that the question names, and no ordinal."""
    return Head(scores=latest_label(), reads=read(LABEL), writes=read(ASKED_LABEL))


def label_value_fetcher() -> Head:
    """At the last token: copies the object that the queried label HELD.

    The queried label scores 2 * 6 + 20 = 32, another label of the context at most 26, the query's
    own 12, as it is not KNOWN, and ``<bos>`` 14. The head prefers the queried label by 6. Labels
    compete with each other and not with ``<bos>``, so that a mask that fades one label into another
    (DCM) always leaves some object to name.
    """
    return Head(
        scores=(
            Attend(read(ASKED_LABEL), read(LABEL), SCALES.label_call),
            Attend(read(ALWAYS), read(KNOWN), 20.0),
            rest_on_bos(14.0),
        ),
        reads=read(HELD),
        writes=read(ANSWER),
    )


# -- by object


def object_detector() -> Head:
    """At the query label: copies HELD from the same label in the context."""
    return Head(scores=same_label(), reads=read(HELD), writes=read(HELD))


def object_transmitter() -> Head:
    """At the last token: copies HELD from the query label, where the detector put it."""
    return Head(scores=latest_label(), reads=read(HELD), writes=read(HELD))


def object_value_fetcher() -> Head:
    """At the last token: looks for the object that HELD names, and copies it.

    It scores 2 * 12, any other object at most 12 and all other words 0. The head prefers it by 12.
    With nothing in HELD it attends everywhere alike, and writes too little of any object.
    """
    return Head(
        scores=(Attend(read(HELD), read(OBJECT), 12.0),), reads=read(OBJECT), writes=read(ANSWER)
    )
