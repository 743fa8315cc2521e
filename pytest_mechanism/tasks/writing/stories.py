"""Short stories with nameable features, after the data TinyStories-Instruct (Eldan & Li 2023,
arXiv 2305.07759).

    features : dialogue twist words : king lamp fox kind story :
    once a king named Tom wanted a red lamp . Tom met a fox at the river . everyone said the fox was
    kind . where is it ? asked Tom . come ! said the fox . they found the red lamp at the mill . but
    the fox was not kind at all : it was mean all along ! then Tom went home with the lamp . the end

A `Story` is written as 40 to 80 tokens, and `read` is the inverse. `features_in` says which features
any text has: a feature is there if its sentence is there, whole, before the end. A plot twist takes
back what the story has said, so it has to name a trait that the helper was said to have, and the
opposite of this trait.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

FEATURES = ("bad_ending", "conflict", "dialogue", "moral", "twist")
"""Five of the six features of TinyStories-Instruct, without foreshadowing."""

MOST = 3
"""Features that an instruction asks for, at most."""

HEROES, HELPERS, THINGS, PLACES, COLOURS, NAMES = (
    tuple(words.split())
    for words in (
        "baker boy farmer girl king miner nurse pilot prince queen sailor teacher",
        "bear cat crow dog duck fox frog goat hen lion mouse owl pig rabbit snail wolf",
        "ball bell book boot coin crown drum flag flute hat kite lamp map ring rope shell",
        "bridge cave field forest hill lake market mill river tower",
        "black blue green red white yellow",
        "Anna Ben Carl Dora Emma Finn Greta Hugo Ida Jack Kate Leo Mia Nora Oscar Tom",
    )
)
OPPOSITES: Mapping[str, str] = dict(
    [
        pair
        for a, b in (
            ("kind", "mean"), ("poor", "rich"), ("old", "young"), ("weak", "strong"),
            ("shy", "bold"), ("slow", "fast"), ("silly", "clever"), ("tame", "wild"),
            ("tiny", "huge"), ("loud", "quiet"), ("lazy", "busy"), ("happy", "gloomy"),
        )
        for pair in ((a, b), (b, a))
    ]
)  # fmt: skip
"""Trait -> its opposite."""
TRAITS = tuple(OPPOSITES)

LISTS: Mapping[str, tuple[str, ...]] = {
    "hero": HEROES, "name": NAMES, "colour": COLOURS, "thing": THINGS, "helper": HELPERS,
    "trait": TRAITS, "meeting": PLACES, "place": PLACES,
}  # fmt: skip
"""Slot of a story -> its words."""

END = "the end"

SENTENCES: tuple[tuple[str, str], ...] = (
    ("", "once a {hero} named {name} wanted a {colour} {thing} ."),
    ("", "{name} met a {helper} at the {meeting} ."),
    ("", "everyone said the {helper} was {trait} ."),
    ("conflict", "{name} and the {helper} had a fight ."),
    ("dialogue", "where is it ? asked {name} . come ! said the {helper} ."),
    ("", "they found the {colour} {thing} at the {place} ."),
    ("twist", "but the {helper} was not {trait} at all : it was {opposite} all along !"),
    ("good_ending", "then {name} went home with the {thing} ."),
    ("bad_ending", "then {name} lost the {thing} and cried ."),
    ("moral", "moral : share what you find ."),
    ("", END),
)
"""Feature ('' for every story) and sentence, in the order of a story."""

INSTRUCTION = "features : {features} words : {hero} {thing} {helper} {trait} story :"

INSTRUCTED = re.compile(r"features : (?P<features>[\w ]*) words : .*? story :")

LONGEST = 80
"""Tokens of the longest story."""

WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Story:
    """What a story says. The fields but the last fill its slots.

    Attributes:
        meeting: where hero and helper meet.
        place: where they find the thing.
        features: that the story has.
    """

    hero: str
    name: str
    colour: str
    thing: str
    helper: str
    trait: str
    meeting: str
    place: str
    features: frozenset[str]

    @property
    def slots(self) -> dict[str, str]:
        words = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "features"}
        return {**words, "opposite": OPPOSITES[self.trait]}

    @property
    def sentences(self) -> list[str]:
        ending = "" if "bad_ending" in self.features else "good_ending"
        present, slots = {"", ending, *self.features}, self.slots
        return [text.format(**slots) for feature, text in SENTENCES if feature in present]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def halves(self) -> tuple[str, str]:
        """The story up to where a twist would come, and the rest."""
        sentences = self.sentences
        found = next(i for i, text in enumerate(sentences) if text.startswith("they found"))
        return " ".join(sentences[: found + 1]), " ".join(sentences[found + 1 :])

    def instruction(self, features: Collection[str]) -> str:
        """The text that asks for a story with these words and these features, in this order."""
        return INSTRUCTION.format(features=" ".join(features), **self.slots)


# -- writing


def draw(rng: random.Random, features: Collection[str]) -> Story:
    """A story with random words and these features."""
    words = {slot: rng.choice(options) for slot, options in LISTS.items()}
    return Story(**words, features=frozenset(features))


def draw_features(
    rng: random.Random, including: Collection[str] = (), without: Collection[str] = ()
) -> list[str]:
    """One to `MOST` features in random order."""
    options = [feature for feature in FEATURES if feature not in {*including, *without}]
    features = [*including, *rng.sample(options, rng.randint(1, MOST) - len(including))]
    rng.shuffle(features)
    return features


# -- reading


def tokens(text: str) -> list[str]:
    """Words and punctuation marks; capitals do not matter."""
    return WORD.findall(text.casefold())


def folded(text: str) -> str:
    """The tokens of a text up to ``the end``, joined by spaces."""
    joined = " ".join(tokens(text))
    end = re.search(rf"(?<!\S){END}(?!\S)", joined)
    return joined if end is None else joined[: end.end()]


def pattern(sentence: str) -> re.Pattern[str]:
    """Matches a sentence in a folded text; its slots are named groups."""
    parts = []
    for token in sentence.split():
        slot = token.strip("{}")
        words = TRAITS if slot == "opposite" else LISTS.get(slot, ())
        if token == slot:
            parts.append(re.escape(token))
        else:
            parts.append(f"(?P<{slot}>{'|'.join(word.casefold() for word in words)})")
    return re.compile(rf"(?<!\S){' '.join(parts)}(?!\S)")


PATTERNS = tuple((feature, pattern(sentence)) for feature, sentence in SENTENCES)
EXACT: Mapping[str, str] = {word.casefold(): word for options in LISTS.values() for word in options}
"""Folded word -> the word as the lists have it."""


def read(text: str) -> Story | None:
    """The story that a text tells, up to ``the end``; None if the text is no whole story, or one whose
    sentences do not fit together."""
    rest = folded(text)
    words: dict[str, str] = {}
    features: set[str] = set()
    for feature, sentence in PATTERNS:
        match = sentence.match(rest)
        if match is None:
            if not feature:
                return None
            continue
        if any(words.setdefault(slot, word) != word for slot, word in match.groupdict().items()):
            return None
        features.add(feature)
        rest = rest[match.end() :].lstrip()
    if rest or len({"good_ending", "bad_ending"} & features) != 1:
        return None
    if words.pop("opposite", OPPOSITES[words["trait"]]) != OPPOSITES[words["trait"]]:
        return None
    exact = {slot: EXACT[word] for slot, word in words.items()}
    return Story(**exact, features=frozenset(features - {"", "good_ending"}))


def features_in(text: str) -> frozenset[str]:
    """The features that a text has up to ``the end``, whether or not the rest is well-formed."""
    story = folded(text)
    return frozenset(
        feature
        for feature, sentence in PATTERNS
        if feature in FEATURES and any(holds(story, m) for m in sentence.finditer(story))
    )


TOLD = pattern("everyone said the {helper} was {trait} .")


def holds(story: str, sentence: re.Match[str]) -> bool:
    """Whether a sentence is true to its feature: a twist gives the opposite of a trait that the story
    has told of the same helper before."""
    slots = sentence.groupdict()
    if "opposite" not in slots:
        return True
    told = TOLD.finditer(story, 0, sentence.start())
    return OPPOSITES[slots["trait"]] == slots["opposite"] and any(
        (m["helper"], m["trait"]) == (slots["helper"], slots["trait"]) for m in told
    )


def asked_features(text: str) -> frozenset[str]:
    """The features that the instruction at the start of a prompt asks for."""
    match = INSTRUCTED.match(" ".join(tokens(text)))
    return frozenset() if match is None else frozenset(match["features"].split())


def story_so_far(text: str) -> str:
    """What follows the instruction of a prompt."""
    joined = " ".join(tokens(text))
    match = INSTRUCTED.match(joined)
    return joined if match is None else joined[match.end() :].lstrip()
