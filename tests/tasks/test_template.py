"""The family that is written in YAML alone: its syntax, and an error of one line for each
mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.spec.write import flow
from pytest_mechanism.spec.yaml import parse
from pytest_mechanism.tasks.base import AnyWord, Prompt
from pytest_mechanism.tasks.families.template import Template, TemplateParameters
from pytest_mechanism.tasks.files import BY_CONTENT
from pytest_mechanism.tasks.writing.patterns import parse_pattern

ANIMALS = [f"animal{i}" for i in range(12)]

REPEATS: dict[str, Any] = {
    "family": "template",
    "words": {"animal": ANIMALS},
    "slots": {"A": "animal", "B": "animal", "C": "animal"},
    "text": "so {A} {B} {C} and {A:again}",
    "answer": "{B}",
    "source": {"redraw": ["B"]},
    "variables": {"successor": {"source": {"redraw": ["B"]}, "target": "{source.B}"}},
    "rows": 40,
}

CAPITALS: dict[str, Any] = {
    "family": "template",
    "words": {
        "country": {
            f"Land{i}": {"capital": f"Town{i}", "continent": "Asia" if i < 30 else "Europe"}
            for i in range(60)
        }
    },
    "texts": ["The capital [[verb:of]] {country} is", "In {country} [[verb:live]] those who see"],
    "answer": "{country.capital}",
    "source": {"redraw": ["country"]},
    "rows": 20,
}


def template(parameters: dict[str, Any], **changes: Any) -> Template:
    merged = {k: v for k, v in (parameters | changes).items() if v is not None}
    return Template(TemplateParameters.model_validate(merged))


def words(prompt: Prompt) -> dict[str, str]:
    return {name: prompt.text[a:b] for name, ((a, b),) in prompt.spans.items()}


# -- what the syntax means


def test_a_slot_is_a_position_and_so_is_a_named_occurrence() -> None:
    """A slot's first occurrence has the slot's name, ``{A:again}`` its own name; ``last`` is the
    last token."""
    task = template(REPEATS)
    assert task.positions == ("last", "A", "B", "C", "again")
    for row in task.rows(AnyWord(), 10):
        by_position = words(row.base)
        assert (
            row.base.text
            == f"so {by_position['A']} {by_position['B']} {by_position['C']} and {by_position['A']}"
        )
        assert by_position["again"] == by_position["A"]
        assert len({by_position["A"], by_position["B"], by_position["C"]}) == 3
        assert row.base.answer == row.target == by_position["B"]
        assert set(row.base.options) == {by_position["A"], by_position["B"], by_position["C"]}
        assert row.base.spans["A"][0][0] < row.base.spans["again"][0][0]


def test_redraw_changes_one_word() -> None:
    """The new word is absent from the base."""
    for row in template(REPEATS).pairs(AnyWord(), 20):
        assert row.source is not None
        base, source = words(row.base), words(row.source)
        assert source["B"] not in base.values()
        assert source | {"B": base["B"]} == base | {"last": source["last"]}
        assert row.target == base["B"]
    for row in template(REPEATS).interchange(AnyWord(), "successor", 20, "test"):
        assert row.source is not None
        assert row.target == words(row.source)["B"] == row.source.answer


def change(source: dict[str, Any], **more: Any) -> list[tuple[dict[str, str], dict[str, str]]]:
    rows = template(REPEATS, source=source, **more).pairs(AnyWord(), 20)
    return [(words(r.base), words(r.source)) for r in rows if r.source is not None]


def test_swap_exchanges_words() -> None:
    """Each slot takes the next one's word, and the last slot the first one's."""
    for base, source in change({"swap": ["A", "B", "C"]}):
        assert [source[x] for x in "ABC"] == [base[x] for x in "BCA"]
        assert source["again"] == source["A"]


def test_redraw_of_one_occurrence() -> None:
    """The slot's other occurrences keep their word."""
    for base, source in change({"redraw": ["again"]}):
        assert [source[x] for x in "ABC"] == [base[x] for x in "ABC"]
        assert source["again"] not in base.values()


