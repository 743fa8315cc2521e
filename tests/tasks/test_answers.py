"""Which token an answer is, depending on the text before it, for the usual kinds of tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.definition import definition
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import AnyWord, Prompt
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.tasks.text.joints import joint_between, strip_trailing_space

CITIES = ["Paris", "Rome", "Oslo", "Lima", "Bern", "巴黎", "東京", "กรุงเทพ"]
ENDS = [
    "The capital is",
    "capital:",
    "Answer:\n",
    "### Response:\n\n",
    "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n",
    "Where?<|assistant|>",
    "<answer>",
    'He said "',
    "He said “",
    "see (",
    "f[",
    "«",
    "n = ",
    "x=",
    "首都是",
    "首都：",
    "year 17",
    "tab\t",
    "well-",
    "l'",
    "no\u00a0",
]
WORDS = [*CITIES, "32", "7", ",", ").", "'s", "a", "ing", "-5", "Ω"]
ADDED = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|assistant|>"]
TEXTS = [end + word for end in ENDS for word in [*WORDS, ""]] + [f"the {word}" for word in WORDS]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PIECES = r"▁?[\p{L}]+|▁?\p{N}|▁?[^▁\p{L}\p{N}]"
"""What SentencePiece merges within."""


def byte_level(pattern: str, trim: bool = True) -> Tokenizer:
    """GPT-2's and Llama 3's kind: a regular expression, then merges of bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        tokenizer,
        trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=ADDED),
    )


def llama2() -> Tokenizer:
    """SentencePiece's BPE: a mark for each space and before the text, bytes as fallback, no
    splitting before the merges."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    marked = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(marked)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    tokenizer = trained(
        tokenizer, trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *bytes_, *ADDED])
    )
    tokenizer.pre_tokenizer = None
    return tokenizer


def metaspace(scheme: Any, model: Any, trainer: Any) -> Tokenizer:
    """The tokenizer in use splits by the mark alone; it is trained on pieces, as SentencePiece
    does."""
    tokenizer, mark = Tokenizer(model), pre_tokenizers.Metaspace(prepend_scheme=scheme)
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([mark, pieces])
    tokenizer = trained(tokenizer, trainer)
    tokenizer.pre_tokenizer = mark
    return tokenizer


def bert() -> Tokenizer:
    """WordPiece, in lower case, with special tokens around the text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", *ADDED]
    tokenizer = trained(
        tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return trained(tokenizer, trainers.WordLevelTrainer(special_tokens=["[UNK]", *ADDED]))


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    trainer.show_progress = False
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ADDED])
    return tokenizer


def unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", *ADDED], unk_token="<unk>"
    )
    return metaspace("always", models.Unigram(), trainer)


def first() -> Tokenizer:
    special = ["<unk>", *ADDED]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special)
    return metaspace("first", models.BPE(unk_token="<unk>"), trainer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "GPT-2": lambda: byte_level(GPT2),
    "Llama 3": lambda: byte_level(LLAMA3, trim=False),
    "Llama 2": llama2,
    "metaspace, BPE": first,
    "metaspace, Unigram": unigram,
    "WordPiece": bert,
    "words": words,
}


@cache
def encoder(kind: str) -> Encoder:
    return Encoder(KINDS[kind](), kind)


def prompt(text: str, **more: Any) -> Prompt:
    bare, space = strip_trailing_space(text)
    return Prompt(bare, {}, "", **{"joint": space, **more})


def followed(prompt: Prompt, word: str) -> str:
    """A prompt and a word after it."""
    return prompt.text + prompt.joint_before(word) + word


def ids(an_encoder: Encoder, text: str) -> tuple[int, ...]:
    """The ids of a text without the special tokens after it."""
    encoding = an_encoder.tokenizer.encode(text)
    result, added = list(encoding.ids), list(encoding.special_tokens_mask)
    while added and added[-1]:
        result.pop()
        added.pop()
    return tuple(result)


# -- the rule


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(ENDS) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    st.sampled_from(WORDS) | st.text("aeinorst", min_size=1, max_size=4),
)
def test_prompt_and_answer_are_the_prompt_s_tokens_and_one_more(
    kind: str, end: str, word: str
) -> None:
    """For every tokenizer, prompt and answer: the ids of both are the prompt's ids and the
    answer's. Only white space at the prompt's end may have other ids if a word follows."""
    coder, question = encoder(kind), prompt(end)
    assume(question.text)  # of spaces alone nothing is left to read
    token = coder.answer_id(question, word)
    whole, alone = ids(coder, followed(question, word)), ids(coder, question.text)
    if token is None:
        melts = whole[: len(alone)] != alone
        new = whole[len(alone) :]
        unknown = coder.tokenizer.encode(followed(question, word)).tokens
        unk = {"[UNK]", "<unk>", *(t for t in unknown if coder.tokenizer.token_to_id(t) is None)}
        assert melts or len(new) != 1 or {*unknown} & unk
    elif question.text[-1].isspace():
        assert whole[-1] == token
        assert coder.tokens(followed(question, word), True).offsets[-1][0] >= len(question.text)
    else:
        assert whole == (*alone, token)


