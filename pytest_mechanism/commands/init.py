"""``pytest-mechanism init``: the files of a project that gates its checkpoints: settings, workflow, first spec.

A file that exists is left as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit

from pytest_mechanism.commands.new import SCHEMA, claim_lines, load_text, parse_groups
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.files import write_text
from pytest_mechanism.registry import task_families

INI = """\
[pytest]
# the two checkpoints: the released one and the candidate
model_pair = base=./checkpoints/released,ft=./checkpoints/candidate
addopts = --mechanism-json=mechanism.json
testpaths = circuits
"""

UNKNOWN = (
    "'pytest-mechanism @ git+https://github.com/OWNER/pytest-mechanism@REF'  # write OWNER and REF"
)
"""What the workflow installs where nothing is known but a folder of this machine."""

WORKFLOW = """\
# runs on each push; see docs/gate-a-release.md of pytest-mechanism
name: mechanism
on:
  pull_request:
  push: {branches: [main]}
permissions: {contents: read}
jobs:
  gate:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v6
      # bring the two checkpoints to ./checkpoints/released and ./checkpoints/candidate here
      - uses: actions/setup-python@v6
        with: {python-version: "3.11"}
      - run: pip install torch --index-url https://download.pytorch.org/whl/cpu
      - run: pip install {package}
      - run: pytest circuits
      - if: always()
        uses: actions/upload-artifact@v6
        with: {name: mechanism, path: mechanism.json}
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "init",
        help="write the files of a new project: settings, workflow, a first spec",
        description="Write pytest.ini, a GitHub workflow, the schema for editors and a first spec in FOLDER. "
        "Files that exist are left as they are.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="(default: .)"
    )
    parser.add_argument(
        "--task",
        default="induction",
        metavar="FAMILY",
        help="task of the first spec (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write what is missing; always 0.

    Raises:
        MechanismError: a file cannot be written, or the task needs settings that only `new` asks for.
    """
    folder: Path = arguments.folder
    families = task_families()
    if arguments.task not in families:
        raise MechanismError(
            f"--task: no family {arguments.task!r}; {choices(arguments.task, tuple(families))}"
        )
    kind = families[arguments.task]
    needed = [
        name
        for name, field in kind.parameters.model_fields.items()
        if field.is_required() and name != "family"
    ]
    if needed:
        raise MechanismError(
            f"--task {arguments.task} needs {', '.join(needed)}: run init with another task, then "
            f"'pytest-mechanism new circuits/mine.yaml --task {arguments.task}'"
        )
    from pytest_mechanism.spec.schema import schema

    spec = folder / "circuits" / f"{arguments.task}.yaml"
    workflow = folder / ".github" / "workflows" / "mechanism.yml"
    package = installed()
    files = {
        folder / "pytest.ini": INI,
        workflow: WORKFLOW.replace("{package}", package),
        folder / "circuits" / SCHEMA: json.dumps(schema(), indent=1) + "\n",
    }
    if has_settings(folder):
        del files[folder / "pytest.ini"]
        say("left as it is: your pytest settings; add to them:")
        for line in INI.splitlines()[1:]:
            say(f"  {line}")
    for path, text in files.items():
        if write_new(path, text) and path == workflow and package == UNKNOWN:
            say(
                f"  write in {path} from where it installs pytest-mechanism; you installed it from a folder"
            )
    if spec.exists():
        say(f"left as it is: {spec}")
    else:
        lines = [
            f"# yaml-language-server: $schema={SCHEMA}",
            "mechanism: 1",
            f"circuit: {arguments.task}",
            f"task: {{family: {arguments.task}}}",
        ]
        trial = load_text(
            spec, "\n".join([*lines, "claims:", "  a: {kind: accuracy, at_least: 0.99}"])
        )
        claims = claim_lines(trial.task, parse_groups(kind, []), 0.5)
        load_text(spec, "\n".join([*lines, *claims]), keep=True)
        say(f"wrote {spec}")
    say("next: put your checkpoints where pytest.ini says, then: pytest-mechanism doctor circuits")
    return 0


def installed() -> str:
    """What pip installs to get this installation of the package: its release, or its commit (PEP 610)."""
    try:
        package = distribution("pytest-mechanism")
        origin = json.loads(package.read_text("direct_url.json") or "{}")
        if not origin:
            return f"pytest-mechanism=={package.version}"
        commit, address = origin["vcs_info"]["commit_id"], urlsplit(origin["url"])
    except (PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return UNKNOWN
    host = address.netloc.rpartition("@")[2]  # a name or a token may stand before it
    if address.scheme != "https" or not re.fullmatch(r"[\w.:-]+", host):
        return UNKNOWN
    if not re.fullmatch(r"[\w./~-]+", address.path) or not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        return UNKNOWN
    return f"'pytest-mechanism @ git+https://{host}{address.path}@{commit}'"


def has_settings(folder: Path) -> bool:
    """Whether pytest finds settings there already."""
    for name in ("pytest.ini", ".pytest.ini", "pytest.toml", "tox.ini", "setup.cfg"):
        if (folder / name).is_file():
            return True
    try:
        return "[tool.pytest" in (folder / "pyproject.toml").read_text("utf-8", errors="replace")
    except OSError:
        return False


def write_new(path: Path, text: str) -> bool:
    """Write a file that does not exist yet, and return whether it was written.

    Raises:
        MechanismError: it cannot be written.
    """
    if path.exists() or path.is_symlink():
        say(f"left as it is: {path}")
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as problem:
        raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
    say(f"wrote {path}")
    return True