def test_set_puts_a_slot_s_word_or_a_fixed_word() -> None:
    """``{C}`` is the base's word."""
    assert all(source["again"] == base["C"] for base, source in change({"set": {"again": "{C}"}}))
    assert all(source["again"] == "fox" for _, source in change({"set": {"again": "fox"}}))


def test_text_other_is_another_text_of_the_inner_list() -> None:
    """And no text of another inner list."""
    texts = [["so {A} {B} {C} : {A:again}", "so {B} {A} {C} : {A:again}"],
             ["now {A} {B} {C} : {A:again}", "now {B} {A} {C} : {A:again}"]]  # fmt: skip
    task = template(REPEATS, text=None, texts=texts, source={"text": "other"})
    orders = set()
    for i, row in enumerate(task.pairs(AnyWord(), 20)):
        assert row.source is not None
        base, source = row.base.text.split(), row.source.text.split()
        assert base[0] == source[0] == ("so", "so", "now", "now")[i % 4]
        assert source == [base[0], base[2], base[1], *base[3:]]
        orders.add(row.base.text.split().index(words(row.base)["A"]))
    assert orders == {1, 2}


def test_anchors_are_shared_by_orders_and_not_by_other_texts() -> None:
    """A positional mean is taken over texts of one layout, word by word."""
    texts = [
        ["so {A} {B} {C} : {A:again}", "so {B} {A} {C} : {A:again}"],
        "{A} now {B} {C} {A:again}",
    ]
    rows = template(REPEATS, text=None, texts=texts).rows(AnyWord(), 3)
    names = [[name for name, _ in row.base.anchors] for row in rows]
    assert names[0] == names[1] == ["text_0/start", *(f"text_0/word_{i}" for i in range(4))]
    assert names[2] == ["text_1/start", *(f"text_1/word_{i}" for i in range(4))]


def test_a_table_has_columns() -> None:
    """``{country.capital}``; a guesser chooses among the table's capitals."""
    task = template(CAPITALS)
    for row in task.pairs(AnyWord(), 20):
        number = words(row.base)["country"].removeprefix("Land")
        assert row.base.answer == f"Town{number}"
        assert len(row.base.options) == 60
    assert task.chance == pytest.approx(1 / 60)
    assert template(CAPITALS, answer="{country.continent}").chance == 1 / 2


def test_each_text_may_have_its_own_answer() -> None:
    """Two words are correct in turns, and a variable moves the answer."""
    texts = [[{"text": "The {animal} here", "answer": "is"},
              {"text": "The {animal}s here", "answer": "are"}]]  # fmt: skip
    task = template(
        {"family": "template", "words": {"animal": [f"n{i}" for i in range(200)]}, "rows": 20},
        texts=texts,
        variables={"number": {"source": {"text": "other"}, "target": "{source.answer}"}},
    )
    rows = task.interchange(AnyWord(), "number", 20, "test")
    assert {(row.base.answer, row.target) for row in rows} == {("is", "are"), ("are", "is")}
    assert {row.base.options for row in rows} == {("is", "are")}
    assert task.chance == 1 / 2


@pytest.mark.parametrize(
    ("changes", "chance"),
    [
        ({}, 1 / 3),
        ({"options": ["{A}", "{B}"]}, 1 / 2),
        ({"options": ["{A}", "{answer}"]}, 1 / 2),
        ({"answer": "{again}"}, 1 / 3),
        ({"options": ANIMALS}, 1 / 12),
    ],
)
def test_chance_is_that_of_guessing_among_the_options(
    changes: dict[str, Any], chance: float
) -> None:
    """By default the options are the words of the prompt that come from the answer's list."""
    task = template(REPEATS, **changes)
    assert task.chance == pytest.approx(chance)
    row = task.rows(AnyWord(), 1)[0]
    assert len(row.base.options) == pytest.approx(1 / chance)
    assert row.base.answer in row.base.options


