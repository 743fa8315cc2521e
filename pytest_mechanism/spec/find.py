"""Which files are specs: one answer for ``lint``, for every other command and for pytest.

A spec is a ``*.yaml`` or ``*.yml`` file that looks like one (`is_spec`): one that can be read is a spec,
and one that cannot be read is an error, never passed over. Other YAML in the same tree is left alone.
A folder is searched as pytest searches it; what pytest would not reach and nobody left out on purpose
is an error too (`strays`).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pytest_mechanism.errors import SpecError, visible
from pytest_mechanism.files import BadFile, check_file, open_file
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.yaml import ANY_SIZE, MAX_BYTES

SUFFIXES = (".yaml", ".yml")

OTHER_KEYS = {"circuit", "extends", "applies_to", "task", "groups", "found_on", "ablation"}
"""Keys of a spec that other YAML may have as well."""

TOOLS = {
    ".git", ".hg", ".svn", ".venv", ".tox", ".nox", ".eggs", ".cache", ".direnv", ".dvc",
    ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints",
}  # fmt: skip
"""Hidden folders in which programs keep what is theirs, copies of other files among it."""

MOST_ENTRIES = 10_000
"""Of a hidden folder that are looked at; one with more is no place for specs."""

WORDS = re.compile(r"mechanism|claims|circuit|\\[xuU\r\n]")
"""What the keys of a spec are written with: as they are, or with escapes."""

KEYISH = re.compile(r"(?:mechan\w*|claims)[\"']?(?:\s|#[^\n]*\n)*:|\\[xuU\r\n]")
"""Where a key may be that makes a file a spec."""

KEY = re.compile(r"^([ \t]*)(?:\?[ \t]+)?[\"']?([A-Za-z_]+)[\"']?[ \t]*:", re.MULTILINE)


@dataclass(frozen=True)
class Stray:
    """A file that pytest does not reach and that may not go without a word.

    Attributes:
        path: the file.
        wrong: why it cannot stay so.
    """

    path: Path
    wrong: str


def named_as_spec(path: Path) -> bool:
    """Whether a spec may have this name."""
    return path.suffix.lower() in SUFFIXES


def is_spec(path: Path) -> bool:
    """Whether a file is a spec, or was meant as one. Reads its beginning alone."""
    if not named_as_spec(path):
        return False
    try:
        with open_file(path, ANY_SIZE) as file:
            return looks_like_spec(file.read(MAX_BYTES))
    except (BadFile, OSError):
        return False


def looks_like_spec(raw: bytes) -> bool:
    """Whether text has ``mechanism`` or ``claims`` among the keys of its outermost mapping.

    What the parser of specs reads as a first key ``mechanism`` is a spec by definition. Anything else
    is none that can be read: there the answer is whether somebody meant one.
    """
    if b"\0" in raw[:64]:  # UTF-16 or 32, which specs may not be in; its keys can be read like this
        raw = raw.replace(b"\0", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    text = raw.decode("utf-8-sig", "replace")
    if WORDS.search(text) is None:
        return False
    if _first_key(text) == "mechanism":
        return True
    if KEYISH.search(text) is None:
        return False
    return _meant(_all_keys(text), text)


def _first_key(text: str) -> str | None:
    """As the parser of specs reads it (`spec.yaml`)."""
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


def _meant(keys: list[str], text: str) -> bool:
    """Whether a file with these keys was to be a spec."""
    if "mechanism" in keys:
        return True
    others = not OTHER_KEYS.isdisjoint(keys)
    misspelt = bool(difflib.get_close_matches("mechanism", keys, cutoff=0.75))
    if "claims" in keys:
        return others or misspelt or re.search(r"\bkind\b", text) is not None
    return misspelt and others


def _all_keys(text: str) -> list[str]:
    """Keys of the outermost mapping of each document, as far as they can be told."""
    found: list[str] = []
    if not _keys(text, found):
        lines = [(len(match[1]), match[2]) for match in KEY.finditer(text)]
        least = min((indent for indent, _ in lines), default=0)
        found += [key for indent, key in lines if indent == least]
        found += [key for _, key in lines[:1]]  # its indent may be what is wrong
    return found


def _keys(text: str, found: list[str]) -> bool:
    """Add the keys of the outermost mapping of each document; whether all of it could be read."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    depth, key_next, listed = 0, False, False
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                depth += 1
                if depth == 1:
                    listed = isinstance(event, yaml.SequenceStartEvent)
                    key_next = not listed
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                depth -= 1
                if depth == 1 and not listed:
                    key_next = not key_next
            elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)) and depth == 1:
                if key_next and isinstance(event, yaml.ScalarEvent):
                    found.append(event.value)
                key_next = not key_next and not listed
    except (yaml.YAMLError, ValueError, OverflowError):
        return False
    return True


