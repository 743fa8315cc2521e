"""The algorithms that the planted models are built to run, in plain Python on the text.

A head attends to one word, the word with the highest score by the tables in `recipes.planted_heads`,
and copies what stands there. Where a second word scores within `UNSETTLED` nats of the first, the
weights mix both and the algorithm does not say which one wins: both are followed, and the result is
the set of answers that are possible. No tensor, no model and no tokenizer is used here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.writing.words import LABELS, OBJECTS

UNSETTLED = 3.0
"""Nats; on the paper's template every head prefers its word by at least 4."""

SEGMENT_TOKENS, SHIFTS = 7, 3
FIRST_OBJECT, FIRST_IN = 2, 4
"""Places in "<bos> The apple is in Box O"; a place up to `SHIFTS` further belongs to the same segment."""

CODES = dict(zip(LABELS, combinations(range(8), 2), strict=False))
NO_ANSWER = "objects"

Signal = tuple[int, int] | None
"""A segment as a head writes it: the sign of its half of the alphabet, and its ordinal."""


def words_of(text: str) -> list[str]:
    return ["<bos>", *re.findall(r"\w+|[^\w\s]", text)]


def place_of(prompt: Prompt, position: str) -> int:
    """The token of a named position that has one."""
    ((_, stop),) = prompt.spans[position]
    return len(words_of(prompt.text[:stop])) - 1


def ordinal(place: int, first: int) -> int | None:
    """The segment to which a place belongs by the position embeddings."""
    segment, shift = divmod(place - first, SEGMENT_TOKENS)
    return segment if 0 <= segment < SEGMENT_TOKENS and shift <= SHIFTS else None


def attended(scores: Mapping[int, float]) -> list[int]:
    """The places that a head attends to: one, or all that are too close to tell."""
    best = max(scores.values())
    return [place for place, score in scores.items() if score > best - UNSETTLED]


def half(label: str) -> int:
    return 1 if LABELS.index(label) < len(LABELS) // 2 else -1


def shared(a: str, b: str) -> int:
    """Entries that the codes of two labels have in common."""
    return len({*CODES[a]} & {*CODES[b]}) if a in CODES and b in CODES else 0


def loud(item: str) -> bool:
    return OBJECTS.index(item) % 10 < 7


def nearest(
    words: Sequence[str], at: int, kind: Iterable[str], gain: float, per_token: float, rest: float
) -> list[int]:
    """Places that a head attends to which prefers near words of a kind; 0 is ``<bos>``."""
    kind = {*kind}
    scores = {t: gain * (words[t] in kind) - per_token * (at - t) for t in range(1, at + 1)}
    return attended({0: rest, **scores})


# -- by position


def read_structure(words: Sequence[str], at: int) -> set[Signal | str]:
    """struct_reader at a label: its segment; "unknown" where the label belongs to no segment."""
    found: set[Signal | str] = set()
    for place in nearest(words, at, ["in"], 26, 4, 12):
        segment = ordinal(place, FIRST_IN)
        if words[place] != "in":
            found.add("unknown")
        else:
            found.add(None if segment is None else (half(words[at]), segment))
    return found


def detect(prompt: Prompt, moved: Mapping[int, Signal | str]) -> set[Signal]:
    """pos_detector at the question's label: what stands at the same label of the context."""
    words, at = words_of(prompt.text), place_of(prompt, "query_label")
    labels = [t for t in range(1, at + 1) if words[t] in CODES]
    found: set[Signal] = set()
    for reading in readings(words, labels, moved):
        scores = {
            t: 8.0 * shared(words[t], words[at]) + 12 * (reading[t] != "unknown") for t in labels
        }
        for place in attended({0: 24.0, **scores}):
            signal = reading.get(place)
            found.add(signal if isinstance(signal, tuple) else None)
    return found


def readings(
    words: Sequence[str], labels: Sequence[int], moved: Mapping[int, Signal | str]
) -> list[dict[int, Signal | str]]:
    """What struct_reader may have written at each label: one possibility, or several."""
    possible: list[dict[int, Signal | str]] = [{}]
    for t in labels:
        options = [moved[t]] if t in moved else sorted(read_structure(words, t), key=str)
        possible = [{**known, t: option} for known in possible for option in options]
    return possible


def fetch(prompt: Prompt, signal: Signal, strength: float) -> str:
    """value_fetcher: the object of the segment; the head that rests on ``<bos>`` gives none."""
    words = words_of(prompt.text)
    if signal is None:
        return NO_ANSWER
    for t, word in enumerate(words):
        called = ordinal(t, FIRST_OBJECT) == signal[1]
        if word in OBJECTS and called and 28 * strength + 14 * loud(word) > 23:
            return word
    return NO_ANSWER


def by_position(base: Prompt, source: Prompt, group: str, strength: float) -> set[str]:
    """The answers to the base that are possible when z of a group comes from the source."""
    if group == "struct_reader":
        here, there = (place_of(prompt, "previous_query_label") for prompt in (base, source))
        moved = read_structure(words_of(source.text), there)
        signals = {s for value in moved for s in detect(base, {here: value})}
    else:  # the detector's and the transmitter's z are the same signal
        signals = detect(source, {})
    asked = source if group == "value_fetcher" else base
    return {fetch(asked, signal, strength) for signal in signals}


# -- by label


def held(words: Sequence[str], at: int) -> set[str]:
    """object_reader at a label: the object of its segment; empty where there is none."""
    places = nearest(words, at, OBJECTS, 48, 6, 12)
    return {words[place] if words[place] in OBJECTS else "" for place in places}


def answers_by_label(prompt: Prompt, label: str, moved: Mapping[int, set[str]]) -> set[str]:
    """The objects of the labels of the context that are most like this one."""
    words = words_of(prompt.text)
    objects = {t: moved.get(t, held(words, t)) for t in range(1, len(words)) if words[t] in CODES}
    scores = {t: 6.0 * shared(words[t], label) + 20 * any(objects[t]) for t in objects}
    found = set().union(*(objects.get(place, {""}) for place in attended({0: 14.0, **scores})))
    return {word or NO_ANSWER for word in found}


def by_label(base: Prompt, source: Prompt, group: str) -> set[str]:
    """As `by_position`."""
    named = [words_of(p.text)[place_of(p, "query_label")] for p in (base, source)]
    if group == "value_fetcher":
        return answers_by_label(source, named[1], {})
    if group == "label_transmitter":
        return answers_by_label(base, named[1], {})
    here, there = (place_of(prompt, "previous_query_label") for prompt in (base, source))
    return answers_by_label(base, named[0], {here: held(words_of(source.text), there)})


# -- both


@dataclass(frozen=True)
class Algorithm:
    """What a planted model computes.

    Attributes:
        name: of the model.
    """

    name: str

    def answers(self, base: Prompt, source: Prompt, group: str) -> set[str]:
        """The answers that are possible when z of a group comes from the source."""
        if self.name == "planted_label":
            return by_label(base, source, group)
        return by_position(base, source, group, 0.5 if self.name == "planted_base" else 1.0)

    def gives(self, base: Prompt, source: Prompt, group: str, target: str) -> bool | None:
        """Whether the target comes out; None where the algorithm does not settle it."""
        hits = {answer == target for answer in self.answers(base, source, group)}
        return hits.pop() if len(hits) == 1 else None
