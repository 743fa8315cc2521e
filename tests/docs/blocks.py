"""Runs the code blocks of a Markdown page, so that what the docs say is what happens.

A block is told by the words after its opening fence:

    ```yaml file=first.yaml      written to that file in a folder of the page's own
    ```sh                        commands, one a line, run in that folder one after another
    ```sh exit=2                 the last of them ends with this status (the others with 0)
    ```text output               these lines stand in what the commands before it printed
    ```json                      anything else is only read

``pip install pytest-mechanism`` has been done; ``pytest-mechanism``, ``pytest`` and ``python`` are those of the tests; ``pip install -e FOLDER`` makes the
entry points of the folder's pyproject.toml known, without a network.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the first word after the fence.
        options: the others, ``name=value`` or ``name`` alone.
        text: its lines.
        line: of its fence, counted from 1.
    """

    language: str
    options: Mapping[str, str]
    text: str
    line: int


@dataclass(frozen=True)
class Ran:
    """A command and what came of it."""

    command: str
    line: int
    status: int
    wanted: int
    output: str


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: one is never closed.
    """
    found: list[Block] = []
    lines = iter(enumerate(markdown.splitlines(), 1))
    for number, line in lines:
        opening = FENCE.match(line)
        if not opening:
            continue
        inside: list[str] = []
        for _, each in lines:
            if re.fullmatch(rf" *{opening['fence']}+ *", each):
                break
            inside.append(each.removeprefix(opening["indent"]))
        else:
            raise ValueError(f"line {number}: the block is never closed")
        language, *words = shlex.split(opening["info"]) or [""]
        options = {name: value for name, _, value in (word.partition("=") for word in words)}
        found.append(Block(language, options, "\n".join(inside) + "\n", number))
    return found


def commands(block: Block) -> list[str]:
    """The commands of a console block; comments and blank lines left out, `\\` joins lines."""
    joined = block.text.replace("\\\n", " ")
    return [c.strip() for c in joined.splitlines() if c.strip() and not c.strip().startswith("#")]


def play(page: Path, folder: Path, limit: float = 120) -> Iterator[Ran]:
    """Write the page's files and run its commands in a folder, block after block.

    Args:
        page: the Markdown file.
        folder: an empty one.
        limit: seconds that a command may take.

    Raises:
        AssertionError: a status or an output that the page does not say.
    """
    printed = ""
    for block in blocks(page.read_text("utf-8")):
        where = f"{page.name}:{block.line}"
        if name := block.options.get("file"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif block.language == "sh":
            printed, several = "", commands(block)
            for i, command in enumerate(several):
                last = i == len(several) - 1
                wanted = int(block.options.get("exit", "0")) if last else 0
                status, output = run(command, folder, limit)
                printed += output
                assert status == wanted, f"{where}: {command}: exit {status}\n{output}"
                yield Ran(command, block.line, status, wanted, output)
        elif "output" in block.options:
            for line in block.text.splitlines():
                assert line.strip() in printed, f"{where}: not printed: {line}\n{printed}"


def run(command: str, folder: Path, limit: float) -> tuple[int, str]:
    """Exit status, and what a command printed."""
    if command == "pip install pytest-mechanism":
        return 0, ""  # it is here: otherwise the next command fails
    if command.startswith("pip install -e "):
        install(folder / command.removeprefix("pip install -e ").strip(), folder)
        return 0, ""
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    for name, module in (("pytest-mechanism", "pytest_mechanism.cli"), ("pytest", "pytest")):
        script = tools / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python").chmod(0o755)
    site = folder / ".site"
    paths = [str(ROOT), str(site), *site_paths(site)]
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    for left in [name for name in environment if name.startswith(("PYTEST_", "COV_"))]:
        del environment[left]  # of the run that this is a test of
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def install(project: Path, folder: Path) -> None:
    """What ``pip install -e`` leaves behind: where the modules are, and the entry points."""
    given = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = given["name"].replace("-", "_"), given["version"]
    info = folder / ".site" / f"{name}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {given['name']}\nVersion: {version}\n"
    )
    lines = []
    for group, points in given.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    with (folder / ".site" / "paths").open("a") as paths:
        paths.write(f"{project.resolve()}\n")


def site_paths(site: Path) -> list[str]:
    """Folders of what was installed."""
    listed = site / "paths"
    return listed.read_text().split("\n")[:-1] if listed.exists() else []
