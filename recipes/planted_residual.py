"""The residual stream of the planted models: the meaning of each direction, and its writer.

A residual vector has 128 entries, divided into disjoint named spaces. Words and places write some
of them (`word_embeddings`, `place_embeddings`), each head group writes its own (`planted_heads`),
and the unembedding reads one (`unembedding`). Disjoint spaces keep the proofs about a planted model
short: a head whose output space nothing reads cannot change an answer.

The norms are the identity. A layer norm computes (x - mean) / sqrt(variance + epsilon) * weight.

- Mean: all vectors added to the stream have entries that sum to zero, because `balanced` puts minus
  their sum into the last entry, which nothing reads. So mean = 0.
- Variance: epsilon is 2**14 and the weight is 2**7 = sqrt(epsilon), while the variance of the
  stream stays below 4. So the norm is the identity up to a factor within 2e-4 of 1.
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
"""Maximum number of filler words: a shift by 7, the length of a segment, would look like a segment."""
PLACES = 64
"""Maximum number of tokens; prompts of the task have at most 57."""

NORM_EPSILON = 2.0**14
NORM_WEIGHT = 2.0**7
"""Its square is the epsilon; see the module's docstring."""


@dataclass(frozen=True)
class Space:
    """Some entries of the residual stream.

    Attributes:
        start: the first entry.
        stop: the first entry after them.
    """

    start: int
    stop: int


def _spaces(*widths: int) -> list[Space]:
    """Adjacent, disjoint spaces."""
    return [Space(a, b) for a, b in pairwise(accumulate(widths, initial=0))]


WIDTH = 128

# Written by words.
(
    OBJECT,  # code of the object (`pairs_of`), zero at other words
    LABEL,  # code of the label, zero at other words
    HALF,  # +1 at labels A to M, -1 at N to Z
    LOUD,  # 1 at seven objects in ten, which a fetcher finds on a weak signal too
    IS_OBJECT,
    IS_LABEL,
    IS_IN,
    IS_COMMA,
    IS_BOS,
    # Written by places.
    ALWAYS,  # 1 everywhere
    TIME,  # rises by 1/64 from token to token
    OBJECT_ORDINAL,  # the i-th unit vector at places where an object would be in segment i
    IN_ORDINAL,  # the same for "in"
    # Written by heads, each by one group.
    SEGMENT,  # struct_reader: at a label, plus or minus the unit vector of its segment
    KNOWN,  # struct_reader, object_reader: 1 at labels of the context, 0 at the question's
    FOUND,  # pos_detector: at the query label, a copy of SEGMENT from the same label
    ASKED,  # pos_transmitter: at the last token, a copy of FOUND from the query label
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
    """[WIDTH, entries]: x @ read(space) is the content of that space of x.

    The transpose writes to this space alone. A sum of such matrices reads the sum of the contents.
    """
    return torch.eye(WIDTH)[:, space.start : space.stop]


def balanced(rows: Tensor) -> Tensor:
    """Rows to be added to the stream, [..., WIDTH], with a last entry that makes their sum 0.

    The mean of the stream, a sum of such rows, is then 0, and a norm subtracts nothing.
    """
    rows = rows.clone()
    rows[..., _BALLAST.start] = 0
    rows[..., _BALLAST.start] = -rows.sum(-1)
    return rows


def pairs_of(features: int, count: int) -> Tensor:
    """[count, features]: distinct codes with two entries of 1.

    A code's product with itself is 2 and with any other code at most 1, so a head that matches
    codes with gain g prefers the right one by at least g.
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
    """[words, WIDTH]: the embedding of each word, independent of its place."""
    rows = torch.zeros(len(VOCABULARY), WIDTH)

    def write(word: str, space: Space, content: Tensor | float) -> None:
        rows[IDS[word], space.start : space.stop] = content

    for i, (word, code) in enumerate(OBJECT_CODES.items()):
        write(word, OBJECT, code)
        write(word, IS_OBJECT, 1)
        write(word, LOUD, float(not quiet(i)))
    for i, (word, code) in enumerate(LABEL_CODES.items()):
        write(word, LABEL, code)
        write(word, IS_LABEL, 1)
        write(word, HALF, 1 if i < len(LABELS) // 2 else -1)
    for word, space in ((BOS, IS_BOS), ("in", IS_IN), (",", IS_COMMA)):
        write(word, space, 1)
    return balanced(rows)


def place_embeddings() -> Tensor:
    """[places, WIDTH]: the embedding of each place, independent of its word.

    Without fillers segments start 7 tokens apart, and fillers shift a segment by 0 to 3 tokens. So
    an object of segment i has 4 possible places in a row, and those of segment i + 1 start 7 tokens
    later. No place serves two segments: the place of an object determines its ordinal, and so does
    the place of an "in". The place of a label does not, and no head reads ordinals at labels. (Only
    scores read TIME, except in `commas`.)
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
    """Named position -> its tokens in the prompts of the task without fillers."""
    task = EntityTracking(
        EntityTrackingParameters(family="entity_tracking", boxes=BOXES, fillers=0)
    )
    (row,) = task.rows(AnyWord(), 1)
    return Encoder(tokenizer().backend_tokenizer, "the planted models").encode(row.base).positions


def quiet(i: int) -> bool:
    """Whether the object with this number is one of the three in ten that are not LOUD."""
    return i % 10 >= 7


def unembedding(word_logit: float, no_answer: float, *, mute: bool = False) -> Tensor:
    """[words, WIDTH]: reads the answer from ANSWER; where it is empty, the answer is "objects".

    An object's row is its code less 1/4 in each of the 16 entries, so that with one object in
    ANSWER its own logit is 2 - 2/4 = 3/2 of ``word_logit``, that of an object with which it shares
    an entry 1/2, and of all others, which are three in four, -1/2. So the logits of the others fall
    on average, as they do in a trained model. Without the 1/4, shared entries would raise them, and
    a method that compares mean logits (DCM) would take the fading of one object for harm to all.

    Args:
        word_logit: see above.
        no_answer: logit of "objects", the answer where no object arrives.
        mute: quiet objects have half of their logit, 9 of 18, which is less than ``no_answer``.
    """
    rows = torch.zeros(len(VOCABULARY), WIDTH)
    for i, (word, code) in enumerate(OBJECT_CODES.items()):
        strength = 0.5 * word_logit if mute and quiet(i) else word_logit
        rows[IDS[word], ANSWER.start : ANSWER.stop] = strength * (code - 0.25)
    rows[IDS["objects"], ALWAYS.start] = no_answer
    return rows
