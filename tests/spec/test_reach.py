"""lint reports a spec that no run can meet, and accepts a spec that some run can meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mechanism.spec.load import SpecErrors, load

SPEC = """mechanism: 1
circuit: c
applies_to: {applies}
task: {{family: entity_tracking, boxes: 2, rows: 20}}
claims:
  right: {{kind: accuracy, at_least: 0.5}}
"""


def lint(tmp_path: Path, applies: str) -> str:
    """The line that lint says, or nothing."""
    path = tmp_path / "x.yaml"
    path.write_text(SPEC.format(applies=applies))
    try:
        load(path, Path("x.yaml"))
    except SpecErrors as problem:
        return str(problem)
    return ""


@pytest.mark.parametrize(
    ("applies", "says"),
    [
        ("{labels: []}", "labels: is empty, so that no run can meet it"),
        ("{labels: ['']}", "a label has at least one character"),
        ("{labels: [base]}", "only 'base', and a pair has two different labels"),
        ("{labels: [base, base]}", "only 'base', and a pair has two different labels"),
        ("{labels: [base, 'my ft']}", "no run can have a label like 'my ft'"),
        ("{labels: ['*', 'hf:org/x']}", "and not '/'"),
        ("{labels: ['-x*']}", "a label begins with a letter or a digit"),
        (f"{{labels: ['{'a' * 101}*']}}", "a label has 100 characters at most"),
        ("{shape: {n_heads: 0}}", "no model has n_heads = 0"),
        ("{shape: {d_vocab: -3}}", "no model has d_vocab = -3"),
        ("{shape: {n_heads: 4, n_kv_heads: 3}}", "no model shares 3 key-value heads among 4 heads"),
        ("{roles: ['a b']}", "no run has a checkpoint for the role 'a b'"),
        ("{roles: [pair]}", "no run has a checkpoint for the role 'pair'"),
    ],
)
def test_what_no_run_can_meet_is_one_line(tmp_path: Path, applies: str, says: str) -> None:
    """With the line of the key."""
    text = lint(tmp_path, applies)

    assert says in text
    assert text.startswith("x.yaml:3: applies_to")


@pytest.mark.parametrize(
    "applies",
    [
        "{}",
        "{labels: [base, ft]}",
        "{labels: [ft*]}",
        "{labels: ['v?']}",
        "{labels: ['[ab]x']}",
        "{labels: ['*']}",
        "{labels: [v1.2-rc_3, x]}",
        "{shape: {n_heads: 4, n_kv_heads: 2}}",
        "{roles: [control]}",
    ],
)
def test_what_some_run_can_meet_is_fine(tmp_path: Path, applies: str) -> None:
    assert lint(tmp_path, applies) == ""
