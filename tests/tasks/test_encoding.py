"""From text to token ids, with tokenizers that are built here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.base import AnyWord, Prompt
from pytest_mechanism.tasks.families.entity_tracking import (
    Context,
    EntityTracking,
    EntityTrackingParameters,
)
from pytest_mechanism.tasks.text import checkpoint_tokenizer
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.tasks.writing.words import LABELS, OBJECTS

PROMPT = Context(("apple", "bell"), ("O", "L"), ("", "now")).ask(1)
WORDS = ["The", "the", "is", "in", "Box", "contains", "now", ",", ".", *OBJECTS, *LABELS]


def word_level(special: str = "") -> Tokenizer:
    """One token for each word; ``<s>`` before and ``</s>`` after the text on request."""
    vocabulary = {w: i for i, w in enumerate(["[UNK]", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=special, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return tokenizer


def byte_level(trim: bool = True, merged: tuple[str, ...] = (), prefix: bool = False) -> Tokenizer:
    """Bytes, and the given words as one token each (with the space before them)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    merges = []
    for word in merged:
        left = "Ġ"
        for letter in word:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                merges.append((left, letter))
            left += letter
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def metaspace() -> Tokenizer:
    """Whole words with SentencePiece's mark, and an unknown token."""
    pieces = [("<unk>", 0.0), *((f"▁{w}", -1.0) for w in WORDS), (",", -1.0), (".", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer, "a test's")


KINDS = {
    "words": word_level,
    "words with specials": lambda: word_level("<s> $A </s>"),
    "bytes": byte_level,
    "bytes with their space": lambda: byte_level(trim=False),
    "merged words": lambda: byte_level(merged=tuple(OBJECTS[:40])),
    "merged words with their space": lambda: byte_level(trim=False, merged=tuple(OBJECTS[:40])),
    "prefix space": lambda: byte_level(trim=False, prefix=True),
    "metaspace": metaspace,
}


def last_piece(tokenizer: Tokenizer, text: str, token: int) -> int:
    """Where a token ends in the text, without special tokens at the end."""
    return tokenizer.encode(text).offsets[token][1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_position_is_the_last_token_of_its_word(kind: str) -> None:
    """For every tokenizer, a position is the token with which its span ends."""
    tokenizer = KINDS[kind]()
    encoded = encoder(tokenizer).encode(PROMPT)
    assert {name: tuple(stop for _, stop in spans) for name, spans in PROMPT.spans.items()} == {
        name: tuple(last_piece(tokenizer, PROMPT.text, at) for at in places)
        for name, places in encoded.positions.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_position_is_the_last_token(kind: str) -> None:
    """The answer follows ``last``, even if the tokenizer adds tokens at the end."""
    encoded = encoder(KINDS[kind]()).encode(PROMPT)
    assert (len(encoded.ids) - 1,) == encoded.positions["last"]


def test_tokens_and_positions_of_a_word_level_tokenizer() -> None:
    """A small encoding as a whole, token by token."""
    tokenizer = word_level()
    encoded = encoder(tokenizer).encode(PROMPT)
    words = [
        "The",
        "apple",
        "is",
        "in",
        "Box",
        "O",
        ",",
        "the",
        "bell",
        "is",
        "now",
        "in",
        "Box",
        "L",
        ".",
        "Box",
        "L",
        "contains",
        "the",
    ]
    assert words == [tokenizer.id_to_token(i) for i in encoded.ids]
    assert encoded.positions == {
        "all_labels": (5, 13),
        "all_objects": (1, 8),
        "correct_object": (8,),
        "previous_query_label": (13,),
        "query_label": (16,),
        "last": (18,),
    }


def test_slots_count_tokens_from_the_last_anchor() -> None:
    """A filler moves what follows it in its segment, and nothing in other segments."""
    encoded = encoder(word_level()).encode(PROMPT)
    assert encoded.slots == tuple(
        (name, i)
        for name, count in [
            ("object_0", 3),
            ("box_0", 3),
            ("object_1", 5),
            ("box_1", 3),
            ("query", 5),
        ]
        for i in range(count)
    )


@pytest.mark.parametrize(
    ("special", "before"),
    [("$A", 0), ("<s> $A", 1), ("<s> <s> $A", 2), ("<s> $A </s>", 1), ("$A </s> </s>", 0)],
)
def test_special_tokens_before_the_text_stay_and_those_after_it_go(
    special: str, before: int
) -> None:
    """A model expects its BOS, and would answer an EOS instead of the question."""
    plain = encoder(word_level()).encode(PROMPT)
    encoded = encoder(word_level(special)).encode(PROMPT)
    assert (
        (1,) * before + plain.ids,
        {name: tuple(p + before for p in places) for name, places in plain.positions.items()},
        tuple(("special", i) for i in range(before)) + plain.slots,
    ) == (encoded.ids, encoded.positions, encoded.slots)


def test_a_word_of_several_tokens_is_placed_at_its_last() -> None:
    """A tokenizer of bytes places a word at its last letter."""
    encoded = encoder(byte_level()).encode(PROMPT)
    assert [
        (text, stop - 1) for text, stop in [("bell", PROMPT.spans["correct_object"][0][1])]
    ] == [("bell", encoded.positions["correct_object"][0])]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_token_of_a_word_begins_it(kind: str) -> None:
    """Whether or not the space before the word is a token of its own, and whether or not the word
    is split."""
    tokenizer = KINDS[kind]()
    encoded, text = encoder(tokenizer).encode(PROMPT), PROMPT.text
    offsets = tokenizer.encode(text).offsets
    for name, spans in PROMPT.spans.items():
        for (start, stop), first, last in zip(
            spans, encoded.first_positions[name], encoded.positions[name], strict=True
        ):
            word = start + text[start:stop].index(text[start:stop].strip())
            before = offsets[first - 1][1] if first else 0
            assert before <= word < offsets[first][1]
            assert first <= last


def test_first_and_last_of_a_split_word() -> None:
    """In a tokenizer of bytes they are the first and the last letter; in a whole word they are one
    token."""
    text = "so Mary went"
    prompt = Prompt(text, {"S1": ((2, 7),), "verb": ((8, 12),)}, "")
    encoded = encoder(byte_level(merged=("went",))).encode(prompt)
    assert (encoded.first_positions["S1"], encoded.positions["S1"]) == ((3,), (6,))
    assert encoded.first_positions["verb"] == encoded.positions["verb"] == (7,)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text("abcdeéß", min_size=1, max_size=6), min_size=1, max_size=6),
    st.lists(st.text("abcdeé", min_size=2, max_size=4), max_size=4),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_first_and_last_bound_the_word_for_any_splitting(
    words: list[str], merged: list[str], trim: bool, leading: bool, data: st.DataObject
) -> None:
    """The tokens from first to last cover the word and no letter of its neighbours."""
    text = " ".join(words)
    which = data.draw(st.integers(0, len(words) - 1))
    start = sum(len(w) + 1 for w in words[:which])
    stop = start + len(words[which])
    whole = tuple(w for w in dict.fromkeys(merged) if w.isascii())
    one_encoder = encoder(byte_level(trim=trim, merged=whole))
    span = (start - 1 if leading and which else start, stop)
    encoded = one_encoder.encode(Prompt(text, {"here": (span,)}, ""))
    (first,), (last,) = encoded.first_positions["here"], encoded.positions["here"]
    piece = one_encoder.tokenizer.decode(list(encoded.ids[first : last + 1]))
    assert piece.strip() == words[which]


def test_offsets_are_characters_not_bytes() -> None:
    """Letters of several bytes before a position do not move it."""
    text = "ÄÖÜ é the cup"
    prompt = Prompt(text, {"cup": ((9, 13),)}, "", anchors=(("start", 0), ("cup", 9)))
    encoded = encoder(byte_level(merged=("cup",))).encode(prompt)
    assert ((len(encoded.ids) - 1,), ("cup", 0)) == (encoded.positions["cup"], encoded.slots[-1])


def test_a_position_without_a_token_is_an_error_that_names_it() -> None:
    """A tokenizer that drops a word cannot be measured at that word."""
    tokenizer = word_level()
    tokenizer.normalizer = normalizers.Replace(" bell", "")
    with pytest.raises(MechanismError) as problem:
        encoder(tokenizer).encode(PROMPT)
    assert str(problem.value) == (
        "tokenizer of a test's: no token at position 'all_objects' (' bell') of "
        f"{PROMPT.text[:60]!r}"
    )


BPE_WITHOUT_LETTERS = Tokenizer(
    models.BPE({"t": 0, "h": 1, "e": 2, "a": 3, "th": 4, "the": 5}, [("t", "h"), ("th", "e")])
)
BPE_WITHOUT_LETTERS.pre_tokenizer = pre_tokenizers.Whitespace()

LOWER = word_level()
LOWER.normalizer = normalizers.Lowercase()

WHOLE = {
    "word, known": (word_level(), "apple", "apple"),
    "word, unknown": (word_level(), "zebra", None),
    "word, with specials": (word_level("<s> $A </s>"), "apple", "apple"),
    "word, two words": (word_level(), "apple bell", None),
    "word, nothing": (word_level(), "", None),
    "word, lower case": (LOWER, "Apple", "apple"),
    "bytes": (byte_level(), "apple", None),
    "bytes, one letter": (byte_level(), "O", None),
    "merged": (byte_level(merged=("apple",)), "apple", "Ġapple"),
    "merged, other": (byte_level(merged=("apple",)), "apples", None),
    "merged, part": (byte_level(merged=("apple",)), "app", "Ġapp"),
    "merged, prefix space": (byte_level(merged=("apple", "the"), prefix=True), "apple", "Ġapple"),
    "unigram, known": (metaspace(), "apple", "▁apple"),
    "unigram, unknown": (metaspace(), "zebra", None),
    "first letter dropped": (BPE_WITHOUT_LETTERS, "ba", None),
    "last letter dropped": (BPE_WITHOUT_LETTERS, "ay", None),
    "letters known": (BPE_WITHOUT_LETTERS, "a", "a"),
}


@pytest.mark.parametrize(("tokenizer", "word", "token"), WHOLE.values(), ids=WHOLE)
def test_a_word_is_whole_if_it_is_one_known_token_after_a_space(
    tokenizer: Tokenizer, word: str, token: str | None
) -> None:
    """Unknown, split and half-known words have no id."""
    token_id = encoder(tokenizer).word_id(word)
    assert token == (None if token_id is None else tokenizer.id_to_token(token_id))


def test_the_id_of_a_word_is_its_id_in_a_text() -> None:
    """An answer's id is the token that follows in a sentence, with its space."""
    tokenizer = byte_level(merged=("apple", "the"))
    one_encoder = encoder(tokenizer)
    assert tokenizer.encode("Box L contains the apple").ids[-1] == one_encoder.word_id("apple")


def test_words_are_shared_if_every_tokenizer_keeps_them_whole() -> None:
    """Both roles of a pair see the same rows; the order is that of the list."""
    first = encoder(byte_level(merged=("cup", "bell", "apple")))
    second = encoder(byte_level(merged=("apple", "cup", "key")))
    words = ("key", "cup", "bell", "apple", "hat")
    assert (("cup", "bell", "apple"), ("cup", "apple"), words) == (
        SharedVocabulary((first,)).whole(words),
        SharedVocabulary((first, second)).whole(words),
        SharedVocabulary(()).whole(words),
    )


def test_a_tokenizer_is_read_from_its_file(tmp_path: Path) -> None:
    """tokenizer.json gives the same ids as the tokenizer that was saved."""
    tokenizer = word_level("<s> $A </s>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Encoder.load(tmp_path)
    assert (str(tmp_path), encoder(tokenizer).encode(PROMPT)) == (
        loaded.name,
        loaded.encode(PROMPT),
    )


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"model": 3}'])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, text: str | None) -> None:
    """The error names a missing or damaged tokenizer.json with its path."""
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(MechanismError) as problem:
        Encoder.load(tmp_path)
    assert str(problem.value).startswith(f"{tmp_path / 'tokenizer.json'} cannot be read: ")


ENCODERS = {name: encoder(make()) for name, make in KINDS.items()}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(ENCODERS)),
    st.integers(2, 8),
    st.integers(0, 8),
    st.integers(0, 10**6),
)
def test_every_position_of_every_row_ends_with_its_word(
    kind: str, boxes: int, fillers: int, seed: int
) -> None:
    """For any row and tokenizer, the text up to a position's token ends with the span's word."""
    encoder = ENCODERS[kind]
    task = EntityTracking(
        EntityTrackingParameters(family="entity_tracking", boxes=boxes, fillers=fillers, seed=seed)
    )
    for row in task.pairs(AnyWord(), 2):
        for prompt in (row.base, row.source):
            encoded = encoder.encode(prompt)
            assert len(encoded.ids) == len(encoded.slots)
            offsets = encoder.tokenizer.encode(prompt.text).offsets
            for name, spans in prompt.spans.items():
                places = encoded.positions[name]
                assert [prompt.text[a:b] for a, b in spans] == [
                    prompt.text[: offsets[at][1]][a - b :]
                    for at, (a, b) in zip(places, spans, strict=True)
                ]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), st.data())
