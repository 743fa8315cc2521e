"""Ways to write a file: a spec is collected exactly when `lint` accepts it, an unreadable one is an
error for both, and other people's YAML in the same tree is passed over by both.

All files lie in one tree, each in a folder of its own, and each tool looks at the tree once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pytest_mechanism.cli import main
from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.specs import read_specs
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.find import is_spec
from pytest_mechanism.spec.yaml import MAX_BYTES

GOOD = """\
mechanism: 1
circuit: c
task: {family: entity_tracking, boxes: 2, rows: 20}
claims:
  right: {kind: accuracy, at_least: 0.5}
"""
FLOW = (
    "{mechanism: 1, circuit: c, task: {family: entity_tracking, boxes: 2, rows: 20}, "
    "claims: {right: {kind: accuracy, at_least: 0.5}}}\n"
)
JSON = json.dumps(
    {
        "mechanism": 1,
        "circuit": "c",
        "task": {"family": "entity_tracking", "boxes": 2, "rows": 20},
        "claims": {"right": {"kind": "accuracy", "at_least": 0.5}},
    }
)
HUGE = "#" + "x" * 1000 + "\n"


def text(content: str | bytes, name: str = "x.yaml") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def link(to: str, *others: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "x.yaml").symlink_to(to)
        for other in others:
            other(folder)

    return make


def below(folder_name: str, content: str = GOOD) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / folder_name).mkdir(parents=True)
        (folder / folder_name / "x.yaml").write_text(content)

    return make


def both(*makers: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for maker in makers:
            maker(folder)

    return make


def linked_folder(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "real" / "y.txt").write_text(GOOD)
    (folder / "real" / "x.yaml").symlink_to("y.txt")
    (folder / "again").symlink_to("real")


def venv(folder: Path) -> None:
    below(".env")(folder)
    (folder / ".env" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (folder / ".env" / "bin").mkdir()
    (folder / ".env" / "bin" / "activate").touch()


BESIDE = text(GOOD, "good.yaml")
"""A spec that nothing is wrong with."""

SPECS = {
    "plain": text(GOOD),
    "yml": text(GOOD, "x.yml"),
    "YAML in capitals": text(GOOD, "x.YAML"),
    "Yml in mixed letters": text(GOOD, "x.Yml"),
    "hidden file": text(GOOD, ".x.yaml"),
    "two suffixes": text(GOOD, "x.test.yaml"),
    "space in the name": text(GOOD, "a b.yaml"),
    "brackets in the name": text(GOOD, "a[b].yaml"),
    "umlaut in the name": text(GOOD, "größe.yaml"),
    "dash first": text(GOOD, "-x.yaml"),
    "quoted keys": text(GOOD.replace("mechanism:", '"mechanism":').replace("claims:", '"claims":')),
    "single quotes": text(GOOD.replace("mechanism:", "'mechanism':")),
    "escapes in a key": text(GOOD.replace("mechanism:", '"mech\\x61nism":')),
    "unicode escapes": text(GOOD.replace("mechanism:", '"\\u006dechanism":')),
    "space before the colon": text(GOOD.replace("mechanism:", "mechanism  :")),
    "a space on every line": text("".join(f" {line}\n" for line in GOOD.splitlines())),
    "four spaces on every line": text("".join(f"    {line}\n" for line in GOOD.splitlines())),
    "explicit key": text(GOOD.replace("mechanism: 1", "? mechanism\n: 1")),
    "explicit key, comments": text(GOOD.replace("mechanism: 1", "? mechanism # a\n# b\n: 1")),
    "explicit quoted key": text(GOOD.replace("mechanism: 1", '? "mechanism"\n: 1')),
    "explicit block key": text(GOOD.replace("mechanism: 1", "? |-\n  mechanism\n: 1")),
    "value on the next line": text(GOOD.replace("mechanism: 1", "mechanism:\n  1")),
    "flow style": text(FLOW),
    "flow style over lines": text(FLOW.replace(", ", ",\n ")),
    "JSON": text(JSON),
    "flow style after a marker": text("--- " + FLOW),
    "document marker": text("---\n" + GOOD),
    "document end": text(GOOD + "...\n"),
    "marker with a comment": text("--- # the spec\n" + GOOD),
    "byte order mark": text(b"\xef\xbb\xbf" + GOOD.encode()),
    "Windows lines": text(GOOD.replace("\n", "\r\n")),
    "old Mac lines": text(GOOD.replace("\n", "\r")),
    "no last line break": text(GOOD.rstrip()),
    "blank lines first": text("\n\n   \n" + GOOD),
    "comment first": text("# a spec\n\n  # and more\n" + GOOD),
    "64 KiB of comment": text("#" + "x" * 65_536 + "\n" + GOOD),
    "300 KB of comments": text(HUGE * 300 + GOOD),
    "comment without a colon key": text("# mechanism\n" + GOOD),
    "link to a spec": link("y.txt", text(GOOD, "y.txt")),
    "link to another folder": link("../plain/x.yaml"),
    "link of links": both(link("z"), lambda f: (f / "z").symlink_to("y"), text(GOOD, "y")),
    "linked folder": linked_folder,
    "deep": below("a/b/c"),
    "package": both(text(GOOD), text("", "__init__.py")),
}

ERRORS = {
    "another first key": text(GOOD.replace("mechanism: 1\ncircuit: c", "circuit: c\nmechanism: 1")),
    "another version": text(GOOD.replace("1", "2", 1)),
    "no version": text(GOOD.replace("mechanism: 1\n", "")),
    "misspelt version": text(GOOD.replace("mechanism: 1", "mechansim: 1")),
    "misspelt claims": text(GOOD.replace("mechanism: 1\n", "mechanisms: 1\n").replace("claims", "clams")),
    "key in capitals": text(GOOD.replace("mechanism", "Mechanism")),
    "only the version": text("mechanism: 1\n"),
    "only claims with kinds": text("claims:\n  right: {kind: accuracy}\n"),
    "no claims": text(GOOD[: GOOD.index("claims")]),
    "tab first": text("\t" + GOOD),
    "tab inside": text(GOOD.replace("  right", "\tright")),
    "a flow left open": text(FLOW.rstrip()[:-1]),
    "a quote left open": text(GOOD.replace("c\n", '"c\n', 1)),
    "no colon": text(GOOD.replace("mechanism: 1", "mechanism 1")),
    "a template": text("{% if x %}\n" + GOOD + "{% endif %}\n"),
    "an anchor on the key": text("&a " + GOOD),
    "a tag": text("!!map\n" + GOOD),
    "a directive": text("%YAML 1.2\n---\n" + GOOD),
    "second document": text(GOOD + "---\n" + GOOD),
    "spec as second document": text("other: 1\n---\n" + GOOD),
    "empty first document": text("---\n---\n" + GOOD),
    "UTF-16": text(GOOD.encode("utf-16")),
    "UTF-16 without a mark": text(GOOD.encode("utf-16-le")),
    "Latin-1": text((GOOD + "# é\n").encode("latin-1")),
    "a null character": text(GOOD + "x: \0\n"),
    "the key twice": text("mechanism: 1\n" + GOOD),
    "too large": text(GOOD + HUGE * 600),
    "twins": both(text(GOOD, "x.yaml"), text(GOOD, "x.yml")),
    "twins in capitals": both(text(GOOD, "x.yaml"), text(GOOD, "x.YAML")),
    "link and file of one name": both(text(GOOD, "x.yml"), link("x.yml")),
    "hidden name": text(GOOD, "a\x1bb.yaml"),
    "hidden folder": both(BESIDE, below(".archive")),
    "hidden folder, deeper": both(BESIDE, below("a/.old/b")),
    "hidden folder alone": below(".archive"),
    "link to nowhere": both(BESIDE, link("gone.yaml")),
    "link to itself": both(BESIDE, link("x.yaml")),
    "pipe": both(BESIDE, lambda f: os.mkfifo(f / "x.yaml")),
    "device": both(BESIDE, link("/dev/zero")),
}  # fmt: skip

COMPOSE = "services:\n  db: {image: postgres}\nvolumes: {}\n"
OTHERS = {
    "empty": text(""),
    "docker-compose": text(COMPOSE),
    "docker-compose with the words": text(COMPOSE + "x-mechanism: SASL\nnetworks: {claims: {}}\n"),
    "GitHub workflow": text("name: ci\non: [push]\njobs:\n  a:\n    steps: [{run: 'mechanism: 1'}]\n"),
    "k8s": text("apiVersion: v1\nkind: Pod\nspec:\n  resources:\n    claims: [{name: gpu}]\n"),
    "k8s, documents": text("apiVersion: v1\nkind: A\n---\napiVersion: v1\nkind: B\nclaimsRef: {}\n"),
    "kafka": text("sasl:\n  mechanism: PLAIN\n  circuit: none\n"),
    "mkdocs": text("site_name: x\nmarkdown_extensions:\n  - a: {f: !!python/name:b.c }\n"),
    "own tags": text("Resources:\n  a: !Ref claims\n  b: !Sub '${mechanism}: 1'\n"),
    "helm": text("{{- if .Values.claims }}\nkind: Secret\n{{- end }}\n"),
    "helm values": text("auth:\n  mechanism: oauth\n  claims: {kind: x}\n"),
    "broken": text("a: [1, {claims: 2\n"),
    "a list": text("- mechanism: 1\n- claims: {}\n"),
    "a sentence": text("the mechanism: claims\n"),
    "text in a block": text("note: |\n  mechanism: 1\n  claims:\n    kind\n"),
    "other claims": text("claims: [sub, email]\nissuer: x\n"),
    "a comment": text("# mechanism: 1\nother: 1\n"),
    "a scalar": text("mechanism\n"),
    "an anchor": text("a: &claims {b: 1}\nc: *claims\n"),
    "no YAML suffix": text(GOOD, "x.txt"),
    "JSON suffix": text(JSON, "x.json"),
    "backup": text(GOOD, "x.yaml~"),
    "no name": text(GOOD, ".yaml"),
    "bytes": text(bytes(range(256)) * 10),
    "link to nowhere": link("gone.yaml"),
    "pipe": lambda f: os.mkfifo(f / "x.yaml"),
    "tool's folder": below(".git"),
    "checkpoints of Jupyter": below(".ipynb_checkpoints"),
    "virtual environment": venv,
    "build folder": below("build"),
    "folder with a spec's name": lambda f: (f / "x.yaml").mkdir(),
    "others' hidden folder": below(".github", COMPOSE),
}  # fmt: skip

ROWS = {
    f"{kind}: {name}": maker
    for kind, rows in (("spec", SPECS), ("error", ERRORS), ("other", OTHERS))
    for name, maker in rows.items()
}

RECORDER = """
import json
seen = {"items": [], "errors": []}
def pytest_collectreport(report):
    if report.failed:
        seen["errors"].append(report.nodeid)
