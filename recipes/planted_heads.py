"""The head groups of the planted models: four that answer by position, three by label.

A head is what it attends to and what it copies. Its score from a query token x to a key token y
is a sum of terms gain * <x @ query, y @ key>, each of which reads named spaces of the residual
stream; what it copies goes from the spaces that it reads to those that it writes.

Every head has somewhere to look when it has nothing to say: ``<bos>``, at which every space that
is copied is zero. Below, "prefers by g" means that the score is higher by at least g, so that the
other key gets at most exp(-g) of the first one's attention.
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
    """How strong everything is; powers of two and small integers, so that float16 holds them.

    Attributes:
        match: score of label with label, in a detector, for each entry that two codes share.
        label_call: the same in the value fetcher that goes by label.
        call: of ordinal with ordinal, in a value fetcher, when the position is said at full
            strength.
        loud: what a loud object's voice adds to that.
        deaf: what ``<bos>`` offers to a value fetcher instead.
        word_logit: sets the logit of an object that is said to 3/2 of this (`unembedding`).
        silence: logit of "objects"; an object is said if more than 14/18 of it arrives.
        weak: strength at which the transmitter of planted_base says the position; planted_ft says
            it at 1.
        junk: strength of what distractors write.
    """

    match: float = 8.0
    label_call: float = 6.0
    call: float = 28.0
    loud: float = 14.0
    deaf: float = 23.0
    word_logit: float = 12.0
    silence: float = 14.0
    weak: float = 0.5
    junk: float = 0.125


SCALES = Scales()


@dataclass(frozen=True, eq=False)
class Attend:
    """One term of a head's scores.

    Attributes:
        query: [WIDTH, n], what is read at the token that attends.
        key: [WIDTH, n], what is read at the token that is attended to.
        gain: the term is gain times their product.
    """

    query: Tensor
    key: Tensor
    gain: float


@dataclass(frozen=True, eq=False)
class Head:
    """A head.

    Attributes:
        scores: the terms of its scores.
        reads: [WIDTH, n], its z is the attended tokens' x @ reads.
        writes: [WIDTH, n], z is written as z @ writes.T.
    """

    scores: tuple[Attend, ...]
    reads: Tensor
    writes: Tensor


def rest_on_bos(gain: float) -> Attend:
    """Every token is drawn to ``<bos>``, where there is nothing to copy."""
    return Attend(read(ALWAYS), read(IS_BOS), gain)


def nearest(gain: float) -> tuple[Attend, ...]:
    """A key loses ``gain`` for every token that it is further back; ``<bos>`` loses nothing.

    With times t and t' of query and key this is gain * (t' - t); at ``<bos>`` t' is 0 and the
    second term is left out.
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
    before, 7 or 8 further back, at least 28 less; any other word at most 0; ``<bos>`` 12. Own "in"
    is preferred by 6. The question has no "in": the nearest to its label is 5 back and scores 6,
    and ``<bos>`` is preferred by 6. So it is for every other token, labels of the other half too.

    Why the halves, with a sign each: the mean of z over prompts holds the ordinal of a place as
    well as z does, so silencing one unsigned head by its mean would silence nothing. Of this head
    and the one of the other half, the means write plus and minus half of the unit vector: nothing.
    """
    mine = 0.5 * (read(IS_LABEL) + half * read(HALF))  # 1 at labels of this half, 0 elsewhere
    return Head(
        scores=(Attend(mine, read(IS_IN), 26.0), *nearest(4.0), rest_on_bos(12.0)),
        reads=torch.cat([half * read(IN_ORDINAL), read(IS_IN)], dim=1),
        writes=torch.cat([read(SEGMENT), read(KNOWN)], dim=1),
    )


def same_label() -> tuple[Attend, ...]:
    """From a label to the same label in the context.

    It scores 2 * 8 + 12 = 28, another one of the context at most 8 + 12 = 20, the query label
    itself 16, as it is not KNOWN, and ``<bos>`` 24: the same label is preferred by 4; if it stands
    nowhere (a corrupted prompt), ``<bos>`` is, by 4 as well.
    """
    return (
        Attend(read(LABEL), read(LABEL), SCALES.match),
        Attend(read(ALWAYS), read(KNOWN), 1.5 * SCALES.match),
        rest_on_bos(3 * SCALES.match),
    )


def pos_detector() -> Head:
    """At the query label: what SEGMENT holds at the same label in the context."""
    return Head(scores=same_label(), reads=read(SEGMENT), writes=read(FOUND))


def latest_label() -> tuple[Attend, ...]:
    """To the latest label: from the last token, that of the question.

    It is 2 back and scores 40 - 2 * 4 = 32, the label before it, 3 further back, 20, ``<bos>`` 20:
    preferred by 12.
    """
    return (Attend(read(ALWAYS), read(IS_LABEL), 40.0), *nearest(4.0), rest_on_bos(20.0))


def pos_transmitter(strength: float) -> Head:
    """At the last token: what FOUND holds at the query label, times ``strength``.

    The strength is in what the head reads (W_V), not in what it writes (W_O), so that its z shows
    it: z of a strong transmitter makes a weak one's model strong.
    """
    return Head(scores=latest_label(), reads=strength * read(FOUND), writes=read(ASKED))


def value_fetcher(sign: int, share: float = 1.0) -> Head:
    """At the last token: the object whose ordinal is asked for, if the sign is this head's.

    With s the strength of the transmitter, p the ordinal asked for and ``sign`` the sign that it
    comes with, scores above 28 are: ``<bos>`` 23, and the objects

    ===============  ====================  ====================
    object           of segment p          of another
    ===============  ====================  ====================
    loud             28 s + 14             14
    quiet            28 s                  0
    ===============  ====================  ====================

    s = 1: the object of p is preferred to ``<bos>`` by 5, to others by 14: always found.
    s = 1/2: a loud one is preferred by 5; for a quiet one ``<bos>`` is, by 9: not found.
    The other sign, or no signal: all objects are at most at 14, ``<bos>`` is preferred by 9.
    Words that are no objects are at most at 0: they lack the 28 of IS_OBJECT, and an ordinal at
    their place gives at most 28.

    Args:
        sign: +1 or -1; together the two signs answer every question.
        share: of the object's code that this head alone passes on.
    """
    return Head(
        scores=(
            Attend(read(ALWAYS), read(IS_OBJECT), SCALES.call),
            Attend(sign * read(ASKED), read(OBJECT_ORDINAL), SCALES.call),
            Attend(read(ALWAYS), read(LOUD), SCALES.loud),
            rest_on_bos(SCALES.call + SCALES.deaf),
        ),
        reads=share * read(OBJECT),
        writes=read(ANSWER),
    )


# -- by label


def object_reader() -> Head:
    """At a label: the object of its segment.

    It is 4 or, with a filler, 5 back and scores at least 48 - 5 * 6 = 18, one of the segment
    before at least 42 less, ``<bos>`` 12: preferred by 6. In the question the nearest is 7 back
    and scores 6: ``<bos>`` is preferred by 6, and the question's label is not KNOWN.
    """
    return Head(
        scores=(Attend(read(IS_LABEL), read(IS_OBJECT), 48.0), *nearest(6.0), rest_on_bos(12.0)),
        reads=read(OBJECT),
        # a code has two entries of 1, so that half of their sum is 1 at every object
        writes=read(HELD) + 0.5 * read(KNOWN),
    )


def label_transmitter() -> Head:
    """At the last token: which label the question names. Where it stood is never asked."""
    return Head(scores=latest_label(), reads=read(LABEL), writes=read(ASKED_LABEL))


def label_value_fetcher() -> Head:
    """At the last token: the object that the label asked for holds.

    It scores 2 * 6 + 20 = 32, another label of the context at most 26, the query's own 12, as it
    is not KNOWN, ``<bos>`` 14: preferred by 6. Labels compete with each other, not with ``<bos>``,
    so that a mask that fades one label into another (DCM) is not led through silence.
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
