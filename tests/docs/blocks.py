"""Runs the code blocks of a Markdown page, so that what the docs say is what happens.

The words after a block's opening fence say what to do with the block:

    ```yaml file=first.yaml      write it to that file in the page's folder
    ```sh                        run its lines as commands in that folder, in order
    ```sh exit=2                 the last command must exit with 2, the others with 0
    ```text output               the commands of the last sh block must have printed these lines
    ```json                      all other blocks: do nothing

``pytest-mechanism``, ``pytest`` and ``python`` are those of the tests, so an installation from
a clone (``pip install -c constraints.txt``) does nothing. ``pip install -e FOLDER`` registers the entry
points of the folder's pyproject.toml without a network.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import warm_python

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the first word after the fence.
        options: the other words, ``name=value`` or ``name`` alone.
        text: the lines between the fences.
        line: the line number of the opening fence, counted from 1.
    """

    language: str
    options: Mapping[str, str]
    text: str
    line: int


@dataclass(frozen=True)
class CommandResult:
    """A command that ran, and its result."""

    command: str
    line: int
    status: int
    wanted: int
    output: str


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: a block is never closed.
    """
    page_blocks: list[Block] = []
    lines = iter(enumerate(markdown.splitlines(), 1))
    for number, line in lines:
        opening = FENCE.match(line)
        if not opening:
            continue
        inside: list[str] = []
        for _, inner in lines:
            if re.fullmatch(rf" *{opening['fence']}+ *", inner):
                break
            inside.append(inner.removeprefix(opening["indent"]))
        else:
            raise ValueError(f"line {number}: the block is never closed")
        language, *words = shlex.split(opening["info"]) or [""]
        options = {name: value for name, _, value in (word.partition("=") for word in words)}
        page_blocks.append(Block(language, options, "\n".join(inside) + "\n", number))
    return page_blocks


def commands(block: Block) -> list[str]:
    """The commands of a console block, without comments and blank lines; `\\` joins lines."""
    joined = block.text.replace("\\\n", " ")
    return [c.strip() for c in joined.splitlines() if c.strip() and not c.strip().startswith("#")]


def run_page(page: Path, folder: Path, limit: float = 120) -> Iterator[CommandResult]:
    """Write the page's files and run its commands in a folder, block after block.

    Args:
        page: the Markdown file.
        folder: an empty folder.
        limit: seconds that a command may take.

    Raises:
        AssertionError: a command's status or output differs from the page.
    """
    printed = ""
    for block in blocks(page.read_text("utf-8")):
        where = f"{page.name}:{block.line}"
        if name := block.options.get("file"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif block.language == "sh":
            printed, lines = "", commands(block)
            for i, command in enumerate(lines):
                last = i == len(lines) - 1
                wanted = int(block.options.get("exit", "0")) if last else 0
                status, output = run(command, folder, limit)
                printed += output
                assert status == wanted, f"{where}: {command}: exit {status}\n{output}"
                yield CommandResult(command, block.line, status, wanted, output)
        elif "output" in block.options:
            for line in block.text.splitlines():
                assert line.strip() in printed, f"{where}: not printed: {line}\n{printed}"


def run(command: str, folder: Path, limit: float) -> tuple[int, str]:
    """A command's exit status and output."""
    if command.startswith("pip install -c constraints.txt "):
        return 0, ""  # the tests run in an environment that has it
    if command.startswith("pip install -e "):
        install(folder / command.removeprefix("pip install -e ").strip(), folder)
        return 0, ""
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    for name, module in (("pytest-mechanism", "pytest_mechanism.cli"), ("pytest", "pytest")):
        warm_python.script(tools / name, "-m", module)
    warm_python.script(tools / "python")
    site = folder / ".site"
    paths = [str(ROOT), str(site), *site_paths(site)]
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    for name in [name for name in environment if name.startswith(("PYTEST_", "COV_"))]:
        del environment[name]  # they belong to the test run, not to the command
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def install(project: Path, folder: Path) -> None:
    """Write what ``pip install -e`` writes: the path of the modules and the entry points."""
    project_table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project_table["name"].replace("-", "_"), project_table["version"]
    info = folder / ".site" / f"{name}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project_table['name']}\nVersion: {version}\n"
    )
    lines = []
    for group, points in project_table.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    with (folder / ".site" / "paths").open("a") as paths:
        paths.write(f"{project.resolve()}\n")


def site_paths(site: Path) -> list[str]:
    """The folders of installed packages."""
    paths = site / "paths"
    return paths.read_text().split("\n")[:-1] if paths.exists() else []
