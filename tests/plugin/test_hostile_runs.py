"""A hostile spec, name or claim in a whole run: nothing of it reaches a terminal or a file as more
than text."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from pytest_mechanism.cli import main

EVIL = "\x1b[31m\u202e\r<b>|`x`"
SEEN = r"\x1b[31m\u202e"

LOUD = """
import json, sys
from pathlib import Path
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.plugin.items import ClaimItem
import fixed_kind

EVIL = {evil!r}

def judge(self, case, measured):
    print("out", EVIL)
    print("err", EVIL, file=sys.stderr)
    raise {what}(EVIL + "\\nFAKED: line")

fixed_kind.Fixed.judge = judge
"""


@pytest.fixture
def hostile(project, monkeypatch):
    project.spec("good: {on: base}")
    project.values(good=0.9)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    return project


def harmless(text: str) -> bool:
    """No control character, no turn of direction; lines are what pytest makes of them."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("error", ["MechanismError", "RuntimeError", "KeyError"])
def test_a_claim_that_says_hostile_things(hostile, error):
    """Its error, its output and a bug's traceback are shown as text, in every report."""
    hostile.pytester.makeconftest(LOUD.format(evil=EVIL, what=error))

    result = hostile.run("-rA", "--junitxml", "unit.xml", "--mechanism-json", "out.json")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert harmless(result.stdout.str())
    assert SEEN in result.stdout.str()
    assert not any(line.startswith("FAKED") for line in result.outlines)
    xml = (hostile.path / "unit.xml").read_text("utf-8")
    assert harmless(xml)
    assert ET.fromstring(xml).find(".//failure") is not None  # noqa: S314
    assert harmless((hostile.path / "out.json").read_text("utf-8"))
    reason = json.loads((hostile.path / "out.json").read_text("utf-8"))["claims"][0]["reason"]
    assert "31m" in reason
    assert harmless((hostile.path / "summary.md").read_text("utf-8"))
    assert "<b>" not in (hostile.path / "summary.md").read_text("utf-8")


def test_an_excerpt_of_a_hostile_spec(hostile):
    """YAML may hold marks that turn the direction of writing; an excerpt shows them as codes."""
    path = hostile.path / "circuit.yaml"
    path.write_text(path.read_text().replace("on: base", "on: base, at_least: 0.95 ")
                    .replace("}\n", "} # \u202e\u2066 pass\n"), encoding="utf-8")  # fmt: skip

    result = hostile.run("-rA", "-v")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert harmless(result.stdout.str())
    result.stdout.fnmatch_lines(["*| *# \\u202e\\u2066 pass"])


@pytest.mark.parametrize("name", ["a\x1b[31mb.yaml", "x\u202e/circuit.yaml", "a\nok: b.yaml"])
def test_a_spec_with_a_hostile_name_is_not_read(hostile, name):
    """Neither its own name nor that of a folder reaches a node id."""
    path = hostile.path / name
    path.parent.mkdir(exist_ok=True)
    (hostile.path / "circuit.yaml").rename(path)

    result = hostile.run("-rA", "-v", "--mechanism-json", "out.json")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert harmless(result.stdout.str())
    result.stdout.fnmatch_lines(["*characters that are not printable; rename it"])


def test_commands_show_hostile_names_as_text(hostile, capsys, monkeypatch):
    """Paths that are named, found and complained about."""
    monkeypatch.chdir(hostile.path)
    folder = hostile.path / "x\x1b[31m\nok"
    folder.mkdir()
    (hostile.path / "circuit.yaml").rename(folder / "circuit.yaml")
    (folder / "bad.yaml").write_text("mechanism: 1\n")
    codes = [
        main(["lint", str(folder)]),
        main(["lint", str(folder / "gone\u202e.yaml")]),
        main(["doctor", str(folder / "circuit.yaml"), "--model-pair", f"{folder},zoo:ft"]),
        main(["lint", str(folder / "bad.yaml"), "--power"]),
    ]
    text = capsys.readouterr()
    assert codes == [2, 2, 2, 2]
    assert harmless(text.out + text.err)
    assert r"x\x1b[31m" in text.err
    assert not any(line.startswith("ok") for line in (text.out + text.err).splitlines())


def test_a_label_is_letters_digits_and_three_signs(hostile):
    """Labels appear in folder names and headings."""
    result = hostile.run(pair=f"{EVIL}=./base,./ft")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert harmless("".join(result.errlines))
    assert "cannot be a label" in "".join(result.errlines)
