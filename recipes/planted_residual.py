"""The residual stream of the planted models: what each direction means, and who may write it.

A residual vector has 128 entries, cut into named spaces that share no entry. Words and places
write some of them (`word_embeddings`, `place_embeddings`), each head group writes one of its own
(`planted_heads`), and the answer is read off one (`unembedding`). That two spaces share no entry
is what makes every proof about a planted model short: a head that writes into a space which
nobody reads cannot matter, whatever it writes.

The norms drop out. A layer norm computes (x - mean) / sqrt(variance + epsilon) * weight.

- Mean: everything that is ever added to the stream has entries that sum to zero, because
  `balanced` puts minus their sum into the last entry, which nothing reads. So mean = 0.
- Variance: epsilon is 2**14 and the weight is 2**7 = sqrt(epsilon), while the variance of what is
  written here stays below 4. So the norm is the identity up to a factor within 2e-4 of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

import torch
from torch import Tensor

from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.text.encoding import Encoder
from pytest_mechanism.tasks.writing.words import LABELS, OBJECTS
from recipes.entity_tracking_data import IDS, VOCABULARY, tokenizer
from recipes.word_level import BOS

BOXES = 7
FILLERS = 3
"""Most filler words in a context: a segment has 7 tokens, and a shift by 7 would be taken for one."""
PLACES = 64
"""Longest prompt; the task's has at most 57 tokens."""

NORM_EPSILON = 2.0**14
NORM_WEIGHT = 2.0**7
"""Its square is the epsilon; see the module."""


@dataclass(frozen=True)
class Space:
    """Some entries of the residual stream.

    Attributes:
        start: the first of them.
        stop: the first that is no longer theirs.
    """

    start: int
    stop: int


def _spaces(*widths: int) -> list[Space]:
    """Spaces side by side, so that none shares an entry with another."""
    return [Space(a, b) for a, b in pairwise(accumulate(widths, initial=0))]


WIDTH = 128

# Written by words.
(
    OBJECT,  # which object a word is (`pairs_of`), zero at other words
    LABEL,  # which label, zero at other words
    HALF,  # +1 at labels A to M, -1 at N to Z
    LOUD,  # 1 at seven objects in ten: those that a fetcher hears when it is called softly
    IS_OBJECT,
    IS_LABEL,
    IS_IN,
    IS_COMMA,
    IS_BOS,
    # Written by places.
    ALWAYS,  # 1 everywhere
    TIME,  # rises by 1/64 from token to token
    OBJECT_ORDINAL,  # the i-th unit vector where, if an object stands there, it is in segment i
    IN_ORDINAL,  # the same for "in"
    # Written by heads, each by one group.
    SEGMENT,  # struct_reader: at a label, plus or minus the unit vector of its segment
    KNOWN,  # struct_reader, object_reader: 1 at labels of the context, 0 at the question's
    FOUND,  # pos_detector: at the query label, what SEGMENT held at the same label
    ASKED,  # pos_transmitter: at the last token, what FOUND held at the query label
    HELD,  # object_reader: at a label, the object of its segment
    ASKED_LABEL,  # label_transmitter: at the last token, the query's label
    ANSWER,  # value_fetcher: at the last token, an object; the unembedding reads it
    JUNK,  # distractors; nothing reads it
    _BALLAST,  # minus the sum of all others (`balanced`); nothing reads it
) = _spaces(
    *(16, 8, 1, 1, 1, 1, 1, 1, 1),
    *(1, 1, BOXES, BOXES),
    *(BOXES, 1, BOXES, BOXES, 16, 8, 16, 18, 1),
)


def read(space: Space) -> Tensor:
    """[WIDTH, entries]: x @ read(space) is what stands in that space of x.

    Transposed it writes there and nowhere else. Sums read sums.
    """
    return torch.eye(WIDTH)[:, space.start : space.stop]


def balanced(rows: Tensor) -> Tensor:
    """Rows that are added to the stream, [..., WIDTH], with a last entry that makes them sum to 0.

    The mean of the stream, a sum of such rows, is then 0, and a norm subtracts nothing.
    """
    rows = rows.clone()
    rows[..., _BALLAST.start] = 0
    rows[..., _BALLAST.start] = -rows.sum(-1)
    return rows