def test_chance_is_a_mean_over_prompts_with_different_numbers_of_options() -> None:
    """He or she, of two people: no choice where both are the same. Of 30 people 10 are she."""
    people = {f"p{i}": {"said": "he" if i % 3 else "she"} for i in range(30)}
    task = template(
        {"family": "template", "words": {"p": people}, "slots": {"A": "p", "B": "p"}, "rows": 20},
        text="so {A} and {B} left as",
        answer="{A.said}",
    )
    same = (20 * 19 + 10 * 9) / (30 * 29)
    assert task.chance == pytest.approx(same + (1 - same) / 2)
    one_of = template(
        {"family": "template", "words": {"p": people}, "rows": 20},
        texts=["so {p} left as", "then {p} left as"],
        answer="{p.said}",
    )
    assert one_of.chance == pytest.approx(2 / 3)  # who always says he


def test_words_that_may_be_split_are_kept_and_what_follows_is_aligned_again() -> None:
    """The end of a split word is an anchor of its own."""

    class Nothing(AnyWord):
        def whole(self, words: Any, after: str = "") -> tuple[str, ...]:
            return tuple(word for word in words if not word.startswith("long"))

    parameters = REPEATS | {
        "words": {"animal": ANIMALS, "place": [f"long{i}" for i in range(9)]},
        "text": "in {place} {A} {B} {C} and {A:again}",
    }
    with pytest.raises(MechanismError, match="keep 0 of 9 words of place whole, 1 are needed"):
        template(parameters).rows(Nothing(), 1)
    row = template(parameters, split=["place"]).rows(Nothing(), 1)[0]
    ((start, stop),) = row.base.spans["place"]
    assert dict(row.base.anchors)["word_0"] == start
    assert dict(row.base.anchors)["word_1"] == stop


def test_words_come_from_a_file_beside_the_spec(tmp_path: Path) -> None:
    """One word per line, or JSONL with columns; the key of a measurement contains the hash of the file's
    content."""
    (tmp_path / "words.txt").write_text("\n".join(["", *ANIMALS, ""]))
    (tmp_path / "countries.jsonl").write_text(
        "".join(f'{{"word": "Land{i}", "capital": "Town{i}"}}\n' for i in range(60))
    )
    path = tmp_path / "x.yaml"
    for file, text, answer in (
        ("words.txt", "so {w} was {w:again} or", "{w}"),
        ("countries.jsonl", "{w} has", "{w.capital}"),
    ):
        path.write_text(
            "mechanism: 1\ncircuit: x\ntask:\n  family: template\n"
            f"  words: {{w: {{file: {file}}}, x: names, y: names}}\n"
            f"  text: '{text} {{x}} of {{y}}'\n  answer: '{answer}'\n  rows: 20\n"
            "claims: {a: {kind: accuracy, at_least: 0.5}}\n"
        )
        task = load(path).task
        assert len(task.rows(AnyWord(), 20)) == 20
        kept = task.settings.model_dump(mode="json", context=BY_CONTENT)
        assert set(kept["words"]["w"]) == {"sha256"}
        again = Template(TemplateParameters.model_validate(kept))
        assert again.rows(AnyWord(), 20) == task.rows(AnyWord(), 20)


def test_settings_come_back_from_json() -> None:
    """The runner rebuilds a measurement's task from its settings, with the same rows."""
    for parameters in (REPEATS, CAPITALS):
        task = template(parameters)
        again = Template(TemplateParameters.model_validate(task.settings.model_dump(mode="json")))
        assert again.pairs(AnyWord(), 20) == task.pairs(AnyWord(), 20)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn", "Zl", "Zp"]), max_size=12)
        | st.integers(-99, 99)
        | st.booleans(),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z]{1,5}|[0-9]{1,3}|true|null", fullmatch=True), inner, max_size=3),
        max_leaves=6,
    )
)  # fmt: skip
def test_task_settings_written_as_yaml_read_back(value: Any) -> None:
    """Braces, colons, numbers as text and words that YAML would read otherwise are quoted."""
    assert parse(f"task: {flow(value)}\n", Path("x.yaml")).value == {"task": value}


