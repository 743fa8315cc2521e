"""What is written as YAML is read back as the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_mechanism.spec.write import flow
from pytest_mechanism.spec.yaml import parse

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["true", "null", "1e-3", "010", "<<", "*a", "&a", "!!str", "a: b", "a #b", "- a", "x\n---\ny",
     "'", '"', "\\", "\x1b[31m", "\u202e", "\x00", "{instruction}", "<user> {instruction}", "~", ""]
)  # fmt: skip
SCALARS = (
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(-1e6, 1e6, allow_nan=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(
            TEXTS | st.integers(0, 99), inside.filter(lambda v: v is not None), max_size=4
        )
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(VALUES)
@example({"0": 1, 0: 2})
@example(1e-7)
@example("a\u2028b\x85c")
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Texts of any kind, and numbers as numbers; on one printable line."""
    text = f"x: {flow(value)}\n"
    assert text[:-1].isprintable()
    assert parse(text, Path("x.yaml")).value == {"x": value}