def pytest_collection_finish(session):
    seen["items"] = [item.nodeid for item in session.items]
def pytest_sessionfinish(exitstatus):
    seen["exit"] = int(exitstatus)
    open("seen.json", "w").write(json.dumps(seen))
"""


def row_of(path: str) -> str:
    return path.split("rows/")[1].partition("/")[0]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The rows' folders, and what each tool makes of the whole."""
    root = tmp_path_factory.mktemp("tree")
    (root / "recorder.py").write_text(RECORDER)
    (root / "pytest.ini").write_text("[pytest]\n")
    for kind, rows in (("spec", SPECS), ("error", ERRORS), ("other", OTHERS)):
        for name, make in rows.items():
            folder = root / "rows" / (name if kind == "spec" else f"{kind}, {name}")
            folder.mkdir(parents=True)
            make(folder)
    return root


@pytest.fixture(scope="module")
def collected(tree):
    """Row -> whether pytest collects it, says an error, or passes over it."""
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "recorder", "rows"],
        env={**os.environ, "PYTHONPATH": str(tree)}, cwd=tree, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in run.stdout + run.stderr
    observed = json.loads((tree / "seen.json").read_text())
    assert observed["exit"] == pytest.ExitCode.INTERRUPTED
    assert time.monotonic() - started < 100
    result = {row_of(item): "spec" for item in observed["items"]}
    return result | {row_of(item): "error" for item in observed["errors"]}


