"""Which files are specs: the same answer for ``lint``, for every other command and for pytest.

A spec is a ``*.yaml`` or ``*.yml`` file that looks like one (`is_spec`). A file that looks like a spec and cannot
be read is an error and never ignored; other YAML files are ignored. Folders are searched as pytest searches them.
A spec that pytest would not reach, and that nobody excluded on purpose, is an error too (`unreachable_specs`).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pytest_mechanism.errors import SpecError, visible
from pytest_mechanism.files import BadFile, check_file, open_file
from pytest_mechanism.spec.yaml import ANY_SIZE, MAX_BYTES

if TYPE_CHECKING:
    from pytest_mechanism.spec.spec import Spec

SUFFIXES = (".yaml", ".yml")

OTHER_KEYS = {"circuit", "extends", "applies_to", "task", "groups", "found_on", "ablation"}
"""Keys of a spec that other YAML files may have too."""

TOOLS = {
    ".git", ".hg", ".svn", ".venv", ".tox", ".nox", ".eggs", ".cache", ".direnv", ".dvc",
    ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints",
}  # fmt: skip
"""Hidden folders in which programs keep their own files, some of them copies of others."""

MOST_ENTRIES = 10_000
"""Files of a hidden folder that are searched; a larger folder holds no specs."""

WORDS = re.compile(r"mechanism|claims|circuit|\\[xuU\r\n]")
"""A file without any of these words or escapes is no spec."""

KEYISH = re.compile(r"(?:mechan\w*|claims)[\"']?(?:\s|#[^\n]*\n)*:|\\[xuU\r\n]")
"""A key that may make a file a spec."""

KEY = re.compile(r"^([ \t]*)(?:\?[ \t]+)?[\"']?([A-Za-z_]+)[\"']?[ \t]*:", re.MULTILINE)


@dataclass(frozen=True)
class UnreachableSpec:
    """A spec that pytest does not reach.

    Attributes:
        path: the file.
        problem: why pytest does not reach it, and what to do.
    """

    path: Path
    problem: str


def named_as_spec(path: Path) -> bool:
    """Whether a file has a suffix of specs."""
    return path.suffix.lower() in SUFFIXES


def is_spec(path: Path) -> bool:
    """Whether a file is a spec, or was meant as one. Reads only its beginning."""
    if not named_as_spec(path):
        return False
    try:
        with open_file(path, ANY_SIZE) as file:
            return looks_like_spec(file.read(MAX_BYTES))
    except (BadFile, OSError):
        return False


def looks_like_spec(raw: bytes) -> bool:
    """Whether text has ``mechanism`` or ``claims`` among the keys of its outermost mapping.

    A file whose first key the parser reads as ``mechanism`` is a spec by definition. No other file is a valid
    spec; for these, the answer is whether the author meant one.
    """
    if b"\0" in raw[:64]:  # UTF-16 or 32, which is invalid; without NULs its keys are readable
        raw = raw.replace(b"\0", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    text = raw.decode("utf-8-sig", "replace")
    if WORDS.search(text) is None:
        return False
    if _first_key(text) == "mechanism":
        return True
    if KEYISH.search(text) is None:
        return False
    return _is_meant(_all_keys(text), text)


def _first_key(text: str) -> str | None:
    """The first key as the parser of specs (`spec.yaml`) reads it."""
    with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError):
        inside = False
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if inside:
                return event.value if isinstance(event, yaml.ScalarEvent) else None
            inside = isinstance(event, yaml.MappingStartEvent)
            if not inside and not isinstance(
                event, (yaml.StreamStartEvent, yaml.DocumentStartEvent)
            ):
                return None
    return None


def _is_meant(keys: list[str], text: str) -> bool:
    """Whether the author of a file with these keys meant a spec."""
    if "mechanism" in keys:
        return True
    others = not OTHER_KEYS.isdisjoint(keys)
    misspelt = bool(difflib.get_close_matches("mechanism", keys, cutoff=0.75))
    if "claims" in keys:
        return others or misspelt or re.search(r"\bkind\b", text) is not None
    return misspelt and others


def _all_keys(text: str) -> list[str]:
    """Keys of the outermost mapping of each document; a guess for text that is no valid YAML."""
    keys: list[str] = []
    if not _add_keys(text, keys):
        lines = [(len(match[1]), match[2]) for match in KEY.finditer(text)]
        least = min((indent for indent, _ in lines), default=0)
        keys += [key for indent, key in lines if indent == least]
        keys += [key for _, key in lines[:1]]  # its indent may be the mistake
    return keys


def _add_keys(text: str, keys: list[str]) -> bool:
    """Add the keys of the outermost mapping of each document; False if the text is no valid YAML."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    depth, is_key, is_list = 0, False, False
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                depth += 1
                if depth == 1:
                    is_list = isinstance(event, yaml.SequenceStartEvent)
                    is_key = not is_list
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                depth -= 1
                if depth == 1 and not is_list:
                    is_key = not is_key
            elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)) and depth == 1:
                if is_key and isinstance(event, yaml.ScalarEvent):
                    keys.append(event.value)
                is_key = not is_key and not is_list
    except (yaml.YAMLError, ValueError, OverflowError):
        return False
    return True


