"""``extends: other.yaml``: task, groups and ablation shared between specs, one level deep."""

from __future__ import annotations

from pathlib import Path

from pytest_mechanism.errors import choices
from pytest_mechanism.spec.explain import short
from pytest_mechanism.spec.yaml import Document, read

TOLERANCES = ("atol", "drift")
"""Keys that hold for every claim which does not set its own."""

SHARED = ("applies_to", "task", "groups", "found_on", "ablation", "confidence", *TOLERANCES)
"""What is taken over where the extending file is silent."""


def extended(document: Document, path: Path) -> Document:
    """Task, groups and so on from another file, one level deep."""
    if not isinstance(document.value, dict) or "extends" not in document.value:
        return document
    name = document.value["extends"]
    if not isinstance(name, str):
        raise document.error("extends takes the name of a spec beside this one", ("extends",))
    try:
        other = (path.parent / name).resolve()
        inside, exists = other.is_relative_to(path.parent.resolve()), other.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, a loop of links
        raise document.error(
            f"extends: {short(name)} cannot be the name of a file", ("extends",)
        ) from None
    # a spec reaches its own folder and no further
    if not inside:
        raise document.error(f"extends: {name} lies outside this spec's folder", ("extends",))
    if not exists:
        here = [p.name for p in path.parent.glob("*.y*ml") if p != path]
        raise document.error(f"extends: no file {name}; {choices(name, here)}", ("extends",))
    parent = read(other, document.path.parent / name)
    if not isinstance(parent.value, dict):
        raise document.error(f"extends: {name} is no spec", ("extends",))
    if "extends" in parent.value:
        raise document.error(
            f"extends: {name} extends another spec itself; one level", ("extends",)
        )
    taken = {k: parent.value[k] for k in SHARED if k in parent.value and k not in document.value}
    # a part that came from elsewhere is blamed on the line that brought it in
    lines = dict(document.lines) | {(k,): document.line(("extends",)) for k in taken}
    value = {k: v for k, v in document.value.items() if k != "extends"} | taken
    return Document(document.path, value, lines, document.text)