def test_the_settings_of_a_template_read_back_from_a_discovered_spec() -> None:
    """Texts with slots included."""
    for parameters in (REPEATS, CAPITALS):
        settings = template(parameters).settings
        written = parse(flow(settings.model_dump(mode="json")), Path("x.yaml")).value
        assert TemplateParameters.model_validate(written) == settings


# -- what cannot be meant

HEAD = """mechanism: 1
circuit: x
task:
  family: template
  words:
    animal: [a1, a2, a3, a4, a5, a6, a7, a8, a9]
  slots: {A: animal, B: animal, C: animal}
  text: "so {A} {B} {C} and {A:again}"
  answer: "{B}"
  source: {redraw: [B]}
  variables:
    successor:
      source: {redraw: [B]}
      target: "{source.B}"
  rows: 40
claims: {a: {kind: accuracy, at_least: 0.5}}
"""

WRONG = {
    "unknown slot": ("{B} {C} and", "{D} {C} and", "x.yaml:8: task.text: unknown slot 'D'; valid: A, B, C"),
    "slot not used": ("{B} {C} and", "{B} and", "x.yaml:8: task.text: lacks slot C; a text has every slot"),
    "stray brace": ("so {A}", "so {A {A}", "x.yaml:8: task.text: '{' is unpaired; a slot is {A}, {A:position}"),
    "no slot": ("so {A}", "so {A!} {A}", "x.yaml:8: task.text: {A!} is not a slot; a slot is"),
    "space at the end": ('{A:again}"', '{A:again} "', "x.yaml:8: task.text: begins or ends with a space"),
    "reserved": ("A:again", "A:last", "x.yaml:8: task.text: position 'last' has a meaning of its own"),
    "a slot's name": ("A:again", "A:B", "x.yaml:8: task.text: position 'B' is the name of a slot"),
    "twice": ("so {A}", "so {A:again}", "x.yaml:8: task.text: position 'again' is named twice"),
    "no column": ("A:again", "A.colour", "x.yaml:8: task.text: slot A has no column 'colour'; there are none"),
    "source in a text": ("A:again", "source.A", "x.yaml:8: task.text: {source.A} has no meaning in a text"),
    "empty mark": ("so {A}", "[[x: ]] {A}", "x.yaml:8: task.text: position 'x' marks nothing"),
    "unknown list": ("C: animal", "C: animals", "x.yaml:7: task.slots.C: no list 'animals'; did you mean 'animal'?"),
    "slot called source": ("C: animal", "C: animal, source: animal",
        "x.yaml:7: task.slots.source: 'source' has a meaning of its own"),
    "slot with a space": ("C: animal", "'C D': animal",
        "x.yaml:7: task.slots.C D: 'C D' is not a valid name of a slot"),
    "unknown answer": ('answer: "{B}"', 'answer: "{D}"',
        "x.yaml:9: task.answer: unknown slot 'D'; valid: A, B, C, again"),
    "two words": ('answer: "{B}"', 'answer: "{B} {C}"',
        "x.yaml:9: task.answer: '{B} {C}' must be one word, or one {slot}"),
    "source's answer": ('answer: "{B}"', 'answer: "{source.B}"',
        "x.yaml:9: task.answer: {source.B} has no meaning here"),
    "no answer": ('answer: "{B}"', "options: []", "x.yaml:8: task.text: needs an answer: what comes next"),
    "always right": ('answer: "{B}"', "answer: yes", "x.yaml:9: task.answer: guessing is always right"),
    "one option": ("  rows:", "  options: ['{B}']\n  rows:", "x.yaml:15: task.options: guessing is always right"),
    "unknown redraw": ("{redraw: [B]}\n  variables", "{redraw: [D]}\n  variables",
        "x.yaml:10: task.source.redraw: unknown slot 'D'; valid: A, B, C, again"),
    "nothing changed": ("{redraw: [B]}\n  variables", "{}\n  variables",
        "x.yaml:10: task.source: names no difference; needs one of redraw, set, swap, text: other"),
    "changed twice": ("{redraw: [B]}\n  variables", "{redraw: [B], swap: [A, B]}\n  variables",
        "x.yaml:10: task.source.swap: B is changed twice"),
    "swap of one": ("{redraw: [B]}\n  variables", "{swap: [B]}\n  variables",
        "x.yaml:10: task.source.swap: takes two slots or more"),
    "swap of an occurrence": ("{redraw: [B]}\n  variables", "{swap: [B, again]}\n  variables",
        "x.yaml:10: task.source.swap: again is one occurrence"),
    "other text": ("{redraw: [B]}\n  variables", "{text: other}\n  variables",
        "x.yaml:10: task.source.text: other: needs every text in an inner list"),
    "unknown key": ("{redraw: [B]}\n  variables", "{redrw: [B]}\n  variables",
        "x.yaml:10: task.source: unknown key 'redrw'; did you mean 'redraw'?"),
    "unknown key of a text": ('text: "so {A} {B} {C} and {A:again}"', "texts: [{text: a, answr: x}]",
        "x.yaml:8: task.texts.0: unknown key 'answr'; did you mean 'answer'? valid: answer, text"),
    "no list": ("{redraw: [B]}\n  variables", "{redraw: B}\n  variables",
        "x.yaml:10: source.redraw: must be a list, got 'B'"),
    "no target": ('target: "{source.B}"', 'target: "{B}"',
        "x.yaml:14: task.variables.successor.target: {B} is the base's own answer"),
    "unknown target": ('target: "{source.B}"', 'target: "{source.D}"',
        "x.yaml:14: task.variables.successor.target: unknown slot 'D'; valid: A, B, C, again"),
    "unknown split": ("  rows:", "  split: [D]\n  rows:", "x.yaml:15: task.split.0: unknown slot 'D'; valid: A, B, C"),
    "split answer": ("  rows:", "  split: [C]\n  rows:",
        "x.yaml:9: task.answer: {B} may be of several tokens (split), and an answer is one"),
    "options without the answer": ("  rows:", "  options: [a1, a2]\n  rows:",
        "x.yaml:15: task.options: the answer may be 'a3', which is none of them"),
    "both texts": ("  rows:", "  texts: ['{A} {B} {C} {A:again}']\n  rows:",
        "x.yaml:3: task: needs one of text, texts"),
    "texts no list": ("  text: ", "  texts: ", "x.yaml:8: task.texts: takes a list of texts"),
    "word twice": ("a2", "a1", "x.yaml:6: task.words.animal: 'a1' appears twice"),
    "a number": ("a2", "2",
        "x.yaml:6: task.words.animal: word 2 is 2, which YAML does not read as text; put it in quotes"),
    "too few words": ("a4, a5, a6, a7, a8, a9", "",
        "x.yaml:6: task.words.animal: has 3 words; 4 are needed, 3 for slot A, B, C and 1 for a source"),
    "no such list": ("[a1, a2, a3, a4, a5, a6, a7, a8, a9]", "nams",
        "x.yaml:6: task.words.animal: no list 'nams'; did you mean 'names'?"),
    "no such file": ("[a1, a2, a3, a4, a5, a6, a7, a8, a9]", "{file: w.txt}",
        "x.yaml:6: task.words.animal.file: no file w.txt; there are none"),
    "too few rows": ("rows: 40", "rows: 400",
        "x.yaml:15: task.rows: 400 different prompts are requested, but these words make only 260 (half of "
        "all prompts belongs to stream rows); add words, or lower rows"),
}  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "expected"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_an_error_of_one_line(
    tmp_path: Path, right: str, wrong: str, expected: str
) -> None:
    """The line has file, line number, key, mistake and valid choices."""
    assert HEAD.count(right) >= 1
    path = tmp_path / "x.yaml"
    path.write_text(HEAD.replace(right, wrong, 1))
    with pytest.raises(SpecErrors) as problem:
        load(path, Path("x.yaml"))
    assert str(problem.value).startswith(expected)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.txt", b" \n", "w.txt: has no lines"),
        ("w.txt", b"ab\n\xff\n", "w.txt:2: is not UTF-8 text"),
        ("w.txt", b"a\nb\na\n", "w.txt:3: 'a' appears twice"),
        ("w.jsonl", b'{"word": "a"}\n{"wrd": "b"}\n', "w.jsonl:2: key 'word' is missing, as in {"),
        ("w.jsonl", b'{"word": "a", "x": null}\n', "w.jsonl:1: null is not a word"),
        ("w.jsonl", b'{"word": "a", "x": 3}\n', "w.jsonl:1: x must be a text that is not empty"),
        ("w.jsonl", b'{"word": "a", "x y": "b"}\n', "w.jsonl:1: key 'x y': use letters, digits"),
        ("w.jsonl", b'{"word": "a", "x": "b"}\n{"word": "c"}\n', "w.jsonl:2: 'c' has the columns none"),
        ("w.jsonl", b"{\n", "w.jsonl:1: is not JSON; a line is an object, as in {"),
    ],
)  # fmt: skip
def test_a_bad_file_of_words_is_one_line(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    """The error has the spec's line and the file's."""
    (tmp_path / name).write_bytes(content)
    path = tmp_path / "x.yaml"
    path.write_text(HEAD.replace("[a1, a2, a3, a4, a5, a6, a7, a8, a9]", f"{{file: {name}}}"))
    with pytest.raises(SpecErrors) as problem:
        load(path, Path("x.yaml"))
    assert str(problem.value).startswith(f"x.yaml:6: task.words.animal: {says}")
    assert "\n" not in str(problem.value)


def test_the_spec_without_mistakes_loads(tmp_path: Path) -> None:
    """So each mistake is an error for the stated reason."""
    (tmp_path / "x.yaml").write_text(HEAD)
    assert load(tmp_path / "x.yaml").task.positions == ("last", "A", "B", "C", "again")


def test_too_few_words_for_the_tokenizers_name_the_list_and_the_words() -> None:
    """The error is one line."""

    class Few(AnyWord):
        def whole(self, words: Any, after: str = "") -> tuple[str, ...]:
            return tuple(w for w in words if w in ANIMALS[:3])

    with pytest.raises(MechanismError) as problem:
        template(REPEATS).rows(Few(), 1)
    assert str(problem.value) == (
        "task template: the tokenizers keep 3 of 12 words of animal whole, 4 are needed (not whole: "
        "animal3, animal4, animal5, animal6, animal7, animal8, animal9, animal10, ...); use other "
        "words or a tokenizer that knows these"
    )


@settings(max_examples=200, deadline=None)
@given(st.text("{}[]:.AB x", max_size=20))
def test_any_text_is_a_pattern_or_an_error_of_one_line(text: str) -> None:
    """A text with slots is written with their words, or refused in one line."""
    try:
        pattern = parse_pattern(text, {"A": (), "B": ("x",)})
    except ValueError as problem:
        assert "\n" not in str(problem)  # noqa: PT017
        return
    written = pattern.write(lambda word, names: f"<{word.slot}>", lambda slot: False)
    slots = [piece.word.slot for piece in pattern.pieces if piece.word]
    assert written.text.count("<A>") == slots.count("A")
    for name, ((start, stop),) in written.spans.items():
        assert name == "last" or written.text[start:stop].strip()