def pairs_of(features: int, count: int) -> Tensor:
    """[count, features]: codes that have two entries of 1 each, no two of them the same two.

    A code's product with itself is 2 and with any other at most 1: whoever matches codes with a
    gain g prefers the right one by at least g.
    """
    codes = torch.zeros(count, features)
    for i, pair in zip(range(count), combinations(range(features), 2), strict=False):
        codes[i, pair] = 1
    return codes


OBJECT_CODES = dict(zip(OBJECTS, pairs_of(16, len(OBJECTS)), strict=True))
"""C(16, 2) = 120 codes are enough for 106 objects."""

LABEL_CODES = dict(zip(LABELS, pairs_of(8, len(LABELS)), strict=True))
"""C(8, 2) = 28 codes are enough for 26 labels."""


def word_embeddings() -> Tensor:
    """[words, WIDTH]: what a word says wherever it stands. It knows nothing of places."""
    rows = torch.zeros(len(VOCABULARY), WIDTH)

    def write(word: str, space: Space, what: Tensor | float) -> None:
        rows[IDS[word], space.start : space.stop] = what

    for i, (word, code) in enumerate(OBJECT_CODES.items()):
        write(word, OBJECT, code)
        write(word, IS_OBJECT, 1)
        write(word, LOUD, float(i % 10 < 7))
    for i, (word, code) in enumerate(LABEL_CODES.items()):
        write(word, LABEL, code)
        write(word, IS_LABEL, 1)
        write(word, HALF, 1 if i < len(LABELS) // 2 else -1)
    for word, space in ((BOS, IS_BOS), ("in", IS_IN), (",", IS_COMMA)):
        write(word, space, 1)
    return balanced(rows)


def place_embeddings() -> Tensor:
    """[places, WIDTH]: what a place says whatever word stands there.

    Without fillers segments begin 7 tokens apart, and fillers shift a segment by 0 to 3. So the
    places where an object of segment i can stand are 4 in a row, and those of segment i + 1 begin
    7 further on: no place is both, and a place determines the ordinal of an object that stands
    there; so with "in". A label has to be told: the ordinals at its own place may be those of a
    neighbour, and no head reads them at labels. (TIME is read in scores only, but for `commas`.)
    """
    rows = torch.zeros(PLACES, WIDTH)
    rows[:, ALWAYS.start] = 1
    rows[:, TIME.start] = torch.arange(PLACES) / PLACES
    places = template()
    for i, (item, label) in enumerate(
        zip(places["all_objects"], places["all_labels"], strict=True)
    ):
        for shift in range(FILLERS + 1):
            rows[item + shift, OBJECT_ORDINAL.start + i] = 1
            rows[label - 2 + shift, IN_ORDINAL.start + i] = 1  # "in Box O": two before the label
    return balanced(rows)


def template() -> dict[str, tuple[int, ...]]:
    """Named position -> where its tokens stand in the prompts of the task without fillers."""
    task = EntityTracking(
        EntityTrackingParameters(family="entity_tracking", boxes=BOXES, fillers=0)
    )
    (row,) = task.rows(AnyWord(), 1)
    return Encoder(tokenizer().backend_tokenizer, "the planted models").encode(row.base).positions


def unembedding(word_logit: float, silence: float) -> Tensor:
    """[words, WIDTH]: the answer is read off ANSWER; where it is empty, the answer is "objects".

    An object's row is its code less 1/4 in each of the 16 entries, so that with one object in
    ANSWER its own logit is 2 - 2/4 = 3/2 of ``word_logit``, that of an object with which it shares
    an entry 1/2, and of all others, which are three in four, -1/2. So on average the others are
    *lowered*, as they are by a trained model. Without the 1/4 they would be raised by shared
    entries, and a method that looks at mean logits (DCM) would take the fading of one object for
    harm to every other.

    Args:
        word_logit: see above.
        silence: logit of "objects", so to speak the answer of somebody who has not heard.
    """
    rows = torch.zeros(len(VOCABULARY), WIDTH)
    for word, code in OBJECT_CODES.items():
        rows[IDS[word], ANSWER.start : ANSWER.stop] = word_logit * (code - 0.25)
    rows[IDS["objects"], ALWAYS.start] = silence
    return rows