@pytest.fixture(scope="module")
def linted(tree):
    """Row -> whether lint accepts it, says an error, or passes over it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(tree), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["lint", "rows"]) == 2
    lines = out.getvalue().splitlines()
    assert all(": ok, 1 claims, 2 tests" in line for line in lines)
    result = {row_of(line): "spec" for line in lines}
    return result | {row_of(line): "error" for line in err.getvalue().splitlines()}


def test_the_table_is_long():
    assert len(ROWS) >= 100


@pytest.mark.parametrize("row", ROWS)
def test_a_file_is_collected_exactly_when_lint_accepts_it(tree, collected, linted, row):
    """And an error to both, or to neither; `doctor` reads what `lint` accepts."""
    kind, _, name = row.partition(": ")
    folder = name if kind == "spec" else f"{kind}, {name}"

    assert collected.get(folder, "other") == linted.get(folder, "other") == kind
    with contextlib.chdir(tree):
        problem = doctors(Path("rows", folder))
    assert problem == {"spec": "", "other": "has no spec"}.get(kind, problem)
    assert (problem == "") == (kind == "spec")


def doctors(folder: Path) -> str:
    """The error of `doctor` about the specs below a folder; empty if it reads them."""
    try:
        read = list(read_specs([folder], read_config(Namespace())))
    except MechanismError as problem:
        return "has no spec" if "has no spec" in str(problem) else str(problem)
    return "" if read else "none"


@pytest.mark.parametrize(
    "name", ["link to nowhere", "link to itself", "pipe", "device", "too large"]
)
def test_a_named_file_that_is_none_is_one_line_at_once(tree, capsys, name):
    """Never a hang: from lint exit code 2, and a pytest run that is not green."""
    path = tree / "rows" / f"error, {name}" / "x.yaml"

    assert main(["lint", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_hidden_folder_that_is_named_is_searched(tree, capsys):
    """So is one left out with --ignore not complained about."""
    assert main(["lint", str(tree / "rows" / "error, hidden folder" / ".archive")]) == 0
    assert capsys.readouterr().out.count(": ok, ") == 1


def test_other_peoples_files_cost_little(tmp_path, monkeypatch):
    """The parser stops at the first key of a large file with similar words, which is no spec."""
    path = tmp_path / "x.yaml"
    path.write_text("description: the mechanism\n" + "key: [claims, {a: 1}]\n" * (MAX_BYTES // 22))
    events = []
    parse = yaml.parse

    def counted(*arguments, **options):
        for event in parse(*arguments, **options):
            events.append(event)
            yield event

    monkeypatch.setattr(yaml, "parse", counted)

    assert not is_spec(path)

    assert 0 < len(events) < 10


def test_a_lost_spec_ends_the_run(pytester):
    """Beside a spec that is collected, and with nothing run."""
    both(BESIDE, below(".archive"))(pytester.path)

    result = pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-q")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [".archive/x.yaml:1: is a spec in a hidden folder, where pytest does not*"]
    )
    out = pytester.runpytest_inprocess(
        "-p", "no:hypothesispytest", "-q", "--ignore=.archive", "--collect-only"
    )
    assert out.ret == pytest.ExitCode.OK


def test_a_spec_that_is_named_does_not_answer_for_its_neighbours(pytester):
    """A file or node id on the command line is what the run is about."""
    both(BESIDE, below(".archive"), link("gone.yaml"))(pytester.path)

    result = pytester.runpytest_inprocess(
        "-p", "no:hypothesispytest", "-q", "--collect-only", "good.yaml"
    )

    assert result.ret == pytest.ExitCode.OK