@pytest.mark.parametrize("kind", ["GPT-2", "Llama 3", "Llama 2", "metaspace, BPE"])
@pytest.mark.parametrize("end", ["Answer:\n", 'He said "', "see (", "Where?<|im_end|>\n", "see/"])
def test_no_space_follows_a_line_break_a_quote_a_bracket_or_a_turn(kind: str, end: str) -> None:
    """The answer is not the token that it is after a space, but the one that the text has."""
    coder = encoder(kind)
    token, spaced = (
        coder.answer_id(prompt(end), "Paris"),
        coder.answer_id(prompt("capital is"), "Paris"),
    )
    assert token == ids(coder, end + "Paris")[-1]
    assert None not in (token, spaced)
    assert token != spaced


def test_two_line_breaks_that_a_word_after_them_changes() -> None:
    """GPT-2 writes two line breaks as one token if no word follows; the answer is still the
    word."""
    coder, question = encoder("GPT-2"), prompt("### Response:\n\n")
    assert ids(coder, followed(question, "Paris"))[:-1] != ids(coder, question.text)
    assert coder.answer_id(question, "Paris") == ids(coder, "\nParis")[-1]


@pytest.mark.parametrize(
    ("kind", "end", "word"),
    [
        ("Llama 3", "year 17", "32"),
        ("words", "year 17", "32"),
        ("WordPiece", "well-known", "ing"),
        ("GPT-2", "Par", "is"),
    ],
)
def test_an_answer_that_merges_with_its_prompt_has_no_token(kind: str, end: str, word: str) -> None:
    """A model cannot say one token for both after it has read the prompt."""
    assert encoder(kind).answer_id(prompt(end, joint=""), word) is None


@pytest.mark.parametrize(
    ("text", "word", "joint"),
    [
        ("The capital is", "Paris", " "),
        ("Answer:", "Paris", " "),
        ("Answer:\n", "Paris", ""),
        ("Answer:\r\n", "Paris", ""),
        ("Answer:\t", "Paris", ""),
        ("He said “", "Yes", ""),
        ('He said "', "Yes", ""),
        ('He said "yes" and', "no", " "),
        ('He said "yes"', "again", " "),
        ('{"city": "', "Paris", ""),
        ('{"city":"', "Paris", ""),
        ("print('", "hi", ""),
        ("the dogs'", "bowl", " "),
        ("l'", "eau", ""),
        ("Er sagt „", "ja", ""),
        ("Er sagt „ja“", "und", " "),
        ("(", "a", ""),
        ("f(x)", "is", " "),
        ("[", "1", ""),
        ("well-", "known", ""),
        ("a -", "b", " "),
        ("1/", "2", ""),
        ("x=", "5", ""),
        ("x =", "5", " "),
        ("$", "5", ""),
        ("costs $", "5", ""),
        ("**", "Paris", ""),
        ("so **bold**", "Paris", " "),
        ("<|user|>hi<|assistant|>", "Paris", ""),
        ("<user> hi <assistant>", "Paris", " "),
        ("<｜User｜>hi<｜Assistant｜>", "Paris", ""),
        ("<think>so</think>", "Paris", " "),
        ("<answer>", "Paris", ""),
        ("[INST] hi [/INST]", "Paris", " "),
        ("1 < 2 >", "0", " "),
        ("首都是", "巴黎", ""),
        ("首都是", "Paris", ""),
        ("首都：", "巴黎", ""),
        ("他说“", "好", ""),
        ("เมืองหลวงคือ", "กรุงเทพ", ""),
        ("수도는", "서울", " "),
        ("столица", "Рим", " "),
        ("Paris", ",", ""),
        ("Paris", "'s", ""),
        ("Paris", "...", ""),
        ("is", "-5", " "),
        ("is", "1999", " "),
        ("is", "(", " "),
        ("", "Paris", ""),
    ],
)
def test_joints(text: str, word: str, joint: str) -> None:
    """The joint before an answer is a space, or nothing."""
    assert joint_between(text, word) == joint


def test_a_space_at_a_prompt_s_end_belongs_to_the_answer() -> None:
    """Also after a character that an answer would follow without a space."""
    assert [strip_trailing_space(t) for t in ("is ", "x= ", "is", "Answer:\n", "a\n ")] == [
        ("is", " "),
        ("x=", " "),
        ("is", None),
        ("Answer:\n", None),
        ("a\n", None),
    ]


# -- in a file


def spec(
    folder: Path, lines: list[dict[str, Any]], task: str = "family: jsonl, file: f.jsonl"
) -> Spec:
    (folder / "f.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "f.yaml").write_text(
        f"mechanism: 1\ncircuit: f\ntask: {{{task}, rows: 20}}\n"
        "claims: {knows: {kind: accuracy, at_least: 0.5}}\n"
    )
    return load(folder / "f.yaml")


