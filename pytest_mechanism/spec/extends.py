"""``extends: other.yaml``: task, groups and ablation shared between specs, one level deep."""

from __future__ import annotations

from pathlib import Path

from pytest_mechanism.errors import choices
from pytest_mechanism.spec.explain import short
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.spec.yaml import Document, read


def extended(document: Document, path: Path) -> Document:
    """A spec with the keys that it takes over from the one that it extends."""
    if not isinstance(document.value, dict) or "extends" not in document.value:
        return document
    name = document.value["extends"]
    if not isinstance(name, str):
        raise document.error("extends: must be the name of a spec in the same folder", ("extends",))
    try:
        other = (path.parent / name).resolve()
        inside, exists = other.is_relative_to(path.parent.resolve()), other.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, a loop of links
        raise document.error(
            f"extends: {short(name)} cannot be the name of a file", ("extends",)
        ) from None
    # a spec may only read files below its own folder
    if not inside:
        raise document.error(f"extends: {name} lies outside this spec's folder", ("extends",))
    if not exists:
        here = [p.name for p in path.parent.glob("*.y*ml") if p != path]
        raise document.error(f"extends: no file {name}; {choices(name, here)}", ("extends",))
    parent = read(other, document.path.parent / name)
    if not isinstance(parent.value, dict):
        raise document.error(f"extends: {name} is not a spec", ("extends",))
    if "extends" in parent.value:
        raise document.error(
            f"extends: {name} extends another spec itself; only one level is allowed", ("extends",)
        )
    shared = [key for key in Spec.model_fields if key not in Spec.OWN]
    taken = {k: parent.value[k] for k in shared if k in parent.value and k not in document.value}
    # errors in a shared part point at the line of extends
    lines = dict(document.lines) | {(k,): document.line(("extends",)) for k in taken}
    value = {k: v for k, v in document.value.items() if k != "extends"} | taken
    return Document(document.path, value, lines, document.text)