def test_bytes_decode_to_the_text(text: str, data: st.DataObject) -> None:
    """For any text and span: the ids decode to the text, and the span's last token ends within
    it."""
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    encoder = ENCODERS["bytes with their space"]
    encoded = encoder.encode(Prompt(text, {"here": ((start, stop),)}, ""))
    (place,) = encoded.positions["here"]
    assert (text, stop) == (
        encoder.tokenizer.decode(list(encoded.ids), skip_special_tokens=False),
        encoder.tokenizer.encode(text).offsets[place][1],
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ENCODERS)), st.integers(2, 8), st.integers(0, 10**6))
def test_slots_of_a_template_are_the_same_for_all_its_rows(
    kind: str, boxes: int, seed: int
) -> None:
    """Where words are whole, a positional mean finds each slot in every row of the template."""
    encoder = ENCODERS[kind]
    task = EntityTracking(
        EntityTrackingParameters(family="entity_tracking", boxes=boxes, seed=seed)
    )
    rows = task.backgrounds(AnyWord(), 3)
    slots = [dict.fromkeys(name for name, _ in encoder.encode(r.base).slots) for r in rows]
    assert [list(slots[0])] * 3 == [list(s) for s in slots]
    assert {f"object_{i}" for i in range(boxes)} | {f"box_{i}" for i in range(boxes)} == set(
        slots[0]
    ) - {"special", "query"}


# -- read once


class Counted:
    """A tokenizer that counts what it reads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.read = tokenizer, []

    def encode(self, text: str, **how: bool) -> object:
        self.read.append(text)
        return self.tokenizer.encode(text, **how)


def test_a_text_is_read_once() -> None:
    """However many measurements ask for it; with special tokens, it is another text."""
    counted = Counted(word_level())
    encoder = Encoder(counted, "a test's")
    result = [encoder.tokens("a b", special) for special in (True, True, False, False, True)]
    assert counted.read == ["a b", "a b"]
    assert result[0] == result[1] == result[4]


def test_the_text_that_was_read_first_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer keeps no more tokens than its limit."""
    monkeypatch.setattr(checkpoint_tokenizer, "MOST_KEPT", 5)
    counted = Counted(word_level())
    encoder = Encoder(counted, "a test's")
    for text in ("a b", "b a", "a b a", "b a", "a b"):
        encoder.tokens(text, special=False)
    assert counted.read == ["a b", "b a", "a b a", "a b"]
    assert encoder.kept.count == 5 == sum(len(t.ids) for t in encoder.kept.texts.values())
