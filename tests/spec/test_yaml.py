"""YAML as plain data, where every key knows its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.errors import SpecError
from pytest_mechanism.spec import yaml
from pytest_mechanism.spec.find import is_spec
from pytest_mechanism.spec.yaml import MAX_BYTES, MAX_DEPTH, MAX_KEYS, parse, read

SHOWN = Path("x.yaml")


def parsed(text: str) -> object:
    return parse(text, SHOWN).value


def refused(text: str) -> str:
    with pytest.raises(SpecError) as problem:
        parse(text, SHOWN)
    return str(problem.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("999999999999999999", 999999999999999999),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e-3", 0.001),
        ("-2.5E+3", -2500.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("True", "True"),
        ("2020-01-01", "2020-01-01"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("0o17", "0o17"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("nan", "nan"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("''", ""),
        ("|\n  1\n", "1\n"),
        (">-\n  a\n  b\n", "a b"),
        ("a b", "a b"),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    """A plain scalar is a number, a truth value or nothing only where it looks like one."""
    result = parsed(f"k: {text}\n")["k"]
    assert (type(value), value) == (type(result), result)


@pytest.mark.parametrize(
    ("key", "value"),
    [("3", 3), ("'3'", "3"), ("true", "true"), ("3.0", "3.0"), ("null", "null"), ("on", "on")],
)
def test_a_key_is_a_word_or_a_whole_number(key: str, value: object) -> None:
    """Keys are words as written, or whole numbers; no key is true, null or a fraction."""
    (result,) = parsed(f"{key}: 1\n")
    assert (type(value), value) == (type(result), result)


TEXT = """\
# a comment
a: 1

b:
  c: [x,
      y]
  d:
    - p
    - q: {r: 1,
          s: 2}
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("a",), 2),
        (("b",), 4),
        (("b", "c"), 5),
        (("b", "c", 0), 5),
        (("b", "c", 1), 6),
        (("b", "d", 0), 8),
        (("b", "d", 1), 9),
        (("b", "d", 1, "q", "s"), 10),
        (("b", "d", 1, "q", "nowhere", "at", "all"), 9),
        (("nowhere",), 1),
        ((), 1),
    ],
)
def test_every_value_knows_its_line(where: tuple[str | int, ...], line: int) -> None:
    """The line is that of a value's key or item, or of the nearest thing around it."""
    assert line == parse(TEXT, SHOWN).line(where)


def test_a_long_list_is_quoted_by_its_first_item_and_a_count() -> None:
    """In block and in flow style; what comes after it is quoted, and a long line up to its beginning."""
    lines = ["a:", "  text:", *(f"  - line {i}" for i in range(9)), "  most: 1"]
    lines += [
        "b: {text: [one,",
        *(f"  more {i}," for i in range(5)),
        "  last], of: 2}",
        f"c: {'x' * 999}",
    ]
    document = parse("\n".join(lines), Path("a.yaml"))
    assert document.quoted(("a",)) == [
        (1, "a:"), (2, "  text:"), (3, "  - line 0"), (None, "  ... and 8 more"), (12, "  most: 1"),
    ]  # fmt: skip
    quoted = document.quoted(("b",))
    assert quoted[:2] == [(13, "b: {text: [one,"), (None, "  ... and 6 more")]
    assert quoted[2:] == [(19, "  last], of: 2}")]
    assert len(document.quoted(("c",))[0][1]) < 250
    short = parse("a:\n- 1\n- 2\n- 3", Path("a.yaml"))
    assert short.quoted(("a",)) == [(1, "a:"), (2, "- 1"), (3, "- 2"), (4, "- 3")]


def test_a_block_reaches_to_the_last_line_of_what_is_in_it() -> None:
    """The excerpt of a value runs from its key to the last key or item inside it."""
    document = parse(TEXT, SHOWN)
    assert [document.block(w) for w in (("b",), ("a",), ("b", "c"))] == [(4, 10), (2, 2), (5, 6)]


def test_an_error_names_file_and_line() -> None:
    """An error at a value reads file:line: message."""
    assert str(parse(TEXT, SHOWN).error("is wrong", ("b", "c"))) == "x.yaml:5: is wrong"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1: is empty; the first key of a spec is 'mechanism: 1'"),
        ("# only a comment\n", "x.yaml:1: is empty; the first key of a spec is 'mechanism: 1'"),
        ("a: 1\nb: &x 1\n", "x.yaml:2: anchor &x: anchors are not allowed, write the value out"),
        ("a: 1\nb: &x [1]\n", "x.yaml:2: anchor &x: anchors are not allowed, write the value out"),
        ("a: 1\nb: *x\n", "x.yaml:2: alias *x: aliases are not allowed, write the value out"),
        ("a:\n  <<: {b: 1}\n", "x.yaml:2: merge key '<<' is not allowed, write the keys out"),
        ("a: !!int 1\n", "x.yaml:1: tag tag:yaml.org,2002:int: tags are not allowed"),
        ("a: !x [1]\n", "x.yaml:1: tag !x: tags are not allowed"),
        ("a: !!set {x}\n", "x.yaml:1: tag tag:yaml.org,2002:set: tags are not allowed"),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: key 'a' appears twice, first on line 1"),
        ("h: {1: a, +1: b}\n", "x.yaml:1: key 1 appears twice, first on line 1"),
        ("? [a]\n: 1\n", "x.yaml:1: a key must be a word or a whole number"),
        ("? {a: 1}\n: 1\n", "x.yaml:1: a key must be a word or a whole number"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: holds a second YAML document; a file has one spec"),
        ("a: 010\n", "x.yaml:1: 010 is not a valid number"),
        ("a: 1e999\n", "x.yaml:1: 1e999 is too large a number"),
        ("\na: b\x00\n", "x.yaml:2: is not valid YAML: character #x0000 is not allowed"),
        ('a: "\\U00110000"\n', "x.yaml:1: is not valid YAML: a number in it is out of range"),
        ('a: "\\UFFFFFFFF"\n', "x.yaml:1: is not valid YAML: a number in it is out of range"),
        ("a: [1\nb: 2\n", "x.yaml:2: is not valid YAML: expected ',' or ']', but got ':'"),
    ],
)
def test_what_lies_outside_the_subset_is_refused(text: str, message: str) -> None:
    """Anchors, aliases, merges, tags, repeated keys and the like are named with their line."""
    assert message == refused(text)