def many(end: str, **more: Any) -> list[dict[str, Any]]:
    names = ["Paris", "Rome"]
    return [{"prompt": f"{i} {end}", "answer": names[i % 2], **more} for i in range(60)]


def test_a_prompt_keeps_its_final_line_break(tmp_path: Path) -> None:
    """The prompt ends as the file has it, and the answer follows without a space."""
    task = spec(tmp_path, many("Answer:\n")).task
    row = task.rows(SharedVocabulary((encoder("Llama 3"),)), 20)[0]
    assert row.base.text.endswith("Answer:\n")
    assert row.base.completion == row.base.answer
    assert row.base.spans["last"] == ((len(row.base.text) - 2, len(row.base.text)),)


def test_a_line_may_set_its_joint(tmp_path: Path) -> None:
    """``joint`` overrides the rule."""
    message = [
        spec(tmp_path, many(end, joint=joint)).task.rows(AnyWord(), 20)[0].base.completion[0]
        for end, joint in (("->", ""), ("(", " "))
    ]
    assert (message[0] != " ", message[1]) == (True, " ")


def test_lines_whose_answer_merges_with_the_prompt_are_dropped_and_named(tmp_path: Path) -> None:
    """No row has them, and a sentence for the reader of the score names them."""
    vocabulary = SharedVocabulary((encoder("Llama 3"), encoder("words")))
    melting = [
        {"prompt": f"{i} lasted to the year 17", "answer": "32", "joint": ""} for i in range(7)
    ]
    task = spec(tmp_path, [*many("is the capital"), *melting]).task
    assert all(row.base.answer != "32" for row in task.rows(vocabulary, 30))
    message = task.dropped_words(vocabulary)
    assert message.startswith("7 of 67 lines, 1 of 3 words are dropped")
    assert "' the year 1732'" in message
    with pytest.raises(MechanismError, match="some tokenizer splits an answer"):
        task.rows(vocabulary, 32)


def test_scores_of_changed_lines_are_not_compared_with_older_ones(tmp_path: Path) -> None:
    """A file whose answers follow a space keeps its baselines and its keys; a file whose answers
    follow without a space has another definition than before."""
    plain, broken = (spec(tmp_path / n, many(e)) for n, e in folders(tmp_path))
    assert (plain.task.edition, broken.task.edition) == (0, 1)
    kept = plain.task.settings.model_dump(mode="json")
    assert "edition" not in kept
    assert definition(plain, plain.claims["knows"]) != definition(broken, broken.claims["knows"])


def folders(root: Path) -> list[tuple[str, str]]:
    endings = [("plain", "is"), ("broken", "is:\n")]
    for name, _ in endings:
        (root / name).mkdir()
    return endings


# -- in a template

TABLE = "{France: {city: Paris}, Italy: {city: Rome}, Norway: {city: Oslo}, Peru: {city: Lima}}"


def template(folder: Path, text: str, more: str = "") -> Spec:
    words = f"words: {{land: {TABLE}, year: [a1, b2, c3, d4, e5, f6, g7, h8, i9, j10, k11, l12, m13, n14]}}"
    task = f"family: template, {words}, text: {text}, answer: '{{land.city}}'{more}"
    return spec(folder, [], task)


@pytest.mark.parametrize(
    "text", ['"{year} capital of {land}?\\nAnswer:\\n"', '"{year} the capital of {land} is (“"']
)
def test_a_template_may_end_with_a_line_break_or_a_bracket(tmp_path: Path, text: str) -> None:
    """Its answers must be one token after the text, not after a space."""

    class NoSpaces(AnyWord):
        def whole(self, words: Any, after: str = "") -> tuple[str, ...]:
            return tuple(word for word in words if word not in CITIES)

    task = template(tmp_path, text).task
    rows = task.rows(NoSpaces(), 20)
    assert {row.base.completion for row in rows} <= {*CITIES}
    assert task.edition == 1
    (tmp_path / "spaced").mkdir()
    spaced = template(tmp_path / "spaced", '"{year} the capital of {land} is"').task
    assert spaced.edition == 0
    with pytest.raises(MechanismError, match="keep 0 of 4 words of land whole"):
        spaced.rows(NoSpaces(), 20)


def test_rows_of_a_template_whose_answer_merges_are_dropped_and_named(tmp_path: Path) -> None:
    """Rows have only those of the four cities that are one token after the text."""

    class Melting(AnyWord):
        def answers(self, prompt: Prompt, words: Any) -> tuple[str, ...]:
            return tuple(word for word in words if word != "Rome")

    task = template(tmp_path, '"{year} the capital of {land} is ("').task
    assert "Rome" not in {row.base.answer for row in task.rows(Melting(), 20)}
    assert "are dropped" in task.dropped_words(Melting())
    assert "Rome'" in task.dropped_words(Melting())
