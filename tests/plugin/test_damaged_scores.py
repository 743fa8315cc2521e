"""A file of accepted scores that somebody damaged: one line, a red claim (1), `lint --power` 2."""

import json
import os

import pytest

from pytest_mechanism.cli import main
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.plugin.score_file import read_scores

ENTRY = '{"value": 0.5}'


def file(entries, more=""):
    return f'{{"mechanism_scores": 1, "scores": {{{entries}}}{more}}}'


DAMAGED = {
    "NaN": (file('"a.b": {"value": NaN}'), "NaN is no number"),
    "Infinity": (file('"a.b": {"value": 1, "interval": [0, Infinity]}'), "Infinity is no number"),
    "-Infinity": (file('"a.b": {"value": -Infinity}'), "-Infinity is no number"),
    "1e999": (file('"a.b": {"value": 1, "standard_error": 1e999}'), "1e999 is too large a number"),
    "a huge whole number": (file(f'"a.b": {{"value": {"9" * 400}}}'), "a.b has no finite value"),
    "thousands of digits": (file(f'"a.b": {{"value": {"9" * 9000}}}'), "4300 digits"),
    "a claim twice": (file(f'"a.b": {ENTRY}, "a.b": {ENTRY}'), "'a.b' stands twice"),
    "a key twice": (file('"a.b": {"value": 1, "value": 0.5}'), "'value' stands twice"),
    "scores twice": (file(f'"a.b": {ENTRY}', ', "scores": {}'), "'scores' stands twice"),
    "a byte order mark": ("\ufeff" + file(f'"a.b": {ENTRY}'), "BOM"),
    "more behind it": (file(f'"a.b": {ENTRY}') + "}", "Extra data"),
    "two of them": (file("") + file(""), "Extra data"),
    "half of it": (file(f'"a.b": {ENTRY}')[:-5], "Expecting"),
    "a truth value": (file('"a.b": {"value": true}'), "a.b has no finite value"),
    "null": (file('"a.b": null'), "a.b has no finite value"),
    "a list": (file('"a.b": [1]'), "a.b has no finite value"),
    "fingerprints": (file('"a.b": {"value": 1, "fingerprints": [1]}'), "a.b: fingerprints is"),
    "a setting": (file('"a.b": {"value": 1, "setting": 5}'), "a.b: setting is 5"),
    "versions": (file('"a.b": {"value": 1, "setting": {"versions": "2.1"}}'), "versions is"),
    "no version": (file("").replace(": 1", ": null"), "(version None)"),
    "definition": (file('"a.b": {"value": 1, "definition": 7}'), "a.b: definition is 7"),
    "a name": (file(f'"a": {ENTRY}'), "'a' is not CLAIM.ROLE"),
    "not UTF-8": (b'{"mechanism_scores": 1, "scores": {}, "x": "\xe9"}', "not UTF-8"),
    "conflict marks": ("<<<<<<< HEAD\n" + file("") + "\n=======\n", "Expecting value"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path, name):
    """The line says what is wrong."""
    content, says = DAMAGED[name]
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(MechanismError) as problem:
        read_scores(path)

    text = str(problem.value)
    assert text.startswith(f"{path}:1: is not a valid file of accepted scores (")
    assert says in text
    assert text.isprintable()


def test_a_file_of_a_later_release_is_not_damaged(tmp_path):
    """Whoever deletes it on our advice loses accepted scores."""
    path = tmp_path / "x.json"
    path.write_text(file(f'"a.b": {ENTRY}').replace(": 1", ": 2", 1))
    with pytest.raises(MechanismError, match=r"version 2, .* install the release") as problem:
        read_scores(path)
    assert "delete" not in str(problem.value)


def test_what_is_no_file_is_one_line_at_once(tmp_path):
    """A pipe would be waited for, and a link to nowhere is not the same as no scores."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("gone")
    for name, says in (
        ("pipe", "is a named pipe"),
        ("link", "is a link to a file that is missing"),
    ):
        with pytest.raises(MechanismError, match=says):
            read_scores(tmp_path / f"{name}.json")
    assert read_scores(tmp_path / "none.json") == {}


def test_a_damaged_file_is_red_in_a_run_and_2_in_lint(project, capsys, monkeypatch):
    """And is left as it is, by an update too."""
    path = project.spec("good")
    project.values(good=0.9)
    project.accept()
    entries = json.loads(project.score_file().read_text())["scores"]
    text = file(f'"good.ft": {json.dumps(entries["good.ft"])}, "good.ft": {ENTRY}')
    project.score_file().write_text(text)

    for arguments in ((), ("--snapshot-update",)):
        result = project.run("-q", *arguments)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*'good.ft' stands twice*"])
        result.stdout.no_fnmatch_line("*Traceback*")
        assert project.score_file().read_text() == text
    assert main(["lint", "--power", str(path)]) == 2
    assert "'good.ft' stands twice" in capsys.readouterr().err