@pytest.mark.parametrize(
    ("text", "least", "message"),
    [
        ("[" * 100_000, MAX_DEPTH, f"is nested deeper than {MAX_DEPTH} levels"),
        ("a: " + "{a: " * 100_000, MAX_DEPTH, f"is nested deeper than {MAX_DEPTH} levels"),
        ("[" + "1," * (MAX_KEYS + 9) + "]", MAX_KEYS, f"has more than {MAX_KEYS:,} values"),
        ("a: " + "9" * 19, 0, f"{'9' * 19} is not a valid number"),
        ("a: " + "9" * 9999, 0, f"{'9' * 40} is not a valid number"),
        ("%YAML 1." + "1" * 5000 + "\n---\na: 1\n", 0, "are not allowed, remove them"),
    ],
    ids=["lists", "mappings", "values", "19 digits", "9999 digits", "version"],
)
def test_what_would_cost_too_much_is_refused_before_it_costs(
    text: str, least: int, message: str
) -> None:
    """Nesting, count of values and length of numbers have limits."""
    assert (len(text) > least, refused(text).endswith(message)) == (True, True)


def test_nesting_up_to_the_limit_is_read() -> None:
    """The limit on nesting is the deepest level that is allowed."""
    text = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    value = parsed(text)
    for _ in range(MAX_DEPTH):
        (value,) = value
    assert value == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("mechanism: 1\n".encode("utf-16"), "x.yaml:1: is not UTF-8; save it as UTF-8"),
        (b"a: 1\nb: \xe9\n", "x.yaml:2: is not UTF-8; save it as UTF-8"),
        (b" " * 2_000_000, f"x.yaml:1: is larger than {MAX_BYTES:,} bytes, which no spec needs"),
        (None, "x.yaml:1: cannot be read: No such file or directory"),
    ],
    ids=["utf-16", "latin-1", "2 MB of spaces", "missing"],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, raw: bytes | None, message: str
) -> None:
    """Encoding, size and absence are named with the file as the user knows it."""
    path = tmp_path / "x.yaml"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(SpecError) as problem:
        read(path, SHOWN)
    assert message == str(problem.value)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    """A file that Notepad saved is the same spec."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfmechanism: 1\r\ncircuit: x\r\n")
    document = read(path)
    assert (document.value, document.line(("circuit",))) == ({"mechanism": 1, "circuit": "x"}, 2)


@pytest.mark.parametrize(
    ("raw", "ours"),
    [
        (b"mechanism: 1\n", True),
        (b"\xef\xbb\xbfmechanism: 1\n", True),
        (b"# c\n\n  # d\r\n---\nmechanism: 1\n", True),
        (b"mechanism : 1\n", True),
        (b"mechanism: 7\n", True),
        (b"circuit: x\nmechanism: 1\n", True),
        (b"mechanisms: 1\n", False),
        (b"  mechanism: 1\n", True),
        (b"", False),
        (b"\x00\x01\x02", False),
        (b" " * 60_000 + b"mechanism: 1\n", True),
        (b"a:\n  mechanism: 1\n", False),
    ],
)
def test_a_spec_is_known_by_its_keys(tmp_path: Path, raw: bytes, ours: bool) -> None:
    """A YAML file is ours if ``mechanism`` is a key of its outermost mapping."""
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    assert ours == is_spec(path)


def test_a_missing_file_is_no_spec(tmp_path: Path) -> None:
    """Asking about a file that is not there is no error."""
    assert not is_spec(tmp_path / "none.yaml")
    for coding in ("utf-16", "utf-16-be", "utf-32"):  # with a mark; what Windows' shells write
        mark = "" if coding != "utf-16-be" else "\ufeff"
        (tmp_path / "wide.yaml").write_bytes((mark + "mechanism: 1\n").encode(coding))
        assert is_spec(tmp_path / "wide.yaml"), coding


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda x: float(f"{x:.6e}"))
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=8,
)


def spelled(value: object) -> str:
    """Data in flow style, texts quoted."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(spelled, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}": {spelled(v)}' for k, v in value.items()) + "}"
    return repr(value)


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_plain_data_comes_back_as_written(value: object) -> None:
    """Mappings, lists, texts and numbers are read as they were written."""
    assert value == parsed(spelled({"k": value}))["k"]


def test_events_are_read_without_pyyaml_building_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """No constructor of PyYAML runs, so no tag can name one."""
    for loader in (yaml.yaml.SafeLoader, yaml.yaml.Loader):
        monkeypatch.setattr(loader, "get_data", None)
        monkeypatch.setattr(loader, "construct_document", None)
    assert parsed("a: [1, b]\n") == {"a": [1, "b"]}