# -- a file


def read_spec(path: Path, shown: Path | None = None, root: Path | None = None) -> Spec:
    """A spec, or everything that keeps it from being collected.

    Args:
        path: the file.
        shown: how errors name it.
        root: names above it do not matter.

    Raises:
        SpecErrors: with every problem found.
        SpecError: the file cannot be a spec where it is, or is no readable YAML.
    """
    shown = shown or path
    if not named_as_spec(path):
        raise SpecError(f"a spec's name ends with {' or '.join(SUFFIXES)}", f"{shown}:1")
    if hides(path, root):
        raise SpecError(
            "a name on the way to this spec has characters that do not show; give it another",
            f"{shown}:1",
        )
    if (twin := twin_of(path)) is not None:
        raise SpecError(
            f"{twin.name} stands beside it, and both would keep their accepted scores in "
            f"{path.stem}.json; rename one",
            f"{shown}:1",
        )
    return load(path, shown)


def hides(path: Path, root: Path | None) -> bool:
    """Whether a path below ``root`` has characters that a terminal would act on."""
    full = path.absolute()
    if root is not None and full.is_relative_to(root):
        full = full.relative_to(root)
    return not full.as_posix().isprintable()


def twin_of(path: Path) -> Path | None:
    """Another spec of the same name but for the suffix."""
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return None
    twins = (each for each in beside if each.stem == path.stem and each.name != path.name)
    return next((twin for twin in twins if is_spec(twin)), None)


# -- folders


def strays(folder: Path, specs_here: bool, skipped: Callable[[Path], bool]) -> Iterator[Stray]:
    """What is in a folder, is not collected, and may not go without a word.

    Args:
        folder: that pytest searches.
        specs_here: whether it, or one above it, holds specs: only there is a link to nowhere one that
            was lost, and not somebody else's.
        skipped: whether pytest passes over a folder although nobody left it out on purpose.
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
                    yield Stray(path, "cannot be read: Permission denied")
            except BadFile as problem:
                yield Stray(path, problem.problem)
            except OSError as problem:
                yield Stray(path, f"cannot be read: {problem.strerror}")
        elif name.startswith(".") and name not in TOOLS and path.is_dir() and skipped(path):
            for spec in _inside(path):
                yield Stray(
                    spec,
                    "is a spec in a hidden folder, where pytest does not look (norecursedirs); move "
                    f"it, name {visible(name)} on the command line, or leave that out with --ignore",
                )


def _inside(folder: Path) -> Iterator[Path]:
    """Specs at any depth of a folder that pytest does not search."""
    seen = 0
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in TOOLS)
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        seen += len(folders) + len(files)
        if seen > MOST_ENTRIES:
            return
        yield from (path for path in (Path(here, name) for name in sorted(files)) if is_spec(path))


def specs_below(
    folder: Path,
    ignored: Callable[[Path], bool],
    left_out: Callable[[Path], bool],
    specs_above: bool = False,
    links: frozenset[Path] = frozenset(),
) -> Iterator[Path | Stray]:
    """Specs and strays of a folder, as pytest finds them in it.

    Args:
        folder: to be searched.
        ignored: whether pytest passes over a path.
        left_out: whether somebody left a path out on purpose.
        specs_above: whether a folder above holds specs.
        links: real folders on the way here, so that a link to one of them ends.
    """
    real = folder.resolve()
    if real in links:
        return
    paths = [path for path in sorted(folder.iterdir()) if not ignored(path)]
    specs = {path for path in paths if named_as_spec(path) and path.is_file() and is_spec(path)}
    specs_here = specs_above or bool(specs)
    for path in paths:
        if path in specs:
            yield path
        elif path.is_dir():
            yield from specs_below(path, ignored, left_out, specs_here, links | {real})
    yield from strays(folder, specs_here, lambda path: ignored(path) and not left_out(path))