# -- a file


def read_spec(path: Path, shown: Path | None = None, root: Path | None = None) -> Spec:
    """Read and validate a spec as ``lint`` and pytest do.

    Args:
        path: the file.
        shown: how errors name it.
        root: folder above which names are not checked.

    Raises:
        SpecErrors: the spec is invalid.
        SpecError: the file cannot be a spec where it is, or is not readable YAML.
    """
    shown = shown or path
    if not named_as_spec(path):
        raise SpecError(f"a spec's name ends with {' or '.join(SUFFIXES)}", f"{shown}:1")
    if not is_printable(path, root):
        raise SpecError(
            "the path of this spec has characters that are not printable; rename it",
            f"{shown}:1",
        )
    if (twin := twin_of(path)) is not None:
        raise SpecError(
            f"{twin.name} has the same name but for the suffix, so both would keep their accepted scores in "
            f"{path.stem}.json; rename one",
            f"{shown}:1",
        )
    # the models of a spec, which other files do not need
    from pytest_mechanism.spec.load import load

    return load(path, shown)


def is_printable(path: Path, root: Path | None) -> bool:
    """Whether a path below ``root`` has no characters that a terminal would act on."""
    full = path.absolute()
    if root is not None and full.is_relative_to(root):
        full = full.relative_to(root)
    return full.as_posix().isprintable()


def twin_of(path: Path) -> Path | None:
    """Another spec with the same name but for the suffix."""
    try:
        files = sorted(path.parent.iterdir())
    except OSError:
        return None
    twins = (file for file in files if file.stem == path.stem and file.name != path.name)
    return next((twin for twin in twins if is_spec(twin)), None)


# -- folders


def unreachable_specs(
    folder: Path, specs_here: bool, skipped: Callable[[Path], bool]
) -> Iterator[UnreachableSpec]:
    """Specs directly in a folder or in its hidden folders that pytest would not collect.

    Args:
        folder: a folder that pytest searches.
        specs_here: whether the folder, or one above it, holds specs: only there, a dangling link with a
            spec's suffix is a lost spec.
        skipped: whether pytest skips a folder although nobody excluded it on purpose.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return
    for name in names:
        path = folder / name
        if specs_here and named_as_spec(path) and not path.is_dir():
            try:
                check_file(path, ANY_SIZE)
                if not os.access(path, os.R_OK):
                    yield UnreachableSpec(path, "cannot be read: Permission denied")
            except BadFile as problem:
                yield UnreachableSpec(path, problem.problem)
            except OSError as problem:
                yield UnreachableSpec(path, f"cannot be read: {problem.strerror}")
        elif name.startswith(".") and name not in TOOLS and path.is_dir() and skipped(path):
            for spec in _inside(path):
                yield UnreachableSpec(
                    spec,
                    "is a spec in a hidden folder, where pytest does not search (norecursedirs); move "
                    f"it, name {visible(name)} on the command line, or exclude it with --ignore",
                )


def _inside(folder: Path) -> Iterator[Path]:
    """Specs at any depth of a folder that pytest does not search."""
    entries = 0
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in TOOLS)
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        entries += len(folders) + len(files)
        if entries > MOST_ENTRIES:
            return
        yield from (path for path in (Path(here, name) for name in sorted(files)) if is_spec(path))


def specs_below(
    folder: Path,
    ignored: Callable[[Path], bool],
    excluded: Callable[[Path], bool],
    specs_above: bool = False,
    parents: frozenset[Path] = frozenset(),
) -> Iterator[Path | UnreachableSpec]:
    """The specs of a folder that pytest finds, and those that it does not reach.

    Args:
        folder: the folder to search.
        ignored: whether pytest ignores a path.
        excluded: whether somebody excluded a path on purpose.
        specs_above: whether a folder above holds specs.
        parents: real folders above, so that a link to one of them is not followed.
    """
    real = folder.resolve()
    if real in parents:
        return
    paths = [path for path in sorted(folder.iterdir()) if not ignored(path)]
    specs = {path for path in paths if named_as_spec(path) and path.is_file() and is_spec(path)}
    specs_here = specs_above or bool(specs)
    for path in paths:
        if path in specs:
            yield path
        elif path.is_dir():
            yield from specs_below(path, ignored, excluded, specs_here, parents | {real})
    yield from unreachable_specs(
        folder, specs_here, lambda path: ignored(path) and not excluded(path)
    )
